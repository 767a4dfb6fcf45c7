package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"keelson/internal/block"
	"keelson/internal/wire"
)

// Conn is one mirror's stream to one peer: ordered frames both ways.
//
// Its life: Dial makes it after the hellos, or the server hands it to Handlers.Stream, whose Accept starts it. From then
// on one goroutine Reads, any number of them Queue and TryFlush, and two goroutines of its own (the sender for what the
// socket did not take at once, and the heartbeat) run until it ends. It ends by any error of reading, decoding or sending,
// by a silent peer, or by Close; it never comes back. Whoever got it calls Close, which also waits for both goroutines.
//
// Sending. Frames are appended to the queue under the mutex. Whoever calls TryFlush while nobody is sending becomes the
// sender, writes what is there without blocking, and goes on with what others queued meanwhile; so what waits together
// leaves in one system call, and nobody waits for anybody. If the socket is full the role passes to the sender goroutine,
// which waits for the socket.
type Conn struct {
	o           Options
	tcp         Socket
	raw         syscall.RawConn // nil: a Socket that is not the kernel's
	rec         *recordConn
	tls         *tls.Conn
	encrypted   bool
	peer        string
	incarnation string
	began       time.Time
	accepted    bool     // the hello was answered; a server's Conn is of no use before
	self        Identity // of the server, for Accept
	asked       string   // server: the encryption that the hello asked for

	mu      sync.Mutex // guards what follows, to the next blank line
	q       queue
	sealed  int64 // bytes encrypted and not yet taken by the socket
	sending bool  // somebody owns the sending side
	ended   bool
	err     error
	rate    int64         // bytes a second; 0: no limit
	room    chan struct{} // closed when less than roomAt is queued; nil: nobody waits
	roomAt  int64

	// Of whoever is sending.
	pieces [][]byte
	out    socketWriter
	seal   sealer
	paced  time.Time // when the next byte may go

	// Of the reader.
	in reader

	queued  atomic.Int64
	frames  atomic.Uint64 // queued so far
	sent    atomic.Int64
	got     atomic.Int64
	reading atomic.Bool  // waits for the socket
	rtt     atomic.Int64 // ns, of the newest pong

	wake   chan struct{} // the sending side was handed to the sender goroutine
	repace chan struct{} // the rate changed
	done   chan struct{}
	wg     sync.WaitGroup
}

// newConn is a connection after the TLS handshake.
func newConn(rec *recordConn, t *tls.Conn, peer string, o Options) *Conn {
	c := &Conn{
		o: o, tcp: rec.Socket, rec: rec, tls: t, peer: peer,
		wake: make(chan struct{}, 1), repace: make(chan struct{}, 1), done: make(chan struct{}),
	}
	rec.stream.Store(c)
	return c
}

// start makes the stream ready after the hellos.
func (c *Conn) start(encrypted bool) error {
	raw, err := rawOf(c.tcp)
	if err != nil {
		return err
	}
	if err := c.tcp.SetDeadline(time.Time{}); err != nil {
		return err
	}
	c.raw, c.encrypted, c.accepted, c.began = raw, encrypted, true, time.Now()
	c.pieces = make([][]byte, 0, gatherPieces)
	c.sent.Store(c.rec.sent)
	c.got.Store(c.rec.got)
	c.out.init(c)
	c.in.init(c)
	if encrypted {
		c.rec.streaming(c)
		c.seal.stage = make([]byte, 0, recordPlainMax)
	}
	c.wg.Add(2)
	go c.sender()
	go c.heartbeat()
	return nil
}

// Peer is the node at the other end, as its certificate says.
func (c *Conn) Peer() string { return c.peer }

// RemoteIncarnation is the peer's process, as its hello said; it changes with every start.
func (c *Conn) RemoteIncarnation() string { return c.incarnation }

// Encrypted reports whether frames travel in TLS.
func (c *Conn) Encrypted() bool { return c.encrypted }

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.tcp.RemoteAddr() }

// RoundTrip is the newest measured round trip of a heartbeat; 0 if there was none yet.
func (c *Conn) RoundTrip() time.Duration { return time.Duration(c.rtt.Load()) }

// Sent is what was put on the wire so far, in bytes: frames, encryption and the handshake.
func (c *Conn) Sent() int64 { return c.sent.Load() }

// Received is what came from the wire so far, in bytes.
func (c *Conn) Received() int64 { return c.got.Load() }

// QueuedBytes is what was queued and not yet taken by the socket.
func (c *Conn) QueuedBytes() int64 { return c.queued.Load() }

// Done is closed when the stream has ended; Err says why.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err is why the stream ended, nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Queue appends a frame. The body is either a buffer, which is retained until it is sent, or small, which is copied, or
// neither. Queue sets h.Body, and h.BodyCRC if it is 0. It never blocks; TryFlush sends. The order of calls is the order on
// the wire. After the stream has ended frames are dropped. More than Options.QueueBytesMax ends the stream.
func (c *Conn) Queue(h wire.Header, body *block.Buffer, small []byte) {
	p := small
	if body != nil {
		if len(small) != 0 {
			panic("peer: a frame has one body")
		}
		p = body.Bytes
	}
	h.Body = uint32(len(p))
	if h.BodyCRC == 0 {
		h.BodyCRC = wire.Checksum(p)
	}
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.q.put(&h, body, small)
	queued := c.q.bytes + c.sealed
	c.queued.Store(queued)
	c.mu.Unlock()
	c.frames.Add(1)
	if queued > c.o.QueueBytesMax {
		c.fail(fmt.Errorf("stream to %s: %d bytes are queued, more than %d: the peer or the network is too slow (%s)", c.peer, queued, c.o.QueueBytesMax, RuleQueue))
	}
}

// WaitRoom blocks until less than below bytes are queued. It returns the context's error, or the stream's once it has ended.
func (c *Conn) WaitRoom(ctx context.Context, below int64) error {
	for {
		c.mu.Lock()
		if c.ended {
			defer c.mu.Unlock()
			return c.err
		}
		if c.q.bytes+c.sealed < below {
			c.mu.Unlock()
			return nil
		}
		if c.room == nil {
			c.room, c.roomAt = make(chan struct{}), 0
		}
		c.roomAt = max(c.roomAt, below)
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fail ends the stream, once. It does not wait for anybody.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended, c.err = true, err
	close(c.done)
	if !c.sending {
		c.dropQueue()
	}
	c.mu.Unlock()
	c.tcp.Close()
	c.rec.over()
}

// dropQueue releases what was queued. The mutex is held and nobody is sending.
func (c *Conn) dropQueue() {
	c.q.drop()
	c.sealed = 0
	c.queued.Store(0)
}

// closeWaitMax is how long Close tries to send what is queued.
const closeWaitMax = 250 * time.Millisecond

// ClosedError is the end of a stream that this side closed.
type ClosedError struct {
	Peer   string
	Reason error
}

func (e *ClosedError) Error() string {
	return fmt.Sprintf("stream to %s: closed here: %v", e.Peer, e.Reason)
}

// Unwrap is the reason given to Close.
func (e *ClosedError) Unwrap() error { return e.Reason }

// Close ends the stream and waits for its goroutines. The peer is told the reason if what is queued, and that, can be sent
// within 250 ms. A nil reason is "done". Closing an ended stream only waits.
func (c *Conn) Close(reason error) error {
	if reason == nil {
		reason = errDone
	}
	if !c.accepted {
		c.fail(&ClosedError{c.peer, reason})
		return nil
	}
	select {
	case <-c.done:
	default:
		c.farewell(reason)
	}
	c.fail(&ClosedError{c.peer, reason})
	c.wg.Wait()
	return nil
}

// farewell says why the stream ends. A reason that names a rule travels as a refusal.
func (c *Conn) farewell(reason error) {
	text := reason.Error()
	kind, what := wire.TypeBye, any(wire.Bye{Reason: text[:min(len(text), reasonBytesMax)]})
	var no *RefusedError
	var ruled interface{ RuleName() string }
	switch {
	case errors.As(reason, &no):
		kind, what = wire.TypeRefuse, wire.Refusal{Rule: no.Rule, Message: no.Message[:min(len(no.Message), reasonBytesMax)]}
	case errors.As(reason, &ruled):
		kind, what = wire.TypeRefuse, wire.Refusal{Rule: ruled.RuleName(), Message: text[:min(len(text), reasonBytesMax)]}
	}
	body, err := wire.Marshal(kind, what)
	if err != nil {
		return
	}
	c.SetRate(0)
	c.Queue(wire.Header{Type: kind}, nil, body)
	c.TryFlush()
	ctx, cancel := context.WithTimeout(context.Background(), closeWaitMax)
	defer cancel()
	_ = c.WaitRoom(ctx, 1) // best effort: the peer sees the end anyway
}
