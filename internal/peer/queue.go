package peer

import (
	"keelson/internal/block"
	"keelson/internal/wire"
)

// Sizes of the outgoing queue.
const (
	chunkBytes     = 32 << 10 // headers and small bodies are collected in chunks of so much
	smallBytesMax  = 4 << 10  // a longer small body becomes a buffer of its own
	freeChunksMax  = 8        // empty chunks kept for later
	gatherPieces   = 512      // pieces of memory in one system call; IOV_MAX is 1024
	gatherBytesMax = 1 << 20  // bytes offered to the socket in one system call
)

// chunk is memory for the headers and small bodies of successive frames.
type chunk struct {
	b    [chunkBytes]byte
	used int // bytes
	segs int // segments in the queue that lie in it
	next *chunk
}

// segment is one piece of what waits: part of a chunk, or a body.
type segment struct {
	p     []byte
	chunk *chunk        // or
	body  *block.Buffer // one ownership of it is the segment's
}

// queue is what waits for the socket, in order. Its owner's mutex guards it. In the steady state it allocates nothing.
//
// Whoever sends gathers pieces, leaves the mutex, writes, and comes back to advance: until then the memory stays where it
// is, while others append behind it. The last segment may grow meanwhile (headers of frames without bodies lie beside each
// other); it is gone only when all of it was sent.
type queue struct {
	segs  []segment // segs[head:] wait
	head  int
	gone  int   // bytes of segs[head] that are sent
	bytes int64 // all that waits
	chunk *chunk
	free  *chunk
	nfree int
}

// put appends a frame and retains its body. The frame's length in bytes comes back.
func (q *queue) put(h *wire.Header, body *block.Buffer, small []byte) int64 {
	if len(small) > smallBytesMax {
		body = block.NewBuffer(len(small))
		copy(body.Bytes, small)
		small = nil
	} else if body != nil {
		body.Retain()
	}
	need := wire.HeaderBytes + len(small)
	if q.chunk == nil || q.chunk.used+need > chunkBytes {
		q.newChunk()
	}
	c := q.chunk
	h.Encode((*[wire.HeaderBytes]byte)(c.b[c.used:]))
	copy(c.b[c.used+wire.HeaderBytes:], small)
	if n := len(q.segs); n > q.head && q.segs[n-1].chunk == c {
		last := &q.segs[n-1]
		last.p = last.p[:len(last.p)+need]
	} else {
		q.push(segment{p: c.b[c.used : c.used+need], chunk: c})
		c.segs++
	}
	c.used += need
	size := int64(need)
	if body != nil {
		q.push(segment{p: body.Bytes, body: body})
		size += int64(len(body.Bytes))
	}
	q.bytes += size
	return size
}

func (q *queue) push(s segment) {
	if len(q.segs) == cap(q.segs) && q.head > len(q.segs)/2 {
		n := copy(q.segs, q.segs[q.head:])
		clear(q.segs[n:])
		q.segs, q.head = q.segs[:n], 0
	}
	q.segs = append(q.segs, s)
}

func (q *queue) newChunk() {
	if old := q.chunk; old != nil && old.segs == 0 {
		old.used = 0 // all of it was sent
		return
	}
	if q.chunk = q.free; q.chunk == nil {
		q.chunk = new(chunk)
		return
	}
	q.free, q.nfree = q.chunk.next, q.nfree-1
	q.chunk.next = nil
}

// gather appends pieces of the queue's front to out, at most gatherPieces and bytesMax.
func (q *queue) gather(out [][]byte, bytesMax int) [][]byte {
	gone := q.gone
	for i := q.head; i < len(q.segs) && len(out) < gatherPieces && bytesMax > 0; i++ {
		p := q.segs[i].p[gone:]
		gone = 0
		p = p[:min(len(p), bytesMax)]
		bytesMax -= len(p)
		out = append(out, p)
	}
	return out
}

// advance drops n bytes from the front.
func (q *queue) advance(n int) {
	q.bytes -= int64(n)
	n += q.gone
	for q.head < len(q.segs) && n >= len(q.segs[q.head].p) {
		n -= len(q.segs[q.head].p)
		q.release(&q.segs[q.head])
		q.head++
	}
	q.gone = n
	if q.head == len(q.segs) {
		q.segs, q.head = q.segs[:0], 0
	}
}

func (q *queue) release(s *segment) {
	if s.body != nil {
		s.body.Release()
	} else if c := s.chunk; c != nil {
		if c.segs--; c.segs == 0 {
			c.used = 0
			if c != q.chunk && q.nfree < freeChunksMax {
				c.next, q.free = q.free, c
				q.nfree++
			}
		}
	}
	*s = segment{}
}

// drop releases everything.
func (q *queue) drop() {
	for i := q.head; i < len(q.segs); i++ {
		q.release(&q.segs[i])
	}
	q.segs, q.head, q.gone, q.bytes = q.segs[:0], 0, 0, 0
}
