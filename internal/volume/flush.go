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
	if !v.serving || v.failed != nil {
		r.Err = block.ErrShutdown
		if v.failed != nil {
			r.Err = v.failed
		}
		v.mu.Unlock()
		v.finish(r)
		return
	}
	r.Number, r.Local, r.Err = max(v.prefix(), v.answered), true, nil
	v.flushTo = max(v.flushTo, r.Number)
	v.flushes.push(r)
	v.mu.Unlock()
	v.kickFlusher()
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
	links, floored, gen := v.links, v.floored, v.at().Gen
	v.flooring = floor
	for _, l := range links {
		l.flush(v.number)
	}
	v.mu.Unlock()
	for _, l := range links {
		l.stream.TryFlush()
	}
	var err error
	if floored < floor || fresh {
		if err = v.disk.Datasync(); err != nil {
			v.fail(err)
		} else if gen != (lineage.GenID{}) {
			if err = v.log.SetFloor(lineage.Position{Gen: gen, Number: floor}); err != nil {
				err = v.logError(err)
			}
		}
	}
	v.change1(func() {
		if err == nil {
			v.floored = max(v.floored, floor)
			return
		}
		v.flooring = v.floored
		for r := v.flushes.head; r != nil; r = r.Next { // not durable: they say so (no room in the log, or a failed disk)
			if r.Local && r.Err == nil {
				r.Err = err
			}
		}
	})
}
