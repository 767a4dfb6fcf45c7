package volume

import (
	"keelson/internal/block"
	"keelson/internal/lineage"
)

// submitFlush: the flush covers every write answered before now: it completes when everything up to its number
// is durable here and at every sync target in step.
func (v *Volume) submitFlush(r *block.Request) {
	v.stats.flushes.Add(1)
	v.mu.Lock()
	if !v.serving || v.short {
		r.Err = v.closed()
		if v.serving {
			r.Err = v.tooFewCopies()
		}
		v.mu.Unlock()
		v.finish(r)
		return
	}
	r.Number, r.Local, r.Err = max(v.prefix(), v.answered), true, nil
	here, links := v.failed == nil, v.links
	if !here { // what is on this disk is of no account, and the flusher may hang in it
		r.Number = v.number
	}
	v.flushTo = max(v.flushTo, r.Number)
	v.flushes.push(r)
	var out queue
	if !here {
		v.flushThere()
		v.settle(&out) // perhaps it is durable there already
	}
	v.mu.Unlock()
	if here {
		v.kickFlusher()
		return
	}
	tryFlush(links)
	v.finishAll(&out)
}

// prefix is the number up to which every write is on this disk (perhaps not durable). Above it ordinary writes may be
// answered already, while a FUA write before them is not yet done. mu is held.
func (v *Volume) prefix() uint64 {
	n := v.number
	for _, s := range v.active {
		if s.number != 0 {
			n = min(n, s.number-1)
		}
	}
	return n
}

func (v *Volume) kickFlusher() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// flusher makes data durable, then the record of its number (rule 10), for all flushes that came together. It runs
// until the volume is closed.
func (v *Volume) flusher() {
	defer v.done.Done()
	for {
		select {
		case <-v.stop:
			return
		case <-v.wake:
			v.flushOnce()
		}
	}
}

func (v *Volume) flushOnce() {
	v.mu.Lock()
	if v.flushes.head == nil {
		v.mu.Unlock()
		return
	}
	floor, fresh := v.prefix(), v.flooring == 0
	links, floored, gen, here := v.links, v.floored, v.at().Gen, v.failed == nil
	v.flooring = floor
	for _, l := range links {
		l.flush(v.number)
	}
	v.mu.Unlock()
	tryFlush(links)
	var err error
	if here && (floored < floor || fresh) {
		if err = v.syncData(); err != nil {
			v.fail(err)
		} else if gen != (lineage.GenID{}) {
			if err = v.setFloor(lineage.Position{Gen: gen, Number: floor}); err != nil {
				err = v.logError(err)
			}
		}
	}
	v.change1(func() {
		if err == nil && here {
			v.floored = max(v.floored, floor)
			return
		}
		v.flooring = v.floored
		if v.failed != nil { // the targets decide
			return
		}
		for r := v.flushes.head; r != nil; r = r.Next { // not durable: they say so (no room in the log)
			if r.Local && r.Err == nil {
				r.Err = err
			}
		}
	})
}

// setFloor notes durably up to where everything is durable here.
func (v *Volume) setFloor(p lineage.Position) error {
	defer v.watch.noting()()
	return v.log.SetFloor(p)
}

// syncData makes what is on this disk durable.
func (v *Volume) syncData() error {
	if v.omits(omitSync) {
		return nil
	}
	return v.datasync()
}
