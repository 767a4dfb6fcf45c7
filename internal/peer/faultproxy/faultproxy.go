// Package faultproxy is a network for tests that can fail: a TCP proxy on 127.0.0.1 that stalls, delays, corrupts, cuts
// and counts. It stands between a node and the address at which its peers look for it.
package faultproxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Direction of bytes.
type Direction int

// Up is from who dialed the proxy to its target, Down is back.
const (
	Up Direction = iota
	Down
)

// pieceBytes is how much is passed on at once, and so what a stalled direction may still hold.
const pieceBytes = 32 << 10

// dialTimeout bounds the connection to the target.
const dialTimeout = 5 * time.Second

// Proxy passes bytes between who dials Addr and the target. Faults apply to all connections, those to come included.
type Proxy struct {
	target string
	ln     net.Listener
	bytes  [2]atomic.Int64
	wg     sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed and made anew at every change
	stalled [2]bool
	delay   time.Duration
	flip    [2]int64 // so many bytes from now one bit is changed; 0: not at all
	refuse  bool
	closed  bool
	conns   map[net.Conn]struct{}
}

// New starts a proxy for the target. Close ends it.
func New(target string) (*Proxy, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("fault proxy for %s: %w", target, err)
	}
	p := &Proxy{target: target, ln: ln, changed: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where to dial instead of the target.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Bytes that were passed on in that direction so far.
func (p *Proxy) Bytes(d Direction) int64 { return p.bytes[d].Load() }

// Stall holds a direction's bytes back until it is called with false. Connections stay open, as with a cable pulled.
func (p *Proxy) Stall(d Direction, on bool) { p.change(func() { p.stalled[d] = on }) }

// Delay holds each piece back for so long, in both directions.
func (p *Proxy) Delay(d time.Duration) { p.change(func() { p.delay = d }) }

// Flip changes one bit of the byte that comes after so many further bytes in that direction.
func (p *Proxy) Flip(d Direction, after int64) { p.change(func() { p.flip[d] = after + 1 }) }

// Refuse closes new connections at once, as long as it is on.
func (p *Proxy) Refuse(on bool) { p.change(func() { p.refuse = on }) }

// Cut closes all connections and returns how many (two for each that passed through).
func (p *Proxy) Cut() (n int) {
	p.change(func() {
		n = len(p.conns)
		for conn := range p.conns {
			conn.Close()
			delete(p.conns, conn) // wakes who holds bytes for it
		}
	})
	return n
}

// Close ends the proxy and all that passes through it, and waits.
func (p *Proxy) Close() error {
	err := p.ln.Close()
	p.change(func() { p.closed = true })
	p.Cut()
	p.wg.Wait()
	return err
}

func (p *Proxy) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) accept() {
	for {
		down, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.connect(down) })
	}
}

func (p *Proxy) connect(down net.Conn) {
	defer down.Close()
	p.mu.Lock()
	refuse := p.refuse
	p.mu.Unlock()
	if refuse || !p.enter(down) {
		return
	}
	defer p.leave(down)
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	var dialer net.Dialer
	up, err := dialer.DialContext(ctx, "tcp", p.target)
	if err != nil {
		return
	}
	defer up.Close()
	if !p.enter(up) {
		return
	}
	defer p.leave(up)
	var both sync.WaitGroup
	both.Go(func() { p.pass(up, down, Up) })
	both.Go(func() { p.pass(down, up, Down) })
	both.Wait()
}

func (p *Proxy) enter(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.conns[conn] = struct{}{}
	}
	return !p.closed
}

func (p *Proxy) leave(conn net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, conn)
}

// pass copies until either side ends, which ends both directions.
func (p *Proxy) pass(to, from net.Conn, d Direction) {
	defer to.Close()
	defer from.Close()
	piece := make([]byte, pieceBytes)
	for {
		n, err := from.Read(piece)
		if n > 0 {
			if !p.hold(d, piece[:n], to) {
				return
			}
			p.bytes[d].Add(int64(n)) // before: who has read them finds them counted
			if _, err := to.Write(piece[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// hold waits as the faults want it and changes what they want changed. False: the connection was cut meanwhile.
func (p *Proxy) hold(d Direction, piece []byte, conn net.Conn) bool {
	p.mu.Lock()
	var late <-chan time.Time
	if p.delay > 0 {
		late = time.After(p.delay)
	}
	if f := p.flip[d]; f > 0 {
		if f <= int64(len(piece)) {
			piece[f-1] ^= 1
		}
		p.flip[d] = max(0, f-int64(len(piece)))
	}
	p.mu.Unlock()
	if late != nil {
		<-late
	}
	for {
		p.mu.Lock()
		stalled, closed, changed := p.stalled[d], p.closed, p.changed
		_, alive := p.conns[conn]
		p.mu.Unlock()
		if closed || !alive {
			return false
		}
		if !stalled {
			return true
		}
		<-changed
	}
}
