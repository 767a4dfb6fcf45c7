package volume

import (
	"math"
	"slices"
	"time"

	"keelson/internal/block"
	"keelson/internal/mirror"
)

// When is a write answered? When it is done here, every member that is required has a live session in step, and every
// sync target in step has acknowledged it (guarantee 1). A flush or FUA: the same with what is durable. The record of
// members shrinks, durably everywhere, before the requirement does (rule 17): that is for package mirror to see to.

// standing of the answers. mu is held.
func (v *Volume) condition() (written, durable uint64, lost []string) {
	written, durable = math.MaxUint64, math.MaxUint64
	for _, name := range v.required {
		if v.omits(omitRequired) {
			break
		}
		if l := v.find(name); l == nil || !l.inStep {
			lost = append(lost, name)
		}
	}
	for _, l := range v.links {
		if l.inStep && (l.sync || l == v.there.via) && !v.omits(omitAcks) {
			written = min(written, l.written)
			durable = min(durable, l.durable)
		}
	}
	return written, durable, lost
}

// settle moves what can be answered now into out. mu is held.
func (v *Volume) settle(out *queue) {
	if v.waiting.head == nil && v.flushes.head == nil {
		v.shortAt, v.short = time.Time{}, v.short && v.few()
		return
	}
	if (v.failed != nil || v.late) && !v.serving { // what came back from the disk after CloseDevice
		v.failWaiting(out, v.closed())
		return
	}
	written, durable, lost := v.condition()
	if v.copies > 1 && v.fewNow() || len(lost) > 0 && v.failed == nil {
		return
	}
	if v.failed != nil {
		v.settleThere(out, written, durable, lost)
		return
	}
	for r := v.waiting.head; r != nil && r.Local && r.Number <= written; r = v.waiting.head {
		v.answered = max(v.answered, r.Number)
		out.push(v.waiting.pop())
	}
	if v.flushes.head != nil {
		v.flushes.remove(out, func(r *block.Request) bool {
			done := r.Local && (r.Err != nil || r.Number <= v.floored && r.Number <= durable)
			if done {
				v.answered = max(v.answered, r.Number)
			}
			return done
		})
	}
}

// failWaiting ends everything that waits and whose local part is over, with the error. mu is held.
func (v *Volume) failWaiting(out *queue, err error) {
	for _, q := range []*queue{&v.waiting, &v.flushes} {
		q.remove(out, func(r *block.Request) bool {
			if r.Local && r.Err == nil {
				r.Err = err
			}
			return r.Local
		})
	}
}

// blockedNow returns the event that says which members an answer waits for, once for each state of affairs. mu is held.
func (v *Volume) blockedNow() mirror.Event {
	if v.waiting.head == nil && v.flushes.head == nil || !v.serving {
		v.waits = false
		return nil
	}
	if v.waits {
		return nil
	}
	_, _, lost := v.condition()
	if len(lost) == 0 {
		return nil
	}
	v.waits = true
	return mirror.AnswersWait{Members: lost}
}

// Waiting returns the members whose sessions an answer waits for; the node asks with each tick.
func (v *Volume) Waiting() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.waiting.head == nil && v.flushes.head == nil {
		return nil
	}
	_, _, lost := v.condition()
	return lost
}

// Require says which members' sessions have to be in step for an answer to be given, and how many copies have to hold
// what is written (rule 18).
func (v *Volume) Require(members []string, copies int) {
	v.change1(func() { v.required, v.copies = slices.Clone(members), copies })
}

// change1 changes something that answers may wait for, and gives those that wait no longer.
func (v *Volume) change1(change func()) {
	var out queue
	v.mu.Lock()
	change()
	v.waits = false
	v.settle(&out)
	v.freed.Broadcast()
	tell := v.blockedNow()
	v.mu.Unlock()
	v.finishAll(&out)
	v.post(tell)
}

func (v *Volume) post(e mirror.Event) {
	if e != nil {
		v.o.Post(e)
	}
}

// OpenDevice lets requests in. Views of the copy end before the first of them.
func (v *Volume) OpenDevice() {
	v.mu.Lock()
	v.opening = true
	v.mu.Unlock()
	v.endViews()
	v.change1(func() { v.serving, v.held, v.opening, v.late = true, false, false, false })
}

// CloseDevice keeps requests out; those that wait end with block.ErrShutdown, so that clients look for the new source. What the
// disk does not finish within DiskStall is left to it: it fails when it comes back, and until then no session and no rollback
// begins (rule 14).
func (v *Volume) CloseDevice(why string) {
	v.o.Log.Info("device closed", "volume", v.name, "why", why)
	var out queue
	v.mu.Lock()
	v.ended, v.serving, v.held = v.closed(), false, false
	v.freed.Broadcast()
	v.mu.Unlock()
	late, stop := v.after(v.o.Limits.DiskStall)
	defer stop()
	select {
	case v.genMu <- struct{}{}: // nor does a generation begin after this
		defer v.genMu.Unlock()
	case <-late: // the log hangs: nothing of this server is durable any more, and so nothing follows
	}
	v.mu.Lock()
	for v.inFlight() && v.failed == nil && !over(late) { // what hangs in a failed disk ends by itself, or never
		v.freed.Wait()
	}
	v.late = v.inFlight()
	err := v.closed()
	v.there.end(&out, err)
	v.failWaiting(&out, err)
	v.mu.Unlock()
	v.finishAll(&out)
}

// inFlight reports that the disk has not finished all writes. mu is held.
func (v *Volume) inFlight() bool { return v.flight[0]+v.flight[1] > 0 }

// after is closed after the time (0: never), and whoever waits for freed is woken then.
func (v *Volume) after(limit time.Duration) (late chan struct{}, stop func() bool) {
	late = make(chan struct{})
	if limit <= 0 {
		return late, func() bool { return false }
	}
	return late, time.AfterFunc(limit, func() {
		close(late)
		v.mu.Lock()
		defer v.mu.Unlock()
		v.freed.Broadcast()
	}).Stop
}

func over(late chan struct{}) bool {
	select {
	case <-late:
		return true
	default:
		return false
	}
}

// Hold keeps new writes waiting; Drained is posted, with the plan unless that is "", when nothing is in flight and everything is answered.
func (v *Volume) Hold(plan string) {
	v.mu.Lock()
	v.held = true
	v.freed.Broadcast()
	v.mu.Unlock()
	v.done.Add(1)
	go func() {
		defer v.done.Done()
		v.awaitGeneration() // one that is being begun is part of what has to end
		v.mu.Lock()
		for v.held && v.serving && v.underWay() {
			v.freed.Wait()
		}
		drained, number := v.held && v.serving, v.number
		v.mu.Unlock()
		if drained && plan != "" {
			v.post(mirror.Drained{Plan: plan, Number: number})
		}
	}()
}

// underWay reports that something is in flight or not answered. What hangs in a failed disk is not waited for. mu is held.
func (v *Volume) underWay() bool {
	if v.failed == nil {
		return v.flight[0]+v.flight[1] > 0 || v.waiting.head != nil || v.flushes.head != nil
	}
	return v.waiting.anyLocal() || v.flushes.anyLocal() || v.stands()
}

// Release lets held writes go on.
func (v *Volume) Release() {
	v.change1(func() { v.held = false })
}

// awaitGeneration returns when no generation is being begun.
func (v *Volume) awaitGeneration() {
	v.genMu.Lock()
	defer v.genMu.Unlock()
}
