package undo

import "sync"

// regionSet is a set of region numbers: one bit each, up to the greatest that was added (16 MiB at regionsMax).
type regionSet struct {
	mu    sync.RWMutex
	bits  []uint64
	count int64
}

func (s *regionSet) has(region int64) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	w := region >> 6
	return region >= 0 && w < int64(len(s.bits)) && s.bits[w]&(1<<(region&63)) != 0
}

// add returns false if the region was there.
func (s *regionSet) add(region int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := region >> 6
	if w >= int64(len(s.bits)) {
		s.bits = append(s.bits, make([]uint64, max(w+1-int64(len(s.bits)), min(int64(len(s.bits)), regionsMax>>6-int64(len(s.bits)))))...)
	}
	if s.bits[w]&(1<<(region&63)) != 0 {
		return false
	}
	s.bits[w] |= 1 << (region & 63)
	s.count++
	return true
}

func (s *regionSet) len() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.count
}

func (s *regionSet) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bits, s.count = nil, 0
}
