package nbd

import (
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"keelson/internal/block"
	"keelson/internal/frontend/nbd/nbdproto"
)

// request is a block.Request with its reply. It is reused by its connection: from the reader, which fills it, to the
// device, to the queue of replies, to the socket, and back to the reader.
type request struct {
	block.Request
	status bool           // a block status: its reply is structured, as a read's
	errno  nbdproto.Errno // 0: success
	charge int64          // payload bytes counted against InFlightBytesMax
	head   [nbdproto.StructuredBytes + 8]byte
	headN  int
	body   *block.Buffer // sent after the head; nil: none
}

// replies is the write side of a connection, and the count of what is in flight.
type replies struct {
	c *conn

	mu       sync.Mutex
	room     sync.Cond  // on mu: something was answered, or the connection ends
	queue    []*request // to be sent
	free     []*request
	count    int   // requests between admit and the end of their reply
	bytes    int64 // their payload
	waiting  bool  // the reader waits on room
	sending  bool  // somebody owns the fields below that say so
	draining bool  // nothing more is read
	dead     bool  // nothing more is sent
	shut     bool  // the device is shut: what it ended so gets no reply, the connection ends

	structured bool // set before the first request

	// Owned by whoever set sending.
	now    []*request // being sent
	pos    int        // now[:pos] are sent
	off    int        // bytes of now[pos] that are sent
	pieces [][]byte

	wake   chan struct{} // hands sending over to the sender
	quit   chan struct{}
	sender sync.WaitGroup
}

func (o *replies) init(c *conn) {
	o.c = c
	o.room.L = &o.mu
	o.wake = make(chan struct{}, 1)
	o.quit = make(chan struct{})
}

// limit sets how long the handshake may take, unless the connection is to end at once.
func (o *replies) limit(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.draining {
		o.c.raw.SetDeadline(time.Now().Add(d))
	}
}

// start begins the transmission, unless the export was removed meanwhile. From here on there is no read deadline but drain's.
func (o *replies) start() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.draining || o.dead {
		return false
	}
	o.c.raw.SetDeadline(noDeadline)
	o.structured = o.c.structured
	o.pieces = make([][]byte, 0, iovecsMax)
	o.sender.Go(o.sendLoop)
	return true
}

func (o *replies) isDraining() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.draining
}

// admit counts a request with that much payload in flight and returns it, or nil if there is no room for it. With wait it waits for room
// and returns nil only if the connection ends.
func (o *replies) admit(payload int64, wait bool) *request {
	opts := &o.c.s.opts
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.count > 0 && (o.count >= opts.RequestsMax || o.bytes+payload > opts.InFlightBytesMax) {
		if !wait || o.dead || o.draining {
			return nil
		}
		o.waiting = true
		o.room.Wait()
		o.waiting = false
	}
	o.count++
	o.bytes += payload
	var q *request
	if k := len(o.free); k > 0 {
		q = o.free[k-1]
		o.free = o.free[:k-1]
	} else {
		q = &request{}
		q.Tag = q
	}
	q.charge = payload
	return q
}

// Complete implements block.Completer: it queues the reply. A request that ended because the volume is served elsewhere, or
// nowhere for now, gets none: its connection ends, and a client that connects anew does the request again where the volume is.
// An error would go up to its application.
func (c *conn) Complete(r *block.Request) {
	q := r.Tag.(*request)
	if errors.Is(r.Err, block.ErrShutdown) {
		r.Buf.Release()
		r.Buf = nil
		c.shut(q)
		return
	}
	if r.Err != nil {
		q.errno = errnoOf(r.Err)
	}
	if r.Op == block.Read && q.errno == 0 {
		q.body = r.Buf
	} else {
		r.Buf.Release()
	}
	r.Buf = nil
	c.out.put(q)
}

// Flush implements block.Completer: it sends what is queued, as far as that goes without waiting.
func (c *conn) Flush() { c.out.flush() }

// put makes the head of the reply and queues it.
func (o *replies) put(q *request) {
	switch {
	case !o.structured || q.Op != block.Read && !q.status:
		nbdproto.PutSimple(q.head[:], q.errno, q.Cookie)
		q.headN = nbdproto.SimpleBytes
	case q.errno != 0:
		q.putError()
	case q.status:
		nbdproto.PutStructured(q.head[:], nbdproto.ChunkDone, nbdproto.ChunkBlockStatus, q.Cookie, len(q.body.Bytes))
		q.headN = nbdproto.StructuredBytes
	default:
		nbdproto.PutStructured(q.head[:], nbdproto.ChunkDone, nbdproto.ChunkOffsetData, q.Cookie, 8+len(q.body.Bytes))
		binary.BigEndian.PutUint64(q.head[nbdproto.StructuredBytes:], uint64(q.Off))
		q.headN = nbdproto.StructuredBytes + 8
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if q.body == nil {
		o.bytes -= q.charge
		q.charge = 0
	}
	o.queue = append(o.queue, q)
	if o.dead {
		o.drop()
	}
}

// putError makes the reply a chunk with the error and its text.
func (q *request) putError() {
	text := q.errno.Error()
	if q.Err != nil {
		text = q.Err.Error()
	}
	text = text[:min(len(text), nbdproto.NameBytesMax)]
	q.body = block.NewBuffer(6 + len(text))
	binary.BigEndian.PutUint32(q.body.Bytes, uint32(q.errno))
	binary.BigEndian.PutUint16(q.body.Bytes[4:], uint16(len(text)))
	copy(q.body.Bytes[6:], text)
	nbdproto.PutStructured(q.head[:], nbdproto.ChunkDone, nbdproto.ChunkError, q.Cookie, len(q.body.Bytes))
	q.headN = nbdproto.StructuredBytes
}

// recycle takes back requests whose replies are sent. The caller holds mu.
func (o *replies) recycle(done []*request) {
	for i, q := range done {
		o.bytes -= q.charge
		q.body.Release()
		q.body, q.errno, q.status, q.Err = nil, 0, false, nil
		o.free = append(o.free, q)
		done[i] = nil
	}
	o.count -= len(done)
	if o.waiting {
		o.room.Signal()
	}
}

// abandon takes back a request that gets no reply: the connection ends.
func (o *replies) abandon(q *request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.recycle([]*request{q})
}

// shut ends the connection without a reply to q. Other replies are sent before.
func (c *conn) shut(q *request) {
	c.out.mu.Lock()
	c.out.shut = true
	c.out.recycle([]*request{q})
	c.out.mu.Unlock()
	c.drain()
}

// drop takes back everything queued without sending it. The caller holds mu.
func (o *replies) drop() {
	o.recycle(o.queue)
	o.queue = o.queue[:0]
}

// fail gives the client up: what is queued is dropped, now and later.
func (o *replies) fail() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dead = true
	o.drop()
	o.room.Broadcast()
}

// waitIdle waits until nothing is in flight, and reports whether the device is shut and the client still there.
func (o *replies) waitIdle() (shut bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.count > 0 || o.sending {
		o.waiting = true
		o.room.Wait()
		o.waiting = false
	}
	return o.shut && !o.dead
}

// stop ends the sender; nothing is in flight.
func (o *replies) stop() {
	close(o.quit)
	o.sender.Wait()
}

// errnoOf translates an error of a device.
func errnoOf(err error) nbdproto.Errno {
	switch {
	case errors.Is(err, block.ErrNoSpace):
		return nbdproto.ENOSPC
	case errors.Is(err, block.ErrReadOnly):
		return nbdproto.EPERM
	}
	return nbdproto.EIO
}
