// Package resync decides what a resync copies and how fast: the set of regions that are not in step, the kind of a
// resync and the rule that chose it, its pace and its progress. It is pure: time is passed in.
package resync

import "math/bits"

// Set is a set of region numbers in [0, size): those that are not in step. One bit a region, and a count. Not safe for
// concurrent use.
type Set struct {
	words []uint64
	size  int64
	n     int64
}

// NewSet makes an empty set for a volume of that many regions.
func NewSet(regions int64) *Set {
	return &Set{words: make([]uint64, (regions+63)/64), size: regions}
}

// Add puts the region into the set and reports whether it was not in it. Outside of the volume it panics.
func (s *Set) Add(region int64) bool {
	word, bit := s.at(region)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	s.n++
	return true
}

// AddAll puts every region of the volume into the set.
func (s *Set) AddAll() {
	for i := range s.words {
		s.words[i] = ^uint64(0)
	}
	if rest := s.size % 64; rest != 0 {
		s.words[len(s.words)-1] = 1<<rest - 1
	}
	s.n = s.size
}

// Remove takes the region out and reports whether it was in it.
func (s *Set) Remove(region int64) bool {
	word, bit := s.at(region)
	if *word&bit == 0 {
		return false
	}
	*word &^= bit
	s.n--
	return true
}

// Has reports whether the region is in the set.
func (s *Set) Has(region int64) bool {
	word, bit := s.at(region)
	return *word&bit != 0
}

// Any reports whether some region of first..last, inclusive, is in the set.
func (s *Set) Any(first, last int64) bool {
	r, ok := s.Next(first)
	return ok && r <= last
}

// Next returns the first region of the set that is not below from; false if there is none.
func (s *Set) Next(from int64) (int64, bool) {
	if from < 0 {
		from = 0
	}
	if from >= s.size {
		return 0, false
	}
	i := from / 64
	word := s.words[i] &^ (1<<(from%64) - 1)
	for word == 0 {
		i++
		if i == int64(len(s.words)) {
			return 0, false
		}
		word = s.words[i]
	}
	return i*64 + int64(bits.TrailingZeros64(word)), true
}

// Len is the number of regions in the set.
func (s *Set) Len() int64 { return s.n }

func (s *Set) at(region int64) (*uint64, uint64) {
	if region < 0 || region >= s.size {
		panic("resync: a region outside of the volume")
	}
	return &s.words[region/64], 1 << (region % 64)
}
