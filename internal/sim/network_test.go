package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"keelson/internal/peer"
)

// network is what connects the servers. Bytes of one connection arrive in order, each piece after a delay of its own; connections
// do not wait for each other. A cut way keeps what is sent until it is healed, or the connection is reset then.
type network struct {
	w *world

	mu      sync.Mutex
	ports   map[string]*port // by server
	ends    map[*end]struct{}
	cut     map[[2]string]bool // ways, from and to
	refuse  map[string]bool    // servers that refuse new connections
	slow    time.Duration      // added to every delay
	sent    int64              // bytes
	serials map[[2]string]int  // connections made, by dialer and port
}

// roomBytes is how much of a connection may be on its way in one direction before the sender has to wait.
const roomBytes = 256 << 10

func newNetwork(w *world) *network {
	return &network{w: w, ports: map[string]*port{}, ends: map[*end]struct{}{}, cut: map[[2]string]bool{}, refuse: map[string]bool{}, serials: map[[2]string]int{}}
}

// of is the network as one life of a server uses it.
func (n *network) of(p *process) peer.Network { return &access{n, p} }

type access struct {
	n *network
	p *process
}

// port is a listener.
type port struct {
	n      *network
	p      *process
	mu     sync.Mutex
	cond   *sync.Cond
	come   []net.Conn
	closed bool
}

func (a *access) Listen(addr string) (net.Listener, error) {
	l := &port{n: a.n, p: a.p}
	l.cond = sync.NewCond(&l.mu)
	a.n.mu.Lock()
	defer a.n.mu.Unlock()
	if a.p.isDead() {
		return nil, errDead
	}
	a.n.ports[addr] = l
	return l, nil
}

func (l *port) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.come) == 0 && !l.closed {
		l.cond.Wait()
	}
	if l.closed {
		return nil, net.ErrClosed
	}
	c := l.come[0]
	l.come = l.come[1:]
	return c, nil
}

func (l *port) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cond.Broadcast()
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if l.n.ports[l.p.s.name] == l {
		delete(l.n.ports, l.p.s.name)
	}
	return nil
}

func (l *port) Addr() net.Addr { return address(l.p.s.name) }

type address string

func (a address) Network() string { return "sim" }
func (a address) String() string  { return string(a) }

var errDead = fmt.Errorf("the process is dead: %w", syscall.ECONNRESET)

// Dial connects; while a way is cut it waits for its context.
func (a *access) Dial(ctx context.Context, addr string) (peer.Socket, error) {
	n, from := a.n, a.p.s.name
	if err := a.p.point("dial " + addr); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.serials[[2]string{from, addr}]++
	c := &end{n: n, p: a.p, from: from, to: addr, serial: n.serials[[2]string{from, addr}], changed: make(chan struct{})}
	wait := 2 * c.delay()
	n.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.mu.Lock()
	cut := n.cut[[2]string{from, addr}] || n.cut[[2]string{addr, from}]
	l := n.ports[addr]
	switch {
	case a.p.isDead():
		n.mu.Unlock()
		return nil, errDead
	case cut || l == nil && n.w.byName(addr).dark:
		n.mu.Unlock()
		<-ctx.Done()
		return nil, ctx.Err()
	case l == nil || n.refuse[addr]:
		n.mu.Unlock()
		return nil, &net.OpError{Op: "dial", Net: "sim", Addr: address(addr), Err: syscall.ECONNREFUSED}
	}
	far := &end{n: n, p: l.p, from: addr, to: from, serial: c.serial, far: true, changed: make(chan struct{})}
	c.peer, far.peer = far, c
	n.ends[c], n.ends[far] = struct{}{}, struct{}{}
	n.mu.Unlock()
	l.mu.Lock()
	l.come = append(l.come, far)
	l.mu.Unlock()
	l.cond.Broadcast()
	return c, nil
}

// piece is what was written at once.
type piece struct {
	at    time.Time // of its arrival
	held  bool      // by a cut
	bytes []byte
	end   error // instead of bytes: io.EOF or a reset
}

// end is one end of a connection. Its fields are guarded by the network's mutex.
type end struct {
	n        *network
	p        *process
	from, to string // this end's server and the other's
	serial   int
	far      bool
	pieces   int
	peer     *end
	in       []piece // on their way to this end, in order
	inBytes  int
	last     time.Time // arrival of the newest piece of in
	closed   bool      // by this end
	shut     bool      // its writing side
	broken   error     // reset, or its server died
	readBy   time.Time
	writeBy  time.Time
	changed  chan struct{} // closed and replaced at every change
}

// delay of the next piece, from the seed: which connection it is and which piece of it.
func (e *end) delay() time.Duration {
	e.pieces++
	r := e.n.w.chance("delay", e.from, e.to, e.serial, e.pieces, e.far)
	d := time.Duration(100+r%900) * time.Microsecond
	if r>>20%64 == 0 {
		d *= 40
	}
	return d + e.n.slow
}

func (e *end) change() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// push puts a piece on its way to the peer. The mutex is held.
func (e *end) push(p piece) {
	t := e.peer
	p.at = time.Now().Add(e.delay())
	if p.at.Before(t.last) {
		p.at = t.last
	}
	p.held = e.n.cut[[2]string{e.from, e.to}] || len(t.in) > 0 && t.in[len(t.in)-1].held
	t.last = p.at
	t.in = append(t.in, p)
	t.inBytes += len(p.bytes)
	e.n.sent += int64(len(p.bytes))
	t.change()
}

// Offer takes what there is room for.
func (e *end) Offer(p []byte) (int, error) {
	if err := e.p.point("send " + e.to); err != nil {
		return 0, err
	}
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	return e.offer(p)
}

func (e *end) offer(p []byte) (int, error) {
	if err := e.writable(); err != nil {
		return 0, err
	}
	m := min(len(p), max(0, roomBytes-e.peer.inBytes))
	if m > 0 {
		e.push(piece{bytes: append([]byte(nil), p[:m]...)})
	}
	return m, nil
}

func (e *end) writable() error {
	switch {
	case e.closed || e.shut:
		return net.ErrClosed
	case e.broken != nil:
		return e.broken
	case !e.writeBy.IsZero() && !time.Now().Before(e.writeBy):
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Write waits for room.
func (e *end) Write(p []byte) (n int, err error) {
	if err := e.p.point("send " + e.to); err != nil {
		return 0, err
	}
	for {
		e.n.mu.Lock()
		m, err := e.offer(p[n:])
		n += m
		changed, until := e.changed, e.writeBy
		e.n.mu.Unlock()
		if err != nil || n == len(p) {
			return n, err
		}
		wait(changed, until)
	}
}

// wait returns when the channel is closed or at that time (zero: never).
func wait(changed chan struct{}, until time.Time) {
	if until.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// Read waits for what has arrived.
func (e *end) Read(p []byte) (int, error) {
	for {
		e.n.mu.Lock()
		n, until, err := e.take(p)
		changed := e.changed
		e.n.mu.Unlock()
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
		wait(changed, until)
	}
}

// take reads what has arrived, or says until when nothing will have unless something changes. The mutex is held.
func (e *end) take(p []byte) (n int, until time.Time, err error) {
	now := time.Now()
	switch {
	case e.closed:
		return 0, until, net.ErrClosed
	case e.broken != nil:
		return 0, until, e.broken
	case !e.readBy.IsZero() && !now.Before(e.readBy):
		return 0, until, os.ErrDeadlineExceeded
	}
	until = e.readBy
	for len(e.in) > 0 && n < len(p) && !e.in[0].held {
		first := &e.in[0]
		if now.Before(first.at) {
			if until.IsZero() || first.at.Before(until) {
				until = first.at
			}
			break
		}
		if first.end != nil {
			if n == 0 {
				err = first.end
				if !errors.Is(err, io.EOF) {
					e.broken = err
				}
			}
			break
		}
		m := copy(p[n:], first.bytes)
		n += m
		e.inBytes -= m
		if first.bytes = first.bytes[m:]; len(first.bytes) == 0 {
			e.in = e.in[1:]
		}
	}
	if n > 0 {
		e.peer.change() // there is room
	}
	return n, until, err
}

func (e *end) Close() error {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	if e.closed {
		return net.ErrClosed
	}
	e.closed = true
	if e.broken == nil && !e.shut {
		e.push(piece{end: io.EOF})
	}
	delete(e.n.ends, e)
	e.change()
	return nil
}

func (e *end) CloseWrite() error {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	if err := e.writable(); err != nil {
		return err
	}
	e.shut = true
	e.push(piece{end: io.EOF})
	return nil
}

func (e *end) SetLinger(int) error { return nil }

func (e *end) LocalAddr() net.Addr  { return address(e.from) }
func (e *end) RemoteAddr() net.Addr { return address(e.to) }

func (e *end) SetDeadline(t time.Time) error {
	return errors.Join(e.SetReadDeadline(t), e.SetWriteDeadline(t))
}

func (e *end) SetReadDeadline(t time.Time) error {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	e.readBy = t
	e.change()
	return nil
}

func (e *end) SetWriteDeadline(t time.Time) error {
	e.n.mu.Lock()
	defer e.n.mu.Unlock()
	e.writeBy = t
	e.change()
	return nil
}

// setCut cuts or heals one way. What is on its way is held or arrives; at the heal connections go on or are reset.
func (n *network) setCut(from, to string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	way := [2]string{from, to}
	if n.cut[way] == cut {
		return
	}
	n.cut[way] = cut
	if !cut {
		delete(n.cut, way)
	}
	for _, e := range n.sorted() {
		if e.to != from || e.from != to { // e receives on this way
			continue
		}
		lost := n.w.chance("cut", from, to, e.serial, e.pieces)%2 == 0
		for i := range e.in {
			p := &e.in[i]
			switch {
			case cut && lost && p.at.After(time.Now()):
				p.held = true
			case !cut && p.held && lost:
				e.in = append(e.in[:i:i], piece{at: time.Now(), end: errReset})
			case !cut && p.held:
				p.held, p.at = false, time.Now().Add(time.Millisecond)
				e.last = p.at
			default:
				continue
			}
			if !cut && lost {
				break
			}
		}
		e.change()
	}
}

var errReset = &net.OpError{Op: "read", Net: "sim", Err: syscall.ECONNRESET}

// sorted are the ends, in an order that the seed repeats.
func (n *network) sorted() []*end {
	return sortedBy(n.ends, func(e *end) string { return fmt.Sprint(e.from, e.to, e.far, e.serial) })
}

// kill ends what a dead process has. Its kernel says so to the others, unless the power is gone: then they hear nothing until the
// server is back.
func (n *network) kill(p *process, power bool) {
	n.mu.Lock()
	p.s.dark = power
	l := n.ports[p.s.name]
	if l != nil && l.p == p {
		delete(n.ports, p.s.name)
	}
	for _, e := range n.sorted() {
		if e.p != p {
			continue
		}
		e.broken = errDead
		if !power && !e.closed {
			e.push(piece{end: errReset})
		}
		e.change()
	}
	n.mu.Unlock()
	if l != nil && l.p == p {
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.cond.Broadcast()
	}
}

// answerDead resets what others still hold to earlier lives of a server that is back.
func (n *network) answerDead(server string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.w.byName(server).dark = false
	for _, e := range n.sorted() {
		if e.to == server && e.peer.broken != nil && e.broken == nil {
			e.in = append(e.in, piece{at: time.Now().Add(time.Millisecond), end: errReset, held: n.cut[[2]string{server, e.from}]})
			e.change()
		}
	}
}
