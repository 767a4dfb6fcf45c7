package volume

import (
	"fmt"
	"time"
)

// few reports that fewer copies than rule 18 wants can hold a write now: this one, unless its disk failed, those of sync
// targets in step, and the one that is served from instead. mu is held.
func (v *Volume) few() bool {
	if v.copies <= 1 {
		return false
	}
	have := 0
	if v.failed == nil {
		have = 1
	}
	for _, l := range v.links {
		if l.inStep && (l.sync || l == v.there.via) {
			have++
		}
	}
	return have < v.copies
}

// fewNow is few for something that waits: how long it waits is noted. mu is held.
func (v *Volume) fewNow() bool {
	few := v.few()
	switch {
	case !few:
		v.shortAt, v.short = time.Time{}, false
	case v.shortAt.IsZero():
		v.shortAt = time.Now()
	}
	return few
}

// failShort ends with an error what has waited too long for enough copies, and refuses further changes until there are
// enough. The keeper calls it.
func (v *Volume) failShort(now time.Time) {
	var out queue
	v.mu.Lock()
	switch {
	case !v.serving || !v.few():
		v.short, v.shortAt = false, time.Time{}
	case !v.short && !v.shortAt.IsZero() && now.Sub(v.shortAt) > v.o.Limits.CopiesWait:
		v.short = true
	}
	if v.short {
		v.failWaiting(&out, v.tooFewCopies())
		v.freed.Broadcast()
	}
	v.mu.Unlock()
	v.finishAll(&out)
}

func (v *Volume) tooFewCopies() error {
	return fmt.Errorf("volume %s: fewer than %d copies could hold this (min-copies), for longer than %s; bring a sync target back, or lower min-copies", v.name, v.copies, v.o.Limits.CopiesWait)
}
