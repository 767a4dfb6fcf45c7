package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// checkMax is how long the check of one block may take.
const checkMax = 60 * time.Second

// register is one block: a write changes its stamp, a read sees it.
var register = porcupine.Model{
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		if o := input.(op); o.write {
			return true, o.stamp
		}
		return output == state, state
	},
	Equal: func(a, b any) bool { return a == b },
	Hash:  func(s any) uint64 { return s.(uint64) * 0x9E3779B97F4A7C15 },
}

// linearizable returns an error unless every block behaved as one register: each answered request took effect at one
// moment between its call and its answer, and each unanswered write at one moment after its call, or never.
//
// One thing is allowed besides, as with a disk's cache: a read at the same time as a write may see it although the source
// then dies before it has answered the write, and the write is lost. early is how many blocks needed that.
func linearizable(ops []op) (early int, err error) {
	blocks := map[int][]op{}
	for _, o := range ops {
		blocks[o.block] = append(blocks[o.block], o)
	}
	for _, block := range slices.Sorted(maps.Keys(blocks)) {
		ops := blocks[block]
		if err := linearizableBlock(ops); err != nil {
			if linearizableBlock(withoutEarly(ops)) != nil {
				return early, err
			}
			early++
		}
	}
	return early, nil
}

// withoutEarly leaves out the reads of writes that were under way then, and never got an answer.
func withoutEarly(ops []op) []op {
	unanswered := map[uint64]op{}
	for _, o := range ops {
		if o.write && !o.answered {
			unanswered[o.stamp] = o
		}
	}
	return slices.DeleteFunc(slices.Clone(ops), func(o op) bool {
		w, is := unanswered[o.stamp]
		return is && !o.write && o.call <= w.ret && w.call <= o.ret
	})
}

func linearizableBlock(ops []op) error {
	slices.SortFunc(ops, func(a, b op) int { return cmp.Compare(a.ret, b.ret) })
	if err := tornExplained(ops); err != nil {
		return err
	}
	result := verdict(ops)
	if result == porcupine.Ok {
		return nil
	}
	if result == porcupine.Unknown {
		return fmt.Errorf("block %d: its %d requests could not be checked within %s", ops[0].block, len(ops), checkMax)
	}
	// Every beginning of a linearizable history is one: the first answer that cannot be is found by bisection.
	bad := sort.Search(len(ops), func(n int) bool { return verdict(knownAt(ops, ops[n].ret)) == porcupine.Illegal })
	bad = min(bad, len(ops)-1)
	var text strings.Builder
	for _, o := range ops[max(0, bad-30):bad] {
		fmt.Fprintf(&text, "\n  %s", o)
	}
	return fmt.Errorf("block %d is no register: nothing explains\n  %s\nafter (by time of answer, at most 30)%s", ops[0].block, ops[bad], text.String())
}

// knownAt is the history as it was known at that moment: what was answered later had no answer yet.
func knownAt(ops []op, at time.Duration) []op {
	var out []op
	for _, o := range ops {
		if o.call > at {
			continue
		}
		if o.ret > at {
			o.answered, o.ret = false, at
		}
		out = append(out, o)
	}
	return out
}

// verdict asks porcupine. Requests that say nothing are left out: reads without an answer; reads of a mixture; and
// writes without an answer that no read saw, since they may be done after everything else. One that was seen was done
// before the answer of the first read that saw it.
func verdict(ops []op) porcupine.CheckResult {
	seen := map[uint64]time.Duration{}
	for _, o := range ops {
		if at, ok := seen[o.stamp]; !o.write && o.answered && o.torn == "" && (!ok || o.ret < at) {
			seen[o.stamp] = o.ret
		}
	}
	var history []porcupine.Operation
	for _, o := range ops {
		if !o.answered || o.torn != "" {
			at, ok := seen[o.stamp]
			if !o.write || !ok {
				continue
			}
			if at < o.call {
				return porcupine.Illegal // read before it was written
			}
			o.ret = at
		}
		history = append(history, porcupine.Operation{ClientId: o.client, Input: o, Output: o.stamp, Call: int64(o.call), Return: int64(o.ret)})
	}
	return porcupine.CheckOperationsTimeout(register, history, checkMax)
}

// tornExplained: a block device is one register for each sector at most, so a read may see a mixture while a write of that block
// is under way, and only then.
func tornExplained(ops []op) error {
	for _, r := range ops {
		if r.torn == "" {
			continue
		}
		if !slices.ContainsFunc(ops, func(w op) bool { return w.write && w.call <= r.ret && r.call <= w.ret }) {
			return fmt.Errorf("nobody wrote meanwhile: %s", r)
		}
	}
	return nil
}

// The checker itself: what it has to accept and what it has to find.
func TestHistoryChecker(t *testing.T) {
	at := func(call, ret int, o op) op {
		o.call, o.ret = time.Duration(call), time.Duration(ret)
		return o
	}
	write := func(stamp uint64) op { return op{write: true, stamp: stamp, answered: true} }
	lost := func(stamp uint64) op { return op{write: true, stamp: stamp} }
	read := func(stamp uint64) op { return op{stamp: stamp, answered: true} }
	torn := op{answered: true, torn: "1 2"}
	tests := []struct {
		name string
		ok   bool
		ops  []op
	}{
		{"in order", true, []op{at(0, 1, write(1)), at(2, 3, read(1)), at(4, 5, write(2)), at(6, 7, read(2))}},
		{"an answered write is lost", false, []op{at(0, 1, write(1)), at(2, 3, write(2)), at(4, 5, read(1))}},
		{"all is lost", false, []op{at(0, 1, write(1)), at(2, 3, read(0))}},
		{"a stale read", false, []op{at(0, 1, write(1)), at(2, 9, write(2)), at(3, 4, read(2)), at(5, 6, read(1))}},
		{"at the same time, either", true, []op{at(0, 1, write(1)), at(2, 9, write(2)), at(3, 4, read(1)), at(5, 6, read(2))}},
		{"an unanswered write is never done", true, []op{at(0, 1, write(1)), at(2, 3, lost(2)), at(4, 5, read(1))}},
		{"an unanswered write is done late", true, []op{at(0, 1, write(1)), at(2, 3, lost(2)), at(4, 5, read(1)), at(6, 7, read(2))}},
		{"an unanswered write is done and undone", false, []op{at(0, 1, write(1)), at(2, 3, lost(2)), at(4, 5, read(2)), at(6, 7, read(1))}},
		{"an unanswered write over a later one", true, []op{at(2, 3, lost(2)), at(4, 5, write(3)), at(6, 7, read(2))}},
		{"read before it is written", false, []op{at(0, 1, read(1)), at(2, 3, lost(1))}},
		{"content of nobody", false, []op{at(0, 1, write(1)), at(2, 3, read(7))}},
		{"a mixture while it is written", true, []op{at(0, 1, write(1)), at(2, 5, write(2)), at(3, 4, torn)}},
		{"an unanswered write is read while it is under way, and lost", true, []op{at(0, 1, write(1)), at(2, 6, lost(2)), at(3, 4, read(2)), at(7, 8, read(1))}},
		{"an unanswered write is read later too, and lost", false, []op{at(0, 1, write(1)), at(2, 6, lost(2)), at(3, 4, read(2)), at(7, 8, read(2)), at(9, 10, read(1))}},
		{"a mixture that stays", false, []op{at(0, 1, write(1)), at(2, 3, write(2)), at(4, 5, torn)}},
	}
	for _, test := range tests {
		if _, err := linearizable(test.ops); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
