package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// manager is the service manager's end.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func expect(t *testing.T, c *net.UnixConn, want string) {
	t.Helper()
	buf := make([]byte, 1024)
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != want {
		t.Errorf("got %q, %v; want %q", buf[:n], err, want)
	}
}

func TestReadyAliveStopping(t *testing.T) {
	c := manager(t)
	t.Setenv("WATCHDOG_USEC", "60000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	beats := 0
	go func() {
		defer close(done)
		Tell(ctx, func() string { beats++; return fmt.Sprint("beat ", beats) }, slog.New(slog.DiscardHandler))
	}()
	expect(t, c, "READY=1\nSTATUS=beat 1")
	expect(t, c, "WATCHDOG=1\nSTATUS=beat 2")
	expect(t, c, "WATCHDOG=1\nSTATUS=beat 3")
	cancel()
	<-done
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	last, buf := "", make([]byte, 1024)
	for last != "STOPPING=1" {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatalf("last heard %q: %v", last, err)
		}
		last = string(buf[:n])
	}
}

func TestAStuckAgentIsNotSaidToBeAlive(t *testing.T) {
	c := manager(t)
	t.Setenv("WATCHDOG_USEC", "60000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	stuck, done, asked := make(chan struct{}), make(chan struct{}), make(chan struct{}, 8)
	first := true
	go func() {
		defer close(done)
		Tell(ctx, func() string {
			if !first {
				asked <- struct{}{}
				<-stuck
			}
			first = false
			return ""
		}, slog.New(slog.DiscardHandler))
	}()
	expect(t, c, "READY=1\nSTATUS=")
	<-asked
	c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if n, err := c.Read(make([]byte, 100)); err == nil {
		t.Errorf("%d bytes came from an agent that is stuck", n)
	}
	cancel()
	close(stuck)
	<-done
}

func TestWithoutSystemdNothingIsDone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	Tell(context.Background(), func() string { return "" }, slog.New(slog.DiscardHandler)) // returns
}
