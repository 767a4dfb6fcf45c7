package volume

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/zeebo/blake3"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/resync"
	"keelson/internal/wire"
)

// errEnded ends a copier whose stream is gone; the reader says why.
var errEnded = fmt.Errorf("the session ended")

// copy walks the regions that are not in step, once the comparison is over, and ends the resync. Writers go on: a write
// to a region in the set is left to the copier, all others are in the stream. The set only shrinks, so the walk ends.
func (l *link) copy() error {
	select {
	case <-l.decided:
	case <-l.stream.Done():
		return errEnded
	}
	v := l.v
	v.mu.Lock()
	total := min(l.set.Len()<<v.region, v.size)
	l.progress.Start(time.Now(), total)
	v.mu.Unlock()
	pace := resync.NewPace()
	for at := int64(0); ; {
		region, hash, state := l.next(at)
		switch state {
		case walkDone:
			return l.end()
		case walkWait: // only probes are left: their answers decide
			at = 0
			select {
			case <-l.answers:
			case <-l.stream.Done():
				return errEnded
			}
			continue
		}
		at = region + 1
		if err := l.waitQueue(); err != nil {
			return err
		}
		sent, err := l.copyRegion(region, hash)
		if err != nil {
			return err
		}
		if err := l.wait(pace.Delay(time.Now(), sent, l.paceBytes.Load())); err != nil {
			return err
		}
	}
}

type walk int

const (
	walkCopy walk = iota
	walkWait
	walkDone
)

// next finds the next region to work on, from `at` on and then from the start.
func (l *link) next(at int64) (region int64, hash bool, state walk) {
	l.v.mu.Lock()
	defer l.v.mu.Unlock()
	if l.set.Len() == 0 {
		return 0, false, walkDone
	}
	if len(l.asked) >= l.v.o.Limits.ProbesMax {
		return 0, false, walkWait
	}
	for range 2 {
		for r, ok := l.set.Next(at); ok; r, ok = l.set.Next(r + 1) {
			if _, busy := l.asked[r]; !busy {
				return r, l.hash.Has(r), walkCopy
			}
		}
		at = 0
	}
	return 0, false, walkWait
}

// waitQueue keeps the resync's share of the outgoing queue small, so that writes do not wait behind it.
func (l *link) waitQueue() error {
	if l.stream.QueuedBytes() < l.v.o.Limits.CopyQueueBytes {
		return nil
	}
	return l.stream.WaitRoom(context.Background(), l.v.o.Limits.CopyQueueBytes/2)
}

func (l *link) wait(d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-l.stream.Done():
		return errEnded
	}
}

// copyRegion sends one region: its digest if it may be equal, "all zero" if it is, else its content. It reads without a
// lock and sends only if nothing has written to the region meanwhile; after a few tries it locks the range.
func (l *link) copyRegion(region int64, hash bool) (sent int64, err error) {
	v := l.v
	off := region << v.region
	length := min(int64(1)<<v.region, v.size-off)
	buf := block.NewBuffer(int(length))
	defer buf.Release()
	for try := 0; ; try++ {
		lock := try >= 3
		version, err := l.quiet(off, off+length, region, lock)
		if err != nil {
			return 0, err
		}
		zero, err := v.content(&l.ahead, off, buf.Bytes)
		if err != nil {
			v.fail(err)
			if lock {
				v.unlock(off)
			}
			return 0, err
		}
		h := wire.Header{Offset: uint64(off), Length: uint64(length), Gen: version.Index(), Number: version.Number()}
		var body *block.Buffer
		var small []byte
		switch {
		case zero:
			h.Type = wire.TypeCopyZero
		case hash:
			digest := blake3.Sum256(buf.Bytes)
			h.Type, small = wire.TypeProbe, digest[:]
		default:
			h.Type, body, sent = wire.TypeCopy, buf, length
			h.Body, h.BodyCRC = uint32(length), wire.Checksum(buf.Bytes)
		}
		if l.put(region, version, lock, h, body, small) {
			l.stream.TryFlush()
			return sent, nil
		}
		sent = 0
	}
}

// quiet waits until no write is in flight in the range and returns the region's version; with lock the range stays
// locked until put.
func (l *link) quiet(off, end, region int64, lock bool) (lineage.Version, error) {
	v := l.v
	v.mu.Lock()
	defer v.mu.Unlock()
	for again := true; again; {
		again = false
		for _, s := range v.active {
			if off < s.end && s.off < end {
				again = true
			}
		}
		if again {
			v.freed.Wait()
		}
	}
	if l.stream.Err() != nil {
		return 0, errEnded
	}
	if v.failed != nil { // the write that failed gave the region its version, and is not on the disk
		return 0, v.failed
	}
	version := v.log.Version(region)
	if version == lineage.Unknown { // a write failed; the link is being hung up
		return 0, fmt.Errorf("region %d has no version: a write to it failed", region)
	}
	if lock {
		v.active = append(v.active, span{off: off, end: end})
	}
	return version, nil
}

// put queues the frame if the region still has the version whose content was read, and takes it out of the set: from
// now on writes to it are sent. A probe leaves it in the set until it is answered.
func (l *link) put(region int64, version lineage.Version, lock bool, h wire.Header, body *block.Buffer, small []byte) bool {
	v := l.v
	v.mu.Lock()
	defer v.mu.Unlock()
	if lock {
		v.unlockRange(int64(h.Offset))
	}
	if v.failed != nil || v.log.Version(region) != version {
		return false
	}
	l.stream.Queue(h, body, small)
	switch h.Type {
	case wire.TypeProbe:
		l.asked[region] = version
		return true
	case wire.TypeCopy:
		l.progress.Sent(time.Now(), int64(h.Length))
	default:
		l.progress.Skipped(time.Now(), int64(h.Length))
	}
	l.set.Remove(region)
	l.hash.Remove(region)
	return true
}

// unlockRange gives up a range that quiet locked. mu is held.
func (v *Volume) unlockRange(off int64) {
	for i, s := range v.active {
		if s.number == 0 && s.off == off {
			v.active = append(v.active[:i], v.active[i+1:]...)
			break
		}
	}
	v.freed.Broadcast()
}

func (v *Volume) unlock(off int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unlockRange(off)
}

// probed takes the answer to a probe. Equal and not written to since: in step. Otherwise its content is sent in turn.
func (l *link) probed(region int64, same bool) error {
	v := l.v
	v.mu.Lock()
	version, asked := l.asked[region]
	if !asked {
		v.mu.Unlock()
		return fmt.Errorf("mirror %s->%s: an answer for region %d, which was not asked about (wire-order)", v.self, l.target, region)
	}
	delete(l.asked, region)
	l.hash.Remove(region)
	if same && v.log.Version(region) == version {
		l.set.Remove(region)
		l.progress.Skipped(time.Now(), min(int64(1)<<v.region, v.size-region<<v.region))
	}
	v.mu.Unlock()
	select {
	case l.answers <- struct{}{}:
	default:
	}
	return nil
}

// dataAhead remembers how far a walk through the volume is over data that has no hole. To look for the end of a stretch
// of data can cost as much as the stretch is long, so it is not done for each region of it.
type dataAhead struct {
	until int64 // bytes of the volume
	look  int64 // how far to look the next time
}

// lookMax is the farthest that is looked for the end of a stretch of data.
const lookMax = 1 << 30

// content reads a range into p; zero means that it is all zero (then p may be untouched). Only that there is data is
// remembered: a hole may be filled at any time.
func (v *Volume) content(d *dataAhead, off int64, p []byte) (zero bool, err error) {
	length := int64(len(p))
	if off+length > d.until {
		d.look = min(max(d.look, length), v.size-off)
		ext, err := v.disk.Extents(off, d.look)
		switch {
		case err != nil || len(ext) == 0:
		case ext[0].Zero && ext[0].Len >= length:
			return true, nil
		case ext[0].Zero:
			d.look = 0
		case ext[0].Len < d.look:
			d.until, d.look = off+ext[0].Len, 0
		default:
			d.until, d.look = off+ext[0].Len, min(2*d.look, lookMax)
		}
	}
	if _, err := v.disk.ReadAt(p, off); err != nil {
		return false, err
	}
	return isZero(p), nil
}

var zeroes [4096]byte

func isZero(p []byte) bool {
	for len(p) > len(zeroes) {
		if !bytes.Equal(p[:len(zeroes)], zeroes[:]) {
			return false
		}
		p = p[len(zeroes):]
	}
	return bytes.Equal(p, zeroes[:len(p)])
}

// end sends what the target adopts: history and position as they are now. Every write from now on is sent.
func (l *link) end() error {
	v := l.v
	v.crash("resync-end")
	v.genMu.Lock() // history and position of one moment: no generation begins in between
	defer v.genMu.Unlock()
	header := v.log.Header()
	v.mu.Lock()
	end := wire.End{History: header.History, Position: v.at(), Record: header.Record, Settings: header.Settings}
	text, err := wire.Marshal(wire.TypeEnd, end)
	if err == nil {
		l.stream.Queue(wire.Header{Type: wire.TypeEnd, Number: end.Position.Number}, nil, text)
		l.ended = true
	}
	v.mu.Unlock()
	l.stream.TryFlush()
	return err
}
