package intentlog

import (
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"

	"keelson/internal/vfs"
)

// hotSet is which extents are hot. The state of an extent is one word: the top bit says durably hot, the rest is the
// epoch (a checkpoint begins the next) in which it was last touched. It cools by compare-and-swap, so that a touch that
// comes between the look and the cooling wins.
type hotSet struct {
	states []atomic.Uint32
	epoch  atomic.Uint32
	count  atomic.Int64

	mu   sync.Mutex
	next *hotBatch // callers that wait for flush together

	flush sync.Mutex // over file I/O and the image
	file  vfs.File
	id    logID
	image []byte   // payloads of the file's sectors; a bit that is set on the disk is set here, once written
	order []uint64 // sequence of each sector
	dirty []int    // sectors to write, while flush is held
	buf   [sectorBytes]byte
}

const (
	hotBit     = 1 << 31
	firstEpoch = 2
)

// hotBatch is one group commit.
type hotBatch struct {
	extents []int64
	done    chan struct{}
	err     error
}

func (s *hotSet) init(g geometry) {
	s.states = make([]atomic.Uint32, g.extents())
	s.image = make([]byte, hotSectors(g)*payloadBytes)
	s.order = make([]uint64, hotSectors(g))
	s.epoch.Store(firstEpoch)
}

// touch reports whether the extent is durably hot, and notes that it was used in this epoch.
func (s *hotSet) touch(e int64) bool {
	for {
		state := s.states[e].Load()
		if state&hotBit == 0 {
			return false
		}
		now := s.epoch.Load() | hotBit // after the state: it never goes back
		if state == now || s.states[e].CompareAndSwap(state, now) {
			return true
		}
	}
}

// heat makes an extent hot in memory, once it is durably so.
func (s *hotSet) heat(e int64) {
	if s.touch(e) {
		return
	}
	s.states[e].Store(s.epoch.Load() | hotBit)
	s.count.Add(1)
}

// Hot reports whether the extents first to last, inclusive, are all durably hot, and touches them: a checkpoint whose
// switch came before does not cool them.
func (l *Log) Hot(first, last int64) bool {
	for e := first; e <= last; e++ {
		if !l.hot.touch(e) {
			return false
		}
	}
	return true
}

// IsHot reports whether an extent is durably hot, without touching it.
func (l *Log) IsHot(e int64) bool { return l.hot.states[e].Load()&hotBit != 0 }

// HotCount is how many extents are hot.
func (l *Log) HotCount() int { return int(l.hot.count.Load()) }

// HotMax is how many may be hot before a checkpoint is due (Options.HotExtentsMax, at most all). MarkHot goes on above it.
func (l *Log) HotMax() int { return int(min(int64(l.options.HotExtentsMax), l.geometry.extents())) }

// HotExtents are the hot extents, ascending.
func (l *Log) HotExtents() []int64 {
	list := make([]int64, 0, l.HotCount())
	for e := range l.hot.states {
		if l.IsHot(int64(e)) {
			list = append(list, int64(e))
		}
	}
	return list
}

// MarkHot makes extents durably hot and touches them. Callers that come together share one write of each sector and one
// sync. If there is no room for it nothing is marked for sure, nothing is lost, and it may be called again.
func (l *Log) MarkHot(extents []int64) error {
	for _, e := range extents {
		if e < 0 || e >= int64(len(l.hot.states)) {
			panic(fmt.Sprintf("intentlog: extent %d of %d", e, len(l.hot.states)))
		}
	}
	if err := l.usable(); err != nil {
		return err
	}
	if l.clean.Load() {
		return fmt.Errorf("intent log %s: it is marked clean: ClearClean comes before anything is served", l.dir)
	}
	if l.touchAll(extents) {
		return nil
	}
	h := &l.hot
	h.mu.Lock()
	b := h.next
	leads := b == nil
	if leads {
		b = &hotBatch{done: make(chan struct{})}
		h.next = b
	}
	b.extents = append(b.extents, extents...)
	h.mu.Unlock()
	if !leads {
		<-b.done
		return b.err
	}
	h.flush.Lock() // meanwhile others join
	h.mu.Lock()
	h.next = nil
	h.mu.Unlock()
	b.err = l.durable("mark extents hot", l.commitHot(b.extents))
	h.flush.Unlock()
	close(b.done)
	return b.err
}

func (l *Log) touchAll(extents []int64) bool {
	for _, e := range extents {
		if !l.hot.touch(e) {
			return false
		}
	}
	return true
}

// commitHot writes the sectors of the extents that are not hot yet, and syncs. Under flush.
func (l *Log) commitHot(extents []int64) error {
	h := &l.hot
	if err := l.usable(); err != nil {
		return err
	}
	fresh := extents[:0]
	for _, e := range extents {
		if !h.touch(e) {
			fresh = append(fresh, e)
			h.image[e/hotSectorExtents*payloadBytes+e%hotSectorExtents/8] |= 1 << (e % 8)
			h.mark(int(e / hotSectorExtents))
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	err := h.write()
	if err == nil && !l.leftOut(hotBeforeWrite) {
		err = h.file.Datasync()
	}
	if err != nil { // the bits stay set, here and perhaps on the disk, until a checkpoint: too many are hot, never too few
		return err
	}
	for _, e := range fresh {
		h.heat(e)
	}
	return nil
}

// mark notes a sector to write.
func (s *hotSet) mark(sector int) {
	if n := len(s.dirty); n > 0 && s.dirty[n-1] == sector || slices.Contains(s.dirty, sector) {
		return
	}
	s.dirty = append(s.dirty, sector)
}

// write writes the sectors noted; those it could not write stay noted. Under flush.
func (s *hotSet) write() error {
	for ; len(s.dirty) > 0; s.dirty = s.dirty[:len(s.dirty)-1] {
		sector := s.dirty[len(s.dirty)-1]
		s.order[sector]++
		if err := s.put(sector); err != nil {
			return err
		}
	}
	return nil
}

// put writes one sector as it is here. Under flush.
func (s *hotSet) put(sector int) error {
	copy(s.buf[:], s.image[sector*payloadBytes:][:payloadBytes])
	seal(s.buf[:], kindHot, sector, s.order[sector], &s.id)
	_, err := s.file.WriteAt(s.buf[:], hotSectorAt(sector))
	return err
}

// cool cools what was last touched before the epoch, in memory and then in the file. Nothing waits for the file: until
// the next sync the disk may have more hot than there is. Under flush.
func (s *hotSet) cool(before uint32, always bool) error {
	for at, b := range s.image {
		if b == 0 {
			continue
		}
		sector := at / payloadBytes
		e := int64(sector)*hotSectorExtents + int64(at%payloadBytes)*8
		for ; b != 0; b &= b - 1 {
			bit := bits.TrailingZeros8(b)
			if s.coolOne(e+int64(bit), before, always) {
				s.image[at] &^= 1 << bit
				s.mark(sector)
			}
		}
	}
	return s.write()
}

// coolOne reports whether the extent is not hot now.
func (s *hotSet) coolOne(e int64, before uint32, always bool) bool {
	state := s.states[e].Load()
	if state&hotBit == 0 {
		return true // a mark that did not succeed
	}
	if state&^hotBit >= before && !always || !s.states[e].CompareAndSwap(state, 0) {
		return false
	}
	s.count.Add(-1)
	return true
}
