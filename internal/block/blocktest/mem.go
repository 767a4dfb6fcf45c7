// Package blocktest has what tests of and on block.Device need: a device in memory, one on a file, and a
// conformance suite that every Device has to pass.
package blocktest

import (
	"sync"

	"keelson/internal/block"
)

const chunkBytes = 64 << 10 // allocation unit of a Mem

// Mem is a sparse block.Device in memory. Requests are carried out in the order in which they are submitted, and
// completed before Submit returns, except while the device holds them.
type Mem struct {
	size int64

	mu       sync.RWMutex
	chunks   [][]byte // nil: a hole
	holding  bool
	held     []*block.Request
	heldSome sync.Cond // on mu: held grew
	fail     error
	flushes  int64
}

// NewMem returns a device of that many bytes, all holes.
func NewMem(size int64) *Mem {
	m := &Mem{size: size, chunks: make([][]byte, (size+chunkBytes-1)/chunkBytes)}
	m.heldSome.L = &m.mu
	return m
}

// Size implements block.Device.
func (m *Mem) Size() int64 { return m.size }

// Submit implements block.Device.
func (m *Mem) Submit(batch []*block.Request) {
	for _, r := range batch {
		if r.Op == block.Read && m.readNow(r) {
			r.By.Complete(r)
			continue
		}
		m.mu.Lock()
		held := m.holding
		if held {
			m.held = append(m.held, r)
			m.heldSome.Broadcast()
		} else {
			m.do(r)
		}
		m.mu.Unlock()
		if !held {
			r.By.Complete(r)
		}
	}
}

func (m *Mem) readNow(r *block.Request) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.holding {
		return false
	}
	m.do(r)
	return true
}

// do carries the request out. The caller holds mu, for a read at least shared.
func (m *Mem) do(r *block.Request) {
	r.Err = m.fail
	if r.Err == nil {
		r.Err = r.Check(m.size)
	}
	if r.Err != nil {
		return
	}
	switch r.Op {
	case block.Flush:
		m.flushes++
	case block.Read:
		m.each(r, func(i int64, at, n int, buf []byte) {
			if m.chunks[i] == nil {
				clear(buf)
			} else {
				copy(buf, m.chunks[i][at:])
			}
		})
	case block.Write:
		m.each(r, func(i int64, at, n int, buf []byte) { copy(m.chunk(i)[at:], buf) })
	case block.Zero, block.Trim:
		m.each(r, func(i int64, at, n int, _ []byte) {
			switch {
			case n == chunkBytes && r.Flags&block.NoHole == 0:
				m.chunks[i] = nil
			case m.chunks[i] != nil || r.Flags&block.NoHole != 0:
				clear(m.chunk(i)[at : at+n])
			}
		})
	}
}

func (m *Mem) chunk(i int64) []byte {
	if m.chunks[i] == nil {
		m.chunks[i] = make([]byte, chunkBytes)
	}
	return m.chunks[i]
}

// each calls fn for the part of the request in each chunk: bytes at..at+n of chunk i, which are buf of its payload.
func (m *Mem) each(r *block.Request, fn func(i int64, at, n int, buf []byte)) {
	for done := int64(0); done < r.Len; {
		off := r.Off + done
		at := int(off % chunkBytes)
		n := int(min(int64(chunkBytes-at), r.Len-done))
		var buf []byte
		if r.Buf != nil {
			buf = r.Buf.Bytes[done : done+int64(n)]
		}
		fn(off/chunkBytes, at, n, buf)
		done += int64(n)
	}
}

// Extents implements block.Device.
func (m *Mem) Extents(off, length int64) ([]block.Extent, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.fail != nil {
		return nil, m.fail
	}
	var out []block.Extent
	for end := off + length; off < end; {
		n := min(chunkBytes-off%chunkBytes, end-off)
		hole := m.chunks[off/chunkBytes] == nil
		if k := len(out); k > 0 && out[k-1].Hole == hole {
			out[k-1].Len += n
		} else {
			out = append(out, block.Extent{Len: n, Hole: hole, Zero: hole})
		}
		off += n
	}
	return out, nil
}

// Hold makes the device keep what is submitted from now on until Release.
func (m *Mem) Hold() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holding = true
}

// WaitHeld returns when at least n requests are held.
func (m *Mem) WaitHeld(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.held) < n {
		m.heldSome.Wait()
	}
}

// Release carries out and completes what was held, outside of any Submit, as a volume's acks do.
func (m *Mem) Release() { m.release() }

// Shutdown ends everything held, and everything submitted later, with block.ErrShutdown.
func (m *Mem) Shutdown() {
	m.Fail(block.ErrShutdown)
	m.release()
}

// Fail makes every later request end with err; nil ends that.
func (m *Mem) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Flushes is how many flushes were carried out.
func (m *Mem) Flushes() int64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.flushes
}

func (m *Mem) release() {
	m.mu.Lock()
	held := m.held
	m.held, m.holding = nil, false
	for _, r := range held {
		m.do(r)
	}
	m.mu.Unlock()
	by := map[block.Completer]bool{}
	for _, r := range held {
		by[r.By] = true
		r.By.Complete(r)
	}
	for c := range by {
		c.Flush()
	}
}
