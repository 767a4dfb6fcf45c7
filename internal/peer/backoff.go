package peer

import (
	"math/rand/v2"
	"time"
)

// Backoff says how long to wait before the next attempt: doubling from Min to Max, each drawn from the upper half, so that
// servers that lost each other at one moment do not come back at one moment. The zero value waits 100 ms to 5 s.
type Backoff struct {
	Min, Max time.Duration
	next     time.Duration
}

// Next is how long to wait now.
func (b *Backoff) Next() time.Duration {
	low, high := b.Min, b.Max
	if low <= 0 {
		low = 100 * time.Millisecond
	}
	if high <= 0 {
		high = 5 * time.Second
	}
	b.next = min(max(b.next, low), high)
	d := b.next/2 + rand.N(b.next/2+1)
	b.next = min(2*b.next, high)
	return d
}

// Reset begins anew, after a success.
func (b *Backoff) Reset() { b.next = 0 }
