package volume

import (
	"fmt"

	"github.com/zeebo/blake3"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/wire"
)

// hotAhead is how many extents a resync marks hot at a time: it walks in order, so the next ones are due soon.
const hotAhead = 16

// write applies a write of the stream.
func (s *session) write(h wire.Header, body *block.Buffer) error {
	version, err := s.version(h)
	if err != nil {
		return err
	}
	_, length, err := s.span(h)
	if err != nil {
		return err
	}
	if err := s.change(h, body, version, 0); err != nil {
		return err
	}
	s.v.stats.writes.Add(1)
	s.v.stats.writeBytes.Add(length)
	if h.Number > s.written {
		s.written = h.Number
	}
	if s.inStep {
		s.v.mu.Lock()
		s.v.number = s.written
		s.v.mu.Unlock()
	}
	return nil
}

// copied applies a region's content of a resync.
func (s *session) copied(h wire.Header, body *block.Buffer) error {
	version, err := s.version(h)
	if err != nil {
		return err
	}
	if !s.resync {
		return fmt.Errorf("mirror %s->%s: a copy outside of a resync (wire-order)", s.from, s.v.self)
	}
	return s.change(h, body, version, hotAhead)
}

// span is the range of bytes that a change is for.
func (s *session) span(h wire.Header) (off, length int64, err error) {
	v := s.v
	off, length = int64(h.Offset), int64(h.Length)
	if h.Type == wire.TypeWrite {
		length = int64(h.Body)
	}
	if off < 0 || length <= 0 || off > v.size-length {
		err = fmt.Errorf("mirror %s->%s: a frame for %d bytes at %d is outside of the volume of %d bytes (wire-range)", s.from, v.self, length, off, v.size)
	}
	return off, length, err
}

// change makes the extents hot, writes, and notes the versions. Checkpoints drain it like a source's writes.
func (s *session) change(h wire.Header, body *block.Buffer, version lineage.Version, ahead int64) error {
	v := s.v
	off, length, err := s.span(h)
	if err != nil {
		return err
	}
	parity, err := v.hot(off>>v.extent, (off+length-1)>>v.extent, ahead, &s.marks)
	if err != nil {
		return err
	}
	switch h.Type {
	case wire.TypeWrite, wire.TypeCopy:
		_, err = v.disk.WriteAt(body.Bytes, off)
	default:
		err = v.disk.Zero(off, length, h.Type == wire.TypeCopyZero || h.Flags&wire.FlagTrim != 0)
	}
	if err != nil {
		version = lineage.Unknown // rule 5
	}
	v.landed(off>>v.region, (off+length-1)>>v.region, version, parity)
	if err != nil {
		return v.targetFailed(err)
	}
	return nil
}

// landed notes the versions that regions got by a change, which is no longer in flight.
func (v *Volume) landed(first, last int64, version lineage.Version, parity int) {
	v.mu.Lock()
	v.log.SetVersions(first, last, version)
	v.landings++
	v.flight[parity]--
	if v.flight[parity] == 0 {
		v.freed.Broadcast()
	}
	v.mu.Unlock()
}

// hot makes sure that the extents are durably hot (rule 6) and counts a change in flight, in the epoch that it returns:
// landed ends it.
func (v *Volume) hot(first, last, ahead int64, scratch *[]int64) (parity int, err error) {
	for {
		v.mu.Lock()
		if v.failed != nil {
			defer v.mu.Unlock()
			return 0, v.failed
		}
		if v.log.Hot(first, last) {
			parity = v.epoch
			v.flight[parity]++
			v.mu.Unlock()
			v.changed.Store(true)
			return parity, nil
		}
		v.mu.Unlock()
		marks := (*scratch)[:0]
		for e := first; e <= last || e < first+ahead && e<<v.extent < v.size; e++ {
			marks = append(marks, e)
		}
		*scratch = marks
		v.stats.hotMisses.Add(1)
		if err := v.markHot(marks); err != nil {
			return 0, err
		}
	}
}

// markHot makes extents durably hot.
func (v *Volume) markHot(extents []int64) error {
	defer v.watch.noting()()
	if err := v.log.MarkHot(extents); err != nil {
		return v.logError(err)
	}
	if v.log.HotCount() > v.o.Limits.HotExtentsMax*3/4 {
		v.askCheckpoint()
	}
	return nil
}

// probe says whether this replica's content of a region has the digest; if so it has the source's version from now on.
func (s *session) probe(h wire.Header, body *block.Buffer) error {
	version, err := s.version(h)
	if err != nil {
		return err
	}
	v, off, length := s.v, int64(h.Offset), int64(h.Length)
	if off>>v.region != (off+length-1)>>v.region || off > v.size-length {
		return fmt.Errorf("mirror %s->%s: a probe of %d bytes at %d is not of one region (wire-range)", s.from, v.self, length, off)
	}
	buf := block.NewBuffer(int(length))
	defer buf.Release()
	if _, err := v.disk.ReadAt(buf.Bytes, off); err != nil {
		return v.targetFailed(err)
	}
	answer := wire.Header{Type: wire.TypeProbeAnswer, Offset: h.Offset}
	if blake3.Sum256(buf.Bytes) == [32]byte(body.Bytes) {
		parity, err := v.hot(off>>v.extent, off>>v.extent, hotAhead, &s.marks)
		if err != nil {
			return err
		}
		v.landed(off>>v.region, off>>v.region, version, parity)
		answer.Flags = wire.FlagSame
	}
	s.stream.Queue(answer, nil, nil)
	return nil
}

// flush makes data and then the record of its number durable before any later frame is applied (rules 10 and 15).
func (s *session) flush(number uint64) error {
	v := s.v
	if v.omits(omitBarrier) {
		s.durable = max(s.durable, number)
		return nil
	}
	if err := v.datasync(); err != nil { // whatever the reason: what it dropped, the next one would call durable
		v.fail(err)
		return err
	}
	if !s.inStep {
		return nil
	}
	v.mu.Lock()
	at := lineage.Position{Gen: v.gen.ID, Number: s.written}
	v.mu.Unlock()
	if s.written > v.log.Floor().Number || v.log.Floor().Gen != at.Gen {
		if err := v.setFloor(at); err != nil {
			return v.logError(err)
		}
	}
	s.durable = max(s.durable, number)
	return nil
}

// targetFailed: the first error of this copy's disk ends it (guarantee 9); no room ends only the session.
func (v *Volume) targetFailed(err error) error {
	if !isNoSpace(err) {
		v.fail(err)
	}
	return err
}
