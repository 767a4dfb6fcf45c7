package volume

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"keelson/internal/block"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
	"keelson/internal/wire"
)

// A source whose own disk failed (guarantee 9). From the first error on, in this order:
//
//	stands    nothing is answered and nothing fails: reads are parked, writes in flight keep their numbers, new ones wait.
//	          package mirror takes this copy out of the in-sync record, durably here and on the members that remain
//	served    ServeFrom: reads travel in that target's stream, behind every write that was answered; writes are answered when the
//	          members have them. If the session ends it stands again
//	closed    CloseDevice: what is parked, asked and not answered ends: with the disk's error if it stood
//
// The disk is not touched any more: what hangs in it is waited for by nobody.

// elsewhere is whom reads are asked of. Guarded by Volume.mu.
type elsewhere struct {
	via    *link
	asked  map[uint64]*block.Request // by the number of the read's frame
	number uint64                    // of the last one
	bytes  int64                     // of asked
	parked queue                     // reads that wait for a target, or for room
}

// readsBytesMax bounds what is asked of a target at a time; a longer read is asked alone.
const readsBytesMax = 16 << 20

// noLongerHere: the disk has just failed. mu is held.
func (v *Volume) noLongerHere() {
	if v.there.asked == nil {
		v.there.asked = map[uint64]*block.Request{}
	}
}

// stands reports that nothing may be answered: the disk failed, and there is nothing to serve from. mu is held.
func (v *Volume) stands() bool { return v.failed != nil && v.there.via == nil }

// closed is why nothing is done here: the disk failed and nothing took its place, or the volume is served elsewhere. What
// CloseDevice found stays so: a source that hands over ends with its session to the target that it served from. mu is held.
func (v *Volume) closed() error {
	if !v.serving && v.ended != nil {
		return v.ended
	}
	if v.stands() {
		return v.failed
	}
	return block.ErrShutdown
}

func (v *Volume) servesThere() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.there.via != nil
}

// ServeFrom lets a source whose disk failed go on from that target, which holds everything answered.
func (v *Volume) ServeFrom(target string) {
	v.change1(func() {
		l := v.find(target)
		if l == nil || !l.inStep || v.failed == nil || !v.serving {
			return // LinkDown is on its way
		}
		v.there.via = l
		v.there.ask()
		v.flushThere()
	})
	tryFlush(v.snapshot())
}

// flushThere asks the targets to make everything durable, for those flushes that wait. mu is held.
func (v *Volume) flushThere() {
	if v.flushes.head == nil {
		return
	}
	for _, l := range v.links {
		l.flush(v.number)
	}
}

// AbandonDisk counts a disk that hangs as failed. It waits for nothing: the log is perhaps on the same disk. The failure is told
// when it is noted, or when that takes too long.
func (v *Volume) AbandonDisk(why string) {
	err := fmt.Errorf("volume %s: the disk under %s hangs: %s", v.name, v.path, why)
	if !v.failHere(err) {
		return
	}
	v.done.Add(1)
	go func() {
		defer v.done.Done()
		if late := v.within(dropWait, func() error { v.noteFailed(err); return nil }); late != nil {
			v.o.Log.Error("could not note the disk that hangs: its log does not answer either", "volume", v.name, "err", late)
		}
		v.o.Post(mirror.DiskFailed{Why: err.Error()})
	}()
}

// readThere reads from a target, now or when there is one.
func (v *Volume) readThere(r *block.Request) {
	v.mu.Lock()
	if !v.serving {
		r.Err = v.closed()
		v.mu.Unlock()
		v.finish(r)
		return
	}
	v.there.parked.push(r)
	v.there.ask()
	l := v.there.via
	v.mu.Unlock()
	if l != nil {
		l.stream.TryFlush()
	}
}

// ask puts parked reads into the stream, as far as there is room. mu is held: behind every write that was answered.
func (e *elsewhere) ask() {
	for r := e.parked.head; r != nil && e.via != nil && (e.bytes == 0 || e.bytes+r.Len <= readsBytesMax); r = e.parked.head {
		e.parked.pop()
		e.number++
		e.asked[e.number] = r
		e.bytes += r.Len
		e.via.stream.Queue(wire.Header{Type: wire.TypeRead, Number: e.number, Offset: uint64(r.Off), Length: uint64(r.Len)}, nil, nil)
	}
}

// lose parks what was asked of a session that ended, the oldest first. mu is held.
func (e *elsewhere) lose(l *link) {
	if e.via != l || l == nil {
		return
	}
	e.via = nil
	rest := e.parked.take()
	for _, number := range slices.SortedFunc(maps.Keys(e.asked), cmp.Compare) {
		e.parked.push(e.asked[number])
	}
	for r := rest.pop(); r != nil; r = rest.pop() {
		e.parked.push(r)
	}
	clear(e.asked)
	e.bytes = 0
}

// end gives all reads back with the error. mu is held.
func (e *elsewhere) end(out *queue, err error) {
	e.lose(e.via)
	for r := e.parked.pop(); r != nil; r = e.parked.pop() {
		r.Err = err
		out.push(r)
	}
}

// readAnswered takes the answer to a read.
func (l *link) readAnswered(h wire.Header, body *block.Buffer) error {
	v := l.v
	v.mu.Lock()
	r := v.there.asked[h.Number]
	if v.there.via != l || r == nil || int64(h.Offset) != r.Off || int64(h.Body) != r.Len {
		defer v.mu.Unlock()
		if v.there.via != l { // it was given up meanwhile
			return nil
		}
		return fmt.Errorf("mirror %s->%s: an answer of %d bytes at %d to read %d, which was not asked (wire-order)", v.self, l.target, h.Body, h.Offset, h.Number)
	}
	delete(v.there.asked, h.Number)
	v.there.bytes -= r.Len
	v.there.ask()
	l.silent = 0
	v.mu.Unlock()
	copy(r.Buf.Bytes, body.Bytes)
	r.Err = nil
	var out queue
	out.push(r)
	l.stream.TryFlush()
	v.finishAll(&out)
	return nil
}

// settleThere answers what the members have, in whatever order: a write may hang in the disk for ever. mu is held.
func (v *Volume) settleThere(out *queue, written, durable uint64, lost []string) {
	if v.stands() || len(lost) > 0 {
		return
	}
	answer := func(upTo uint64) func(*block.Request) bool {
		return func(r *block.Request) bool {
			done := r.Local && r.Number <= upTo
			if done {
				r.Err = nil
				v.answered = max(v.answered, r.Number)
			}
			return done
		}
	}
	v.waiting.remove(out, answer(written))
	v.flushes.remove(out, answer(durable))
}

// read answers a source that serves from this copy: after everything that came before it (rule 15).
func (s *session) read(h wire.Header) error {
	v := s.v
	off, length := int64(h.Offset), int64(h.Length)
	if !s.inStep {
		return fmt.Errorf("mirror %s->%s: a read before the end of the resync (wire-order)", s.from, v.self)
	}
	if off > v.size-length {
		return fmt.Errorf("mirror %s->%s: a read of %d bytes at %d is outside of the volume of %d bytes (wire-range)", s.from, v.self, length, off, v.size)
	}
	buf := block.NewBuffer(int(length))
	defer buf.Release()
	v.watch.begin(watchApply)
	_, err := v.disk.ReadAt(buf.Bytes, off)
	v.watch.end(watchApply)
	if err != nil {
		return v.targetFailed(err)
	}
	v.stats.reads.Add(1)
	v.stats.readBytes.Add(length)
	s.stream.Queue(wire.Header{Type: wire.TypeReadAnswer, Number: h.Number, Offset: h.Offset, Body: uint32(length), BodyCRC: wire.Checksum(buf.Bytes)}, buf, nil)
	return nil
}

// deadDisk is what is opened in place of a disk that failed before.
type deadDisk struct{ err error }

func (d deadDisk) ReadAt([]byte, int64) (int, error)            { return 0, d.err }
func (d deadDisk) WriteAt([]byte, int64) (int, error)           { return 0, d.err }
func (d deadDisk) Datasync() error                              { return d.err }
func (d deadDisk) Forget(int64, int64) error                    { return d.err }
func (d deadDisk) Zero(int64, int64, bool) error                { return d.err }
func (d deadDisk) Extents(int64, int64) ([]block.Extent, error) { return nil, d.err }
func (d deadDisk) Truncate(int64) error                         { return d.err }
func (d deadDisk) Size() (int64, error)                         { return 0, d.err }
func (d deadDisk) Identity() (vfs.Identity, error)              { return vfs.Identity{}, d.err }
func (d deadDisk) Close() error                                 { return nil }
