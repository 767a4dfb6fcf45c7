package e2e

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"keelson/internal/lineage"
)

// roundMax is how long agents are killed before all run again, and everything that can be compared then is.
const roundMax = 45 * time.Second

// rounds are as long as -kill-minutes together.
func rounds() (n int, each time.Duration) {
	all := time.Duration(*killMinutes * float64(time.Minute))
	n = int((all + roundMax - 1) / roundMax)
	return max(n, 1), all / time.Duration(max(n, 1))
}

// Agents are killed at random moments, under load from a follower, concurrent readers and writers and fio; a careful
// administrator switches over and takes over. Every answered write is there, every block was linearizable, there is never a
// split brain, no resync compares or copies everything, and in the end all copies are the same. -kill-minutes=10 is the
// long form.
func TestKillsCareful(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := demo(t, "128MiB")
	x := newChaos(c, seed)
	f := follow(c, 0, 16*mib, seed)
	h := record(c, 32*mib, 8*mib, seed)
	n, each := rounds()
	source, salvages := "a", 0
	for round := range n {
		job := []string{"--rw=randwrite", "--bs=8k", "--offset=64m", "--size=16m", "--iodepth=8", "--verify=crc32c", fmt.Sprintf("--randseed=%d", round+1)} // 2048 writes
		x.tell("round %d: fio at %s while its targets are killed", round+1, source)
		x.fioWhile(each/4, source, append(job, "--do_verify=1", fmt.Sprintf("--rate_iops=%d", 2048/max(1, int(each/4/time.Second))))...)
		x.tell("round %d: every agent may be killed", round+1)
		x.killFor(each-each/4, c.nodes, x.careful(seed))
		x.unlimited()
		source = c.waitOneSource()
		salvages += c.takeSalvages(func(string, int64, []byte) {}) // what was on its way when a source died; looked at, and deleted
		x.tell("round %d: at rest, source %s, %d salvages so far", round+1, source, salvages)
		c.fio(source, append(job, "--verify_only=1")...)
		f.waitAnswers(20)
		c.never(lineage.RuleFullAsked, lineage.RuleForeignContent, lineage.RuleSplitBrain)
		if t.Failed() {
			break
		}
	}
	f.stop()
	f.verify()
	ops := h.stop()
	answered, torn := 0, 0
	for _, o := range ops {
		if o.answered {
			answered++
		}
		if o.torn != "" {
			torn++
		}
	}
	checking := time.Now()
	early, err := linearizable(ops)
	if err != nil {
		t.Errorf("history: %v", err)
	}
	c.same()
	t.Logf("%d kills, %d planned switchovers, %d forced take-overs, %d times waited, %d commands refused, %d salvages; history: %d requests of %d blocks, %d answered, %d mixtures, %d blocks with lost writes that were read before their answer, checked in %s; %s in all",
		x.kills, x.planned, len(c.logged(lineage.RuleForced)), x.waited, x.refused, salvages, len(ops), h.blocks, answered, torn, early, time.Since(checking).Round(time.Millisecond), time.Since(x.begin).Round(time.Second))
}

// fioWhile runs fio's job at the source while its targets are killed.
func (x *chaos) fioWhile(d time.Duration, source string, job ...string) {
	x.c.t.Helper()
	var fio sync.WaitGroup
	var err error
	fio.Go(func() { err = x.c.fioJob(source, job...) })
	x.killFor(d, x.c.others(source), x.idle)
	fio.Wait()
	if err != nil {
		x.c.t.Fatal(err)
	}
}

// Agents are killed at random moments, and a careless administrator forces take-overs and ends split brains at random. Whatever was
// answered is on the volume, or in a salvage, or was replaced by a later write where it was; no resync compares or copies
// everything, and in the end all copies are the same.
func TestKillsCareless(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := demo(t, "128MiB")
	x := newChaos(c, seed)
	x.alone = true
	a := descend(c, 0, 8*mib, seed)
	found := map[uint64]bool{}
	n, each := rounds()
	salvages := 0
	for round := range n {
		x.tell("round %d: every agent may be killed", round+1)
		x.killFor(each, c.nodes, x.careless(seed))
		x.settle(seed)
		salvages += c.takeSalvages(func(_ string, off int64, data []byte) { a.collect(off, data, found) })
		x.tell("round %d: at rest, %d salvages so far", round+1, salvages)
		c.never(lineage.RuleFullAsked, lineage.RuleForeignContent)
		if t.Failed() {
			break
		}
	}
	a.stop()
	kept := len(found)
	maps.Copy(found, a.volume())
	missing := lost(a.deeds, found)
	slices.Sort(missing)
	for _, stamp := range missing[:min(len(missing), 20)] {
		d := a.deeds[stamp]
		t.Errorf("write %d of block %d, in place of %d, was answered at %s and is neither on the volume nor in a salvage", stamp, d.block, d.parent, d.at.UTC().Format("15:04:05.000"))
	}
	if len(missing) > 0 {
		t.Errorf("%d answered writes are lost in all", len(missing))
	}
	c.same()
	t.Logf("%d kills, %d planned switchovers, %d forced take-overs, %d split brains noted, %d times resolved, %d commands refused; %d salvages with %d writes; %d writes answered, %d not, %d connects; %s in all",
		x.kills, x.planned, len(c.logged(lineage.RuleForced)), len(c.logged(lineage.RuleSplitBrain)), x.resolved, x.refused, salvages, kept, a.answered.Load(), a.unanswered.Load(), a.connects.Load(), time.Since(x.begin).Round(time.Second))
}

// The check of the careless run itself.
func TestAncestryChecker(t *testing.T) {
	deeds := map[uint64]deed{
		1: {answered: true}, 2: {parent: 1, answered: true}, // replaced by 3, which was not answered
		3: {parent: 2}, 4: {parent: 2, answered: true}, // another side went on from 2
	}
	for _, test := range []struct {
		found, want []uint64
	}{
		{[]uint64{3, 4}, nil}, {[]uint64{4}, nil}, {[]uint64{3}, []uint64{4}}, {[]uint64{2}, []uint64{4}},
		{[]uint64{1}, []uint64{2, 4}}, {[]uint64{0}, []uint64{1, 2, 4}},
	} {
		found := map[uint64]bool{}
		for _, stamp := range test.found {
			found[stamp] = true
		}
		got := lost(deeds, found)
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("found %v: lost %v, not %v", test.found, got, test.want)
		}
	}
}
