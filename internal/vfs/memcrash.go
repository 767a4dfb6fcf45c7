package vfs

import (
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// CrashProcess ends the process that used the file system: handles are dead, locks are gone, everything written is there.
func (m *Mem) CrashProcess() {
	m.mu.Lock()
	defer m.mu.Unlock()
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
	f.clearFrom(f.size)
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
	if past, ok := f.unsynced[sector]; ok {
		durable = [SectorBytes]byte{}
		if past[0] != nil {
			durable = *past[0]
		}
	}
	return now, durable
}
