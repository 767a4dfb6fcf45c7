package nbd

import (
	"encoding/binary"
	"errors"
	"sync"

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
	refused  bool  // some request ended with ESHUTDOWN

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

// Complete implements block.Completer: it queues the reply.
func (c *conn) Complete(r *block.Request) {
	q := r.Tag.(*request)
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
	o.refused = o.refused || q.errno == nbdproto.ESHUTDOWN
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

// drop takes back everything queued without sending it. The caller holds mu.
func (o *replies) drop() {
	o.recycle(o.queue)
	o.queue = o.queue[:0]
}

// flush sends the queue unless somebody is at it, who will see what was added.
func (o *replies) flush() {
	o.mu.Lock()
	if o.sending || len(o.queue) == 0 {
		o.mu.Unlock()
		return
	}
	o.sending = true
	for range flushRoundsMax {
		o.take()
		o.mu.Unlock()
		whole := o.sendNow()
		if !whole {
			o.wake <- struct{}{} // has room: only the owner of sending puts something in, and the sender took the last one
			return
		}
		o.mu.Lock()
		if o.sentAll() {
			o.mu.Unlock()
			return
		}
	}
	o.mu.Unlock()
	o.wake <- struct{}{}
}

// take makes the queue the one being sent. The caller holds mu and sending; nothing is being sent.
func (o *replies) take() {
	o.now, o.queue = o.queue, o.now[:0]
	o.pos, o.off = 0, 0
}

// sentAll takes back what was sent, and gives sending up if nothing was queued meanwhile. The caller holds mu and sending.
func (o *replies) sentAll() bool {
	o.recycle(o.now)
	o.now = o.now[:0]
	if o.dead {
		o.drop()
	}
	if len(o.queue) == 0 {
		o.sending = false
		if o.waiting {
			o.room.Signal()
		}
	}
	return !o.sending
}

// gather makes the next pieces of what is being sent; none: all is sent.
func (o *replies) gather() [][]byte {
	o.pieces = o.pieces[:0]
	off := o.off
	for _, q := range o.now[o.pos:] {
		if len(o.pieces)+2 > iovecsMax {
			break
		}
		if off < q.headN {
			o.pieces = append(o.pieces, q.head[off:q.headN])
		}
		if q.body != nil {
			if b := q.body.Bytes[max(0, off-q.headN):]; len(b) > 0 {
				o.pieces = append(o.pieces, b)
			}
		}
		off = 0
	}
	return o.pieces
}

// sent counts n more bytes as sent.
func (o *replies) sent(n int) {
	n += o.off
	for o.pos < len(o.now) {
		q := o.now[o.pos]
		whole := q.headN
		if q.body != nil {
			whole += len(q.body.Bytes)
		}
		if n < whole {
			break
		}
		n -= whole
		o.pos++
	}
	o.off = n
}

// sendNow sends without waiting and reports whether all that was taken is gone, or will never go. The caller owns sending.
func (o *replies) sendNow() bool {
	for {
		pieces := o.gather()
		if len(pieces) == 0 {
			return true
		}
		n, err := o.c.in.sock.trySend(pieces)
		if err != nil {
			o.fail()
			return true
		}
		o.sent(n)
		if n < length(pieces) {
			return false
		}
	}
}

func length(pieces [][]byte) (n int) {
	for _, p := range pieces {
		n += len(p)
	}
	return n
}

// sendLoop is the sender goroutine: it sends what flush could not, with waiting.
func (o *replies) sendLoop() {
	for {
		select {
		case <-o.wake:
			o.sendRest()
		case <-o.quit:
			return
		}
	}
}

// sendRest sends what is being sent and then what is queued, until nothing is left, and gives sending up.
func (o *replies) sendRest() {
	for {
		for {
			pieces := o.gather()
			if len(pieces) == 0 {
				break
			}
			n := length(pieces)
			if err := o.c.in.sock.send(pieces); err != nil {
				o.fail()
				break
			}
			o.sent(n)
		}
		o.mu.Lock()
		if o.sentAll() {
			o.mu.Unlock()
			return
		}
		o.take()
		o.mu.Unlock()
	}
}

// fail gives the client up: what is queued is dropped, now and later.
func (o *replies) fail() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dead = true
	o.drop()
	o.room.Broadcast()
}

// waitIdle waits until nothing is in flight, and reports whether some request was refused because the device is shut.
func (o *replies) waitIdle() (refused bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.count > 0 || o.sending {
		o.waiting = true
		o.room.Wait()
		o.waiting = false
	}
	return o.refused && !o.dead
}

// stop ends the sender; nothing is in flight.
func (o *replies) stop() {
	close(o.quit)
	o.sender.Wait()
}

// errnoOf translates an error of a device.
func errnoOf(err error) nbdproto.Errno {
	switch {
	case errors.Is(err, block.ErrShutdown):
		return nbdproto.ESHUTDOWN
	case errors.Is(err, block.ErrNoSpace):
		return nbdproto.ENOSPC
	case errors.Is(err, block.ErrReadOnly):
		return nbdproto.EPERM
	}
	return nbdproto.EIO
}
