package block

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// Buffer is a payload that several owners may hold: a disk write, the queue of each stream. The last Release
// gives it back to its pool. Its content must not change while more than one owner holds it.
type Buffer struct {
	Bytes []byte
	refs  atomic.Int32
	class int8 // index of its pool; -1: not pooled
	whole []byte
}

const (
	classMin = 12 // 4 KiB
	classMax = 25 // 32 MiB
)

var pools [classMax + 1]sync.Pool

// NewBuffer returns a buffer of n bytes with one owner. Its content is undefined.
func NewBuffer(n int) *Buffer {
	class := classMin
	if n > 1<<classMin {
		class = bits.Len(uint(n - 1))
	}
	if class > classMax {
		b := &Buffer{Bytes: make([]byte, n), class: -1}
		b.refs.Store(1)
		return b
	}
	b, _ := pools[class].Get().(*Buffer)
	if b == nil {
		b = &Buffer{whole: make([]byte, 1<<class), class: int8(class)}
	}
	b.Bytes = b.whole[:n]
	b.refs.Store(1)
	return b
}

// Wrap makes b a buffer over memory of the caller's, with one owner. It belongs to no pool: for reads into memory that a
// protocol gave.
func (b *Buffer) Wrap(p []byte) {
	b.Bytes, b.whole, b.class = p, nil, -1
	b.refs.Store(1)
}

// Retain adds an owner.
func (b *Buffer) Retain() *Buffer {
	b.refs.Add(1)
	return b
}

// Release ends one ownership. A nil buffer is released freely.
func (b *Buffer) Release() {
	if b == nil {
		return
	}
	switch n := b.refs.Add(-1); {
	case n < 0:
		panic("block: a buffer was released more often than it was retained")
	case n == 0 && b.class >= 0:
		b.Bytes = nil
		pools[b.class].Put(b)
	}
}
