package awake

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// holds reports whether this process has the file open.
func holds(t *testing.T, path string) bool {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && to == path {
			return true
		}
	}
	return false
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// keep runs Keep and returns what ends it and waits for it.
func keep(device string, traffic func() int64, log *slog.Logger) (stop func(), done chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	done = make(chan struct{})
	go func() { defer close(done); Keep(ctx, device, traffic, log) }()
	return func() { cancel(); <-done }, done
}

func TestTheWishStandsWhileThereIsTraffic(t *testing.T) {
	device, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	device = filepath.Join(device, "latency")
	if err := os.WriteFile(device, []byte("none"), 0o600); err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	stop, _ := keep(device, n.Load, slog.New(slog.DiscardHandler))
	defer stop()
	await(t, "held while there is traffic", func() bool { n.Add(1); return holds(t, device) })
	await(t, "a limit of 0 µs is written", func() bool {
		got, _ := os.ReadFile(device)
		return bytes.Equal(got, wish)
	})
	await(t, "let go when it is quiet", func() bool { return !holds(t, device) })
	await(t, "held again", func() bool { n.Add(1); return holds(t, device) })
	stop()
	if holds(t, device) {
		t.Error("still held after the end")
	}
}

func TestNothingIsHeldWithoutTraffic(t *testing.T) {
	device := filepath.Join(t.TempDir(), "latency")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var looked atomic.Int64
	stop, _ := keep(device, func() int64 { looked.Add(1); return 7 }, slog.New(slog.DiscardHandler))
	defer stop()
	await(t, "looked at ten times", func() bool { return looked.Load() >= 10 })
	if got, _ := os.ReadFile(device); len(got) > 0 {
		t.Errorf("wrote %q without traffic", got)
	}
}

func TestAMachineWithoutTheDeviceIsToldOnce(t *testing.T) {
	var n atomic.Int64
	var out bytes.Buffer
	stop, done := keep(filepath.Join(t.TempDir(), "missing"), func() int64 { return n.Add(1) }, slog.New(slog.NewTextHandler(&out, nil)))
	defer stop()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("Keep goes on without a device")
	}
	if got := strings.Count(out.String(), "missing"); got != 1 {
		t.Errorf("told %d times: %s", got, out.String())
	}
}

// The kernel's own file, where this machine has it and lets us: it takes the wish.
func TestTheKernelTakesTheWish(t *testing.T) {
	if _, err := os.Stat(Device); os.IsNotExist(err) {
		return // the tests above show the rest
	}
	f, err := hold(Device)
	if os.IsPermission(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer release(f)
	got := make([]byte, 4)
	r, err := os.Open(Device)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Read(got); err != nil || !bytes.Equal(got, wish) {
		t.Errorf("the kernel holds %v, %v", got, err)
	}
}
