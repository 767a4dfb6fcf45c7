package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/peer/faultproxy"
	"keelson/internal/wire"
)

// TestOrderAndContent: many goroutines queue at once; the frames of each arrive in its order, complete and intact, both ways.
func TestOrderAndContent(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		a, b := pair(t, encryption, Options{})
		const queuers, each = 8, 60
		for _, ends := range [][2]*Conn{{a, b}, {b, a}} {
			var wg sync.WaitGroup
			for q := range queuers {
				wg.Go(func() { queueSome(t, ends[0], uint64(q), each) })
			}
			next := make([]uint64, queuers)
			for range queuers * each {
				h, body, err := ends[1].Read()
				if err != nil {
					t.Fatal(err)
				}
				q, seq := h.Offset, h.Number-1
				if seq != next[q] {
					t.Fatalf("queuer %d: frame %d came, %d is next", q, seq, next[q])
				}
				next[q]++
				if h.Body > 8 && binary.LittleEndian.Uint64(body.Bytes) != q<<32|seq {
					t.Fatalf("queuer %d, frame %d has another's body", q, seq)
				}
				body.Release()
			}
			wg.Wait()
		}
		if a.QueuedBytes() != 0 || a.Sent() < b.Received()/2 || a.Sent() == 0 {
			t.Errorf("%d queued, %d sent, %d received", a.QueuedBytes(), a.Sent(), b.Received())
		}
	})
}

// queueSome queues frames with and without bodies, of all sizes.
func queueSome(t *testing.T, c *Conn, q uint64, each int) {
	rng := rand.New(rand.NewPCG(q, 1))
	for seq := range uint64(each) {
		h := wire.Header{Type: wire.TypeWrite, Number: seq + 1, Offset: q}
		size := 8 + rng.IntN(1<<rng.IntN(19))
		switch rng.IntN(4) {
		case 0:
			h.Type = wire.TypeFlush
			c.Queue(h, nil, nil)
		case 1:
			small := make([]byte, 8+rng.IntN(3*smallBytesMax))
			binary.LittleEndian.PutUint64(small, q<<32|seq)
			c.Queue(h, nil, small)
			clear(small) // was copied
		default:
			body := block.NewBuffer(size)
			binary.LittleEndian.PutUint64(body.Bytes, q<<32|seq)
			c.Queue(h, body, nil)
			body.Release() // was retained
		}
		if rng.IntN(3) == 0 {
			c.TryFlush()
		}
	}
	c.TryFlush()
}

// TestBodiesOfAllSizes: up to the longest, byte for byte.
func TestBodiesOfAllSizes(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		a, b := pair(t, encryption, Options{})
		sizes := []int{1, 2, 39, 40, 41, 4095, 4096, 4097, recordPlainMax - 40, recordPlainMax, recordPlainMax + 1, largeBodyBytes - 1, largeBodyBytes,
			readBufferBytes - 40, readBufferBytes, readBufferBytes + 1, 1<<20 + 3, block.LenMax, wire.BodyMax}
		for range 20 {
			sizes = append(sizes, 1+rand.IntN(1<<rand.IntN(21)))
		}
		content := make([]byte, wire.BodyMax+len(sizes))
		rng := rand.NewChaCha8([32]byte{7})
		_, _ = rng.Read(content[:100003])
		for n := 100003; n < len(content); n *= 2 { // repeats, but not at any power of two
			copy(content[n:], content[:n])
		}
		go func() {
			for i, size := range sizes {
				body := block.NewBuffer(size)
				copy(body.Bytes, content[i:])
				a.Queue(wire.Header{Type: wire.TypeCopy, Number: uint64(i)}, body, nil)
				body.Release()
				a.TryFlush()
			}
		}()
		for i, size := range sizes {
			h, body, err := b.Read()
			if err != nil {
				t.Fatal(err)
			}
			if int(h.Number) != i || !bytes.Equal(body.Bytes, content[i:i+size]) {
				t.Fatalf("body %d of %d bytes is not what was sent", i, size)
			}
			body.Release()
		}
	})
}

// TestBackPressure: a peer that does not read. Queue and TryFlush never block, the bytes are counted, WaitRoom waits.
func TestBackPressure(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		a, b := pair(t, encryption, Options{SocketBytes: 64 << 10})
		body := block.NewBuffer(64 << 10)
		defer body.Release()
		const frames = 256
		for range frames {
			a.Queue(wire.Header{Type: wire.TypeCopy}, body, nil)
			a.TryFlush()
		}
		if n := a.QueuedBytes(); n < 8<<20 || n > frames*(64<<10+1024) {
			t.Fatalf("%d bytes are queued", n)
		}
		short, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if err := a.WaitRoom(short, 1<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("room: %v", err)
		}
		room := make(chan error, 1)
		go func() { room <- a.WaitRoom(within(t, 10*time.Second), 1) }()
		for range frames {
			_, body, err := b.Read()
			if err != nil {
				t.Fatal(err)
			}
			body.Release()
		}
		if err := <-room; err != nil || a.QueuedBytes() != 0 {
			t.Fatalf("room: %v, %d queued", err, a.QueuedBytes())
		}
	})
}

func TestQueueLimitEndsTheStream(t *testing.T) {
	a, b := pair(t, wire.EncryptionOff, Options{QueueBytesMax: 1 << 20, SocketBytes: 64 << 10})
	body := block.NewBuffer(64 << 10)
	defer body.Release()
	for range 1000 {
		a.Queue(wire.Header{Type: wire.TypeCopy}, body, nil)
	}
	<-a.Done()
	if err := a.Err(); !strings.Contains(err.Error(), "("+RuleQueue+")") || !strings.Contains(err.Error(), "stream to b") {
		t.Error(err)
	}
	if err := a.WaitRoom(context.Background(), 1); err == nil || a.QueuedBytes() != 0 {
		t.Errorf("after the end: %v, %d queued", err, a.QueuedBytes())
	}
	if _, _, err := b.Read(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the other end: %v", err)
	}
}

// TestCloseSaysWhy: the peer learns the reason behind everything that was queued before.
func TestCloseSaysWhy(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		a, b := pair(t, encryption, Options{})
		a.Queue(wire.Header{Type: wire.TypeFlush, Number: 9}, nil, nil)
		a.Close(errors.New("the mirror is paused"))
		if h, _, err := b.Read(); err != nil || h.Number != 9 {
			t.Fatalf("%v %v", h, err)
		}
		_, _, err := b.Read()
		var bye *ByeError
		if !errors.As(err, &bye) || err.Error() != "stream: a closed it: the mirror is paused" {
			t.Errorf("got %v", err)
		}
		if err := a.Err(); err.Error() != "stream to b: closed here: the mirror is paused" {
			t.Error(err)
		}
		a.Queue(wire.Header{Type: wire.TypeFlush}, nil, nil)
		a.TryFlush()
		if _, _, err := a.Read(); err == nil {
			t.Error("a closed stream was read")
		}
	})
}

// ruled is a reason that names a rule.
type ruled struct{ error }

func (ruled) RuleName() string { return "salvage-full" }

// TestCloseTellsTheRule: a reason that names a rule, however it is wrapped, arrives with it.
func TestCloseTellsTheRule(t *testing.T) {
	a, b := pair(t, wire.EncryptionOff, Options{})
	a.Close(fmt.Errorf("the resync: %w", ruled{errors.New("no room")}))
	_, _, err := b.Read()
	var no *RefusedError
	if !errors.As(err, &no) || no.RuleName() != "salvage-full" || !strings.Contains(no.Message, "the resync: no room") {
		t.Error(err)
	}
}

func TestCloseDoesNotWaitForADeafPeer(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		a, _ := pair(t, encryption, Options{SocketBytes: 64 << 10})
		body := block.NewBuffer(8 << 20)
		a.Queue(wire.Header{Type: wire.TypeCopy}, body, nil)
		a.TryFlush()
		began := time.Now()
		a.Close(nil)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		body.Release()
		if again := block.NewBuffer(8 << 20); again == body {
			again.Release()
		}
	})
}

func TestRefuseLater(t *testing.T) {
	a, b := pair(t, wire.EncryptionOn, Options{})
	if err := b.Refuse("older-term", "a newer term was promised"); err != nil {
		t.Fatal(err)
	}
	_, _, err := a.Read()
	var no *RefusedError
	if !errors.As(err, &no) || err.Error() != "b refuses: a newer term was promised (older-term)" {
		t.Errorf("got %v", err)
	}
}

// TestSilentPeerIsFound: the connection stays open and nothing comes any more.
func TestSilentPeerIsFound(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		o := Options{HeartbeatEvery: 10 * time.Millisecond, DeadAfter: 80 * time.Millisecond, Encryption: encryption}
		proxy, a, b := proxied(t, o)
		go func() { _, _, _ = b.Read() }()
		end := make(chan error, 1)
		go func() { _, _, err := a.Read(); end <- err }()
		for a.RoundTrip() == 0 {
			time.Sleep(time.Millisecond) // until heartbeats went there and back
		}
		select {
		case err := <-end:
			t.Fatalf("ended although heartbeats came: %v", err)
		default:
		}
		proxy.Stall(faultproxy.Down, true)
		began := time.Now()
		var silent *SilentError
		if err := <-end; !errors.As(err, &silent) || silent.Peer != "b" {
			t.Fatalf("got %v", err)
		}
		if took := time.Since(began); took < o.DeadAfter/2 || took > 5*time.Second {
			t.Errorf("found after %v", took)
		}
	})
}

// TestBusyReaderIsNotSilence: a side that does not read for long does not take the peer for dead, and is not taken for dead.
func TestBusyReaderIsNotSilence(t *testing.T) {
	o := Options{HeartbeatEvery: 10 * time.Millisecond, DeadAfter: 60 * time.Millisecond}
	a, b := pair(t, wire.EncryptionOn, o)
	go func() { _, _, _ = a.Read() }()
	began := time.Now()
	for time.Since(began) < 5*o.DeadAfter {
		select {
		case <-a.Done():
			t.Fatalf("dialed side: %v", a.Err())
		case <-b.Done():
			t.Fatalf("side that does not read: %v", b.Err())
		case <-time.After(o.HeartbeatEvery):
		}
	}
}

// proxied is a pair with a fault proxy between.
func proxied(t testing.TB, o Options) (p *faultproxy.Proxy, a, b *Conn) {
	t.Helper()
	came, ended := make(chan *Conn, 1), make(chan struct{})
	s := listen(t, "b", Handlers{Stream: func(c *Conn, _ wire.Hello) {
		if err := c.Accept(wire.HelloReply{}); err != nil {
			t.Error(err)
		}
		came <- c
		<-ended
	}}, o)
	p, err := faultproxy.New(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, _, err = Dial(within(t, 10*time.Second), p.Addr(), "b", identity(t, "a"), someHello(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(ended)
		a.Close(nil)
		p.Close()
	})
	return p, a, <-came
}

// TestChangedOnItsWay: plain frames are guarded by checksums, encrypted ones by TLS.
func TestChangedOnItsWay(t *testing.T) {
	want := map[string]string{wire.EncryptionOff: wire.RuleBodyCRC, wire.EncryptionOn: "bad record MAC"}
	both(t, func(t *testing.T, encryption string) {
		p, a, b := proxied(t, Options{Encryption: encryption})
		p.Flip(faultproxy.Up, wire.HeaderBytes+100)
		a.Queue(wire.Header{Type: wire.TypeCopy}, nil, make([]byte, 4096))
		a.TryFlush()
		if _, _, err := b.Read(); err == nil || !strings.Contains(err.Error(), want[encryption]) {
			t.Errorf("got %v", err)
		}
	})
}

func TestCutMidFrame(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		p, a, b := proxied(t, Options{Encryption: encryption})
		body := block.NewBuffer(8 << 20)
		defer body.Release()
		passed := p.Bytes(faultproxy.Up)
		a.Queue(wire.Header{Type: wire.TypeCopy}, body, nil)
		a.TryFlush()
		go func() {
			for p.Bytes(faultproxy.Up) < passed+1<<20 {
				time.Sleep(100 * time.Microsecond) // until a part has passed
			}
			p.Stall(faultproxy.Up, true)
			p.Cut()
		}()
		for {
			_, got, err := b.Read()
			if err != nil {
				if !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "reset") {
					t.Errorf("got %v", err)
				}
				return
			}
			got.Release() // it was faster than the scissors
		}
	})
}

// TestBuffered: true exactly when the next Read needs no system call.
func TestBuffered(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		a, b := pair(t, encryption, Options{})
		const frames = 20
		body := block.NewBuffer(4096)
		defer body.Release()
		for range frames {
			a.Queue(wire.Header{Type: wire.TypeCopy}, body, nil)
		}
		a.TryFlush() // all in one system call
		sawMore := 0
		for i := range frames {
			_, got, err := b.Read()
			if err != nil {
				t.Fatal(err)
			}
			got.Release()
			more := b.Buffered()
			if more {
				sawMore++
			}
			if more && i == frames-1 {
				t.Error("more was promised behind the last")
			}
			before := b.Received()
			if more && i < frames-1 {
				_, got, err := b.Read()
				if err != nil {
					t.Fatal(err)
				}
				got.Release()
				if b.Received() != before {
					t.Error("a system call was needed")
				}
				if i+1 == frames-1 || i+2 >= frames {
					break
				}
			}
			if i*2 >= frames-2 && sawMore > 0 {
				break
			}
		}
		if sawMore < 5 {
			t.Errorf("more was in memory only %d times", sawMore)
		}
	})
}

// TestHeartbeatIsNotBuffered: a target that acknowledges when nothing is at hand does not wait for what is behind a heartbeat.
func TestHeartbeatIsNotBuffered(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		for _, beat := range []wire.Type{wire.TypePing, wire.TypePong} {
			a, b := pair(t, encryption, Options{})
			body := block.NewBuffer(4096)
			defer body.Release()
			read := func() {
				_, got, err := b.Read()
				if err != nil {
					t.Fatal(err)
				}
				got.Release()
			}
			came := false
			for range 1000 {
				a.Queue(wire.Header{Type: wire.TypeCopy}, body, nil)
				a.Queue(wire.Header{Type: beat}, nil, nil)
				a.TryFlush() // both in one system call
				read()
				came = b.in.w > b.in.r // the heartbeat came with it
				if b.Buffered() {
					t.Fatalf("%v: Read would wait", beat)
				}
				a.Queue(wire.Header{Type: wire.TypeCopy}, body, nil)
				a.TryFlush()
				read() // the heartbeat is in nobody's way
				if came {
					break
				}
			}
			if !came {
				t.Errorf("%v: it never came with the frame before it", beat)
			}
		}
	})
}

// TestRate: a limit holds, and ends when it is lifted.
func TestRate(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		a, b := pair(t, encryption, Options{})
		const rate, size = 4 << 20, 64 << 10
		a.SetRate(rate)
		body := block.NewBuffer(size)
		defer body.Release()
		const frames = 16 // 1 MiB
		for range 4 * frames {
			a.Queue(wire.Header{Type: wire.TypeCopy}, body, nil)
		}
		began := time.Now()
		a.TryFlush()
		receive(t, b, frames)
		took := time.Since(began)
		if fast := time.Duration(frames*size) * time.Second / rate / 2; took < fast {
			t.Errorf("1 MiB took %v, less than %v", took, fast)
		}
		a.SetRate(0)
		receive(t, b, 3*frames)
	})
}

func receive(t testing.TB, c *Conn, n int) {
	t.Helper()
	for range n {
		_, body, err := c.Read()
		if err != nil {
			t.Fatal(err)
		}
		body.Release()
	}
}

// TestEveryBufferComesBack: bodies are released exactly once, whether sent or dropped.
func TestEveryBufferComesBack(t *testing.T) {
	both(t, func(t *testing.T, encryption string) {
		a, b := pair(t, encryption, Options{SocketBytes: 64 << 10})
		bodies := make([]*block.Buffer, 64)
		for i := range bodies {
			bodies[i] = block.NewBuffer(256 << 10)
			a.Queue(wire.Header{Type: wire.TypeCopy}, bodies[i], nil)
			a.TryFlush()
		}
		receive(t, b, 3)
		a.Close(nil)
		for i, body := range bodies {
			body.Release()
			if !released(body) {
				t.Fatalf("body %d has another owner", i)
			}
		}
	})
}

// released reports whether a buffer has no owner: one more release panics.
func released(b *block.Buffer) (yes bool) {
	defer func() { yes = recover() != nil }()
	b.Release()
	return false
}

func TestBackoff(t *testing.T) {
	b := Backoff{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond}
	for round := range 2 {
		for i, most := range []int{10, 20, 40, 50, 50} {
			d, most := b.Next(), time.Duration(most)*time.Millisecond
			if d < most/2 || d > most {
				t.Errorf("round %d, wait %d: %v, want %v to %v", round, i, d, most/2, most)
			}
		}
		b.Reset()
	}
	if d := new(Backoff).Next(); d < 50*time.Millisecond || d > 100*time.Millisecond {
		t.Errorf("default: %v", d)
	}
}

func ExampleRefusedError() {
	fmt.Println(&RefusedError{Peer: "b", Rule: "older-term", Message: "it promised 4@c, this is 3@a", Next: "look at the volume's status there"})
	// Output: b refuses: it promised 4@c, this is 3@a: look at the volume's status there (older-term)
}
