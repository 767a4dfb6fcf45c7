package faultproxy

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a target that says everything again.
func echo(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}

func through(t *testing.T) (*Proxy, net.Conn) {
	p, err := New(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); p.Close() })
	return p, conn
}

func say(t *testing.T, conn net.Conn, text string) []byte {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPassesCountsAndFlips(t *testing.T) {
	p, conn := through(t)
	if got := say(t, conn, "hello"); string(got) != "hello" || p.Bytes(Up) != 5 || p.Bytes(Down) != 5 {
		t.Errorf("got %q, %d up, %d down", got, p.Bytes(Up), p.Bytes(Down))
	}
	p.Flip(Down, 2)
	if got := say(t, conn, "hello"); string(got) != "hemlo" {
		t.Errorf("flipped: %q", got)
	}
}

func TestStallHoldsOneDirection(t *testing.T) {
	p, conn := through(t)
	say(t, conn, "hello")
	p.Stall(Down, true)
	if _, err := conn.Write([]byte("again")); err != nil {
		t.Fatal(err)
	}
	for p.Bytes(Up) != 10 {
		time.Sleep(time.Millisecond) // until it has passed upward
	}
	if n := p.Bytes(Down); n != 5 {
		t.Errorf("%d bytes came down", n)
	}
	p.Stall(Down, false)
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, []byte("again")) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestCutRefuseAndDelay(t *testing.T) {
	p, conn := through(t)
	say(t, conn, "hello")
	p.Delay(20 * time.Millisecond)
	began := time.Now()
	say(t, conn, "hello")
	if took := time.Since(began); took < 40*time.Millisecond {
		t.Errorf("there and back took %v", took)
	}
	p.Delay(0)
	p.Stall(Up, true)
	if _, err := conn.Write([]byte("held")); err != nil {
		t.Fatal(err)
	}
	if n := p.Cut(); n != 2 {
		t.Errorf("cut %d", n)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a cut connection was read")
	}
	p.Refuse(true)
	again, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return // refused by the kernel: as good
	}
	defer again.Close()
	if _, err := again.Read(make([]byte, 1)); err == nil {
		t.Error("a refused connection was read")
	}
}
