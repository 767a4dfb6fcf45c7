package vfs

import (
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// CrashProcess ends the process that used the file system: handles are dead, locks are gone, everything written is there.
// But some of what a failed Datasync lost may have left the memory meanwhile: then the disk's content shows.
func (m *Mem) CrashProcess() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(m.names)) {
		m.names[path].evict(m.rand)
	}
	m.drop()
}

// drop ends every handle and lock.
func (m *Mem) drop() {
	m.epoch++
	m.hook = nil
	for _, f := range m.names {
		f.locked = false
	}
}

// CrashPower cuts the power: besides, what was not durable is kept or lost at random, sector by sector and name by name.
func (m *Mem) CrashPower() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range m.pending {
		if m.rand.IntN(2) == 0 {
			c.apply(m.durable)
		}
	}
	m.pending = nil
	m.names = map[string]*memFile{}
	for _, path := range slices.Sorted(maps.Keys(m.durable)) {
		m.names[path] = m.durable[path]
		for d := filepath.Dir(path); !m.dirs[d]; d = filepath.Dir(d) {
			m.dirs[d] = true
		}
		m.names[path].settle(m.rand)
	}
	m.drop()
}

// settle decides for every sector, and the size, that is not durable: any content since it was is possible.
func (f *memFile) settle(r *rand.Rand) {
	for _, n := range f.unsyncedSectors() {
		past := f.unsynced[n]
		if r.IntN(2) == 0 {
			f.setSector(n, past[r.IntN(len(past))])
		}
	}
	clear(f.unsynced)
	if k := r.IntN(len(f.sizes) + 1); k < len(f.sizes) {
		f.size = f.sizes[k]
	}
	f.sizes = nil
	f.forget(r, 0, math.MaxInt64)
	if len(f.lostSizes) > 0 {
		f.size, f.lostSizes = f.lostSizes[r.IntN(len(f.lostSizes))], nil
	}
	f.clearFrom(f.size)
}

// lose takes what is not durable for clean, after a failed Datasync. What a truncation cut off is not data: it is kept with
// the names, and follows later.
func (f *memFile) lose(r *rand.Rand) {
	for _, n := range f.unsyncedSectors() {
		switch past := f.unsynced[n]; {
		case n*SectorBytes >= f.size:
			continue
		case r.IntN(4) > 0:
			f.lost[n] = past
		}
		delete(f.unsynced, n)
	}
	if len(f.sizes) > 0 && r.IntN(2) == 0 {
		f.lostSizes = append(f.lostSizes, f.sizes...)
	}
	f.sizes = nil
}

// forget shows what the disk has of the lost sectors in a range of bytes.
func (f *memFile) forget(r *rand.Rand, from, to int64) {
	for _, n := range slices.Sorted(maps.Keys(f.lost)) {
		if past := f.lost[n]; n*SectorBytes < to && (n+1)*SectorBytes > from {
			f.setSector(n, past[r.IntN(len(past))])
			delete(f.lost, n)
		}
	}
}

// evict forgets pages at random.
func (f *memFile) evict(r *rand.Rand) {
	if len(f.lost) == 0 {
		return
	}
	pages := map[int64]bool{}
	for n := range f.lost {
		pages[n*SectorBytes/memPageBytes] = true
	}
	for _, page := range slices.Sorted(maps.Keys(pages)) {
		if r.IntN(4) == 0 {
			f.forget(r, page*memPageBytes, (page+1)*memPageBytes)
		}
	}
}

// unsyncedSectors are the numbers of the sectors that are not durable, ascending: the same seed makes the same crash.
func (f *memFile) unsyncedSectors() []int64 {
	return slices.Sorted(maps.Keys(f.unsynced))
}

// clearFrom makes what is past the end read as zero, should the file grow again.
func (f *memFile) clearFrom(size int64) {
	for page, content := range f.pages {
		switch at := page * memPageBytes; {
		case at >= size:
			delete(f.pages, page)
		case at+memPageBytes > size:
			clear(content[size-at:])
		}
	}
}

// Peek is one sector of a file: as the running system sees it, and as it is on the disk for sure. It asks no hook.
func (m *Mem) Peek(path string, sector int64) (now, durable [SectorBytes]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.names[filepath.Clean(path)]
	if f == nil {
		return now, durable
	}
	if s := f.sector(sector); s != nil {
		now = *s
	}
	durable = now
	past, ok := f.unsynced[sector]
	if !ok {
		past, ok = f.lost[sector]
	}
	if ok {
		durable = [SectorBytes]byte{}
		if past[0] != nil {
			durable = *past[0]
		}
	}
	return now, durable
}
