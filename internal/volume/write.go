package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"keelson/internal/block"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/vfs"
	"keelson/internal/wire"
)

var errNotExist = fs.ErrNotExist

// longBytes is where a trim or write-zeroes is split (rule 30), so that ranges, map and hot set never stall.
const longBytes = 32 << 20

// reserveStep is how many numbers are reserved durably at a time (rule 10): a source's next generation begins above them.
const reserveStep = 1 << 20

// batchMax is the most writes that get their numbers under one hold of mu.
const batchMax = 128

// Submit implements block.Device.
func (v *Volume) Submit(batch []*block.Request) {
	now := v.clock()
	for _, r := range batch {
		r.Began = now
	}
	for len(batch) > 0 {
		r := batch[0]
		switch {
		case r.Op == block.Read:
			v.read(r)
		case r.Op == block.Flush:
			v.submitFlush(r)
		case isLong(r):
			v.splitLong(r)
		default:
			n := 1
			for n < len(batch) && n < batchMax && isChange(batch[n]) && !isLong(batch[n]) {
				n++
			}
			v.change(batch[:n])
			batch = batch[n:]
			continue
		}
		batch = batch[1:]
	}
}

func isChange(r *block.Request) bool {
	return r.Op == block.Write || r.Op == block.Zero || r.Op == block.Trim
}

func isLong(r *block.Request) bool {
	return (r.Op == block.Zero || r.Op == block.Trim) && r.Len > longBytes
}

// change numbers the writes, sends them and does the local part.
func (v *Volume) change(rs []*block.Request) {
	mirrored := len(v.snapshot()) > 0
	for _, r := range rs {
		r.Sum = 0 // a link that appears meanwhile computes it
		if mirrored && r.Op == block.Write {
			r.Sum = wire.Checksum(r.Buf.Bytes) // once, however many targets there are
		}
	}
	if err := v.admit(rs); err != nil {
		for _, r := range rs {
			r.Err = err
			v.finish(r)
		}
		return
	}
	// admit returned with mu held.
	parity := v.epoch
	v.flight[parity] += len(rs)
	for _, r := range rs {
		v.numberOne(r)
	}
	first := rs[0].Number
	links, here := v.links, v.failed == nil
	v.changed.Store(true)
	v.mu.Unlock()

	tryFlush(links)
	var bad error
	for i := 0; here && i < len(rs); i++ {
		r := rs[i]
		if r.Err = v.apply(r.Op, r.Flags, r.Off, r.Len, r.Buf); r.Err != nil && bad == nil {
			bad = r.Err
		}
	}
	if bad != nil {
		v.localFailed(rs, bad)
	}

	v.mu.Lock()
	last := first + uint64(len(rs)) - 1
	kept := v.active[:0]
	for _, s := range v.active {
		if s.number < first || s.number > last {
			kept = append(kept, s)
		}
	}
	v.active = kept
	v.flight[parity] -= len(rs)
	for _, r := range rs {
		r.Local = true
	}
	kick := v.flushTo > v.flooring
	if kick && v.failed != nil {
		v.flushThere()
	}
	var out queue
	v.settle(&out)
	v.freed.Broadcast()
	tell := v.blockedNow()
	v.mu.Unlock()
	v.finishAll(&out)
	if kick && here {
		v.kickFlusher()
	} else if kick {
		tryFlush(links)
	}
	v.post(tell)
}

// admit waits until the writes may be issued: the device is open, nobody holds writes, queues have room, the generation
// of this tenure has begun, their numbers are reserved, their extents are hot and nothing else writes their ranges.
// On success it returns with mu held.
func (v *Volume) admit(rs []*block.Request) error {
	v.room()
	v.mu.Lock()
	for {
		switch {
		case !v.serving:
			defer v.mu.Unlock()
			return v.closed()
		case v.short:
			defer v.mu.Unlock()
			return v.tooFewCopies()
		case late(rs):
			v.mu.Unlock()
			return block.ErrLate
		case v.held || v.busy(rs) || v.stands():
			v.freed.Wait()
			continue
		}
		var err error
		var cold []int64
		switch {
		case v.index == 0:
			v.mu.Unlock()
			err = v.BeginGeneration()
		case v.number+uint64(len(rs)) > v.reserved:
			to := v.number + reserveStep
			v.mu.Unlock()
			err = v.reserve(to)
		default:
			if cold = v.cold(rs); cold == nil {
				return nil
			}
			if v.failed != nil { // of a copy that failed nothing is ever believed again
				return nil
			}
			v.mu.Unlock()
			v.stats.hotMisses.Add(int64(len(cold)))
			end := v.watch.noting()
			err = v.log.MarkHot(cold)
			if end(); err == nil && v.log.HotCount() > v.o.Limits.HotExtentsMax*3/4 {
				v.askCheckpoint()
			}
		}
		if err != nil { // rule 6: what cannot be noted is not issued
			return v.logError(err)
		}
		v.mu.Lock()
	}
}

// late reports that the time to begin has gone by. Only requests that come alone have such a limit (DoWithin). mu is held.
func late(rs []*block.Request) bool {
	return !rs[0].Until.IsZero() && !time.Now().Before(rs[0].Until)
}

// reserve notes durably that numbers up to n may be used (rule 10).
func (v *Volume) reserve(n uint64) error {
	defer v.watch.noting()()
	if err := v.log.Reserve(n); err != nil {
		return err
	}
	v.mu.Lock()
	v.reserved = max(v.reserved, n)
	v.mu.Unlock()
	return nil
}

// logError is what an application is told when the intent log did not take a note. A log that failed stays so, even if it
// was a sync that found no room.
func (v *Volume) logError(err error) error {
	if errors.Is(err, vfs.ErrNoSpace) && !errors.Is(err, intentlog.ErrFailed) {
		return fmt.Errorf("%w: %w", block.ErrNoSpace, err)
	}
	v.fail(fmt.Errorf("intent log: %w", err))
	return err
}

// busy reports that something else writes in one of the ranges. mu is held.
func (v *Volume) busy(rs []*block.Request) bool {
	for _, s := range v.active {
		for _, r := range rs {
			if r.Off < s.end && s.off < r.Off+r.Len {
				return true
			}
		}
	}
	return false
}

// cold returns the extents that have to be marked hot first, and touches those that are. mu is held.
func (v *Volume) cold(rs []*block.Request) []int64 {
	var cold []int64
	for _, r := range rs {
		first, last := r.Off>>v.extent, (r.Off+r.Len-1)>>v.extent
		if v.log.Hot(first, last) {
			continue
		}
		for e := first; e <= last; e++ {
			cold = append(cold, e)
		}
	}
	return cold
}

// numberOne gives the write its number and puts its parts into the streams. mu is held.
func (v *Volume) numberOne(r *block.Request) {
	v.number++
	r.Number, r.Local, r.Err = v.number, false, nil
	v.active = append(v.active, span{r.Off, r.Off + r.Len, r.Number})
	first, last := r.Off>>v.region, (r.Off+r.Len-1)>>v.region
	if v.failed == nil {
		v.log.SetVersions(first, last, lineage.MakeVersion(v.index, r.Number))
	}
	for _, l := range v.links {
		l.send(r, first, last)
	}
	v.stats.writes.Add(1)
	v.stats.writeBytes.Add(r.Len)
	if r.Flags&block.FUA != 0 {
		v.flushes.push(r)
		v.flushTo = r.Number
	} else {
		v.waiting.push(r)
	}
}

// apply does the local part of a write.
func (v *Volume) apply(op block.Op, flags block.Flags, off, n int64, buf *block.Buffer) error {
	var err error
	if op == block.Write {
		_, err = v.disk.WriteAt(buf.Bytes, off)
	} else if !v.omits(omitZero) {
		err = v.disk.Zero(off, n, op == block.Trim || flags&block.NoHole == 0)
	}
	return err
}

// localFailed: a write that may have reached a target is not, or only in part, on this disk. No room is not a failure of
// the disk (guarantee 9): its regions get a version that no target has (rule 5), and every target has to be compared again. If the
// disk failed, the targets decide what becomes of it, and nothing on this disk is ever used again.
func (v *Volume) localFailed(rs []*block.Request, cause error) {
	failed := slices.ContainsFunc(rs, func(r *block.Request) bool { return r.Err != nil && !errors.Is(r.Err, vfs.ErrNoSpace) })
	if failed {
		for _, r := range rs {
			if r.Err != nil && !errors.Is(r.Err, vfs.ErrNoSpace) {
				cause = r.Err
			}
			r.Err = nil
		}
		v.fail(cause)
		return
	}
	v.mu.Lock()
	version := v.ownVersion()
	for _, r := range rs {
		if r.Err != nil {
			if !v.omits(omitUnknown) {
				v.log.SetVersions(r.Off>>v.region, (r.Off+r.Len-1)>>v.region, version)
			}
			r.Err = fmt.Errorf("%w: %w", block.ErrNoSpace, r.Err)
		}
	}
	for _, l := range v.links { // at once: a later write to one of these regions would give it one version on both sides
		l.cut, l.inStep = true, false
	}
	v.mu.Unlock()
	v.HangupAll(fmt.Errorf("a write failed at the source, its regions have to be compared again: %w", cause))
}

// ownVersion is a version for what is on this disk alone: the next number, which no write gets and no frame carries. It takes no new
// generation, or an application that tries again and again would make the history longer than a hello may be. Where no number is
// left without a note in the log the regions are unknown, and the next write begins a generation, which adopts them. mu is held.
func (v *Volume) ownVersion() lineage.Version {
	if v.index != 0 && v.number < v.reserved {
		v.number++
		return lineage.MakeVersion(v.index, v.number)
	}
	v.position, v.index = v.at(), 0
	return lineage.Unknown
}

// room waits, bounded, for targets whose queues are full; one that stays so is dropped.
func (v *Volume) room() {
	for _, l := range v.snapshot() {
		if limit := l.queueMax.Load(); l.stream.QueuedBytes() > limit {
			l.waitRoom(limit)
		}
	}
}

// splitLong does a long trim or write-zeroes in parts, one after the other; what the caller submits after it comes after it.
func (v *Volume) splitLong(r *block.Request) {
	r.Err = nil
	part := &longPart{ready: make(chan struct{}, 1)}
	for off := r.Off; off < r.Off+r.Len && r.Err == nil; off += longBytes {
		q := &block.Request{Op: r.Op, Flags: r.Flags &^ block.FUA, Off: off, Len: min(longBytes, r.Off+r.Len-off), By: part}
		if off+longBytes >= r.Off+r.Len {
			q.Flags = r.Flags // when the last part is durable all of it is
		}
		v.Submit([]*block.Request{q})
		<-part.ready
		r.Err = q.Err
	}
	v.finish(r)
}

// longPart waits for one part of a long request.
type longPart struct{ ready chan struct{} }

func (p *longPart) Complete(*block.Request) { p.ready <- struct{}{} }
func (p *longPart) Flush()                  {}
