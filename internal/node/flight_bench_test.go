package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/block"
	"keelson/internal/config"
	"keelson/internal/flight"
	"keelson/internal/mirror"
	"keelson/internal/peer"
)

// BenchmarkRecordedWrites is a write of 4 KiB that is answered when a sync target has it, as the data path takes it from a frontend, with so
// many under way at once: without and with the flight recorder. Both agents are in this process, over TLS on the loopback, on /dev/shm (or in
// KEELSON_BENCH_DIR), so what is recorded is the work of two servers: one agent pays about half of the difference.
func BenchmarkRecordedWrites(b *testing.B) {
	device := benchPair(b)
	for _, depth := range []int{1, 16} {
		for _, recorder := range []string{config.Off, config.On} {
			b.Run(fmt.Sprintf("depth=%d/flight-recorder=%s", depth, recorder), func(b *testing.B) {
				if recorder == config.On {
					r, err := flight.Start(b.TempDir())
					if err != nil {
						b.Fatal(err)
					}
					defer r.Stop()
				}
				benchWrites(b, device, depth)
			})
		}
	}
}

const benchBytes = 64 << 20

// signal is told of the end of one request.
type signal chan struct{}

// Complete implements block.Completer.
func (s signal) Complete(*block.Request) { s <- struct{}{} }

// Flush implements block.Completer.
func (s signal) Flush() {}

func benchWrites(b *testing.B, device block.Device, depth int) {
	var next atomic.Int64
	failed := make(chan error, depth)
	b.ResetTimer()
	before := cpuTime(b)
	for range depth {
		go func() {
			done := make(signal, 1)
			buf := block.NewBuffer(4096)
			defer buf.Release()
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					failed <- nil
					return
				}
				r := &block.Request{Op: block.Write, Off: i * 4096 % benchBytes, Len: 4096, Buf: buf, By: done}
				device.Submit([]*block.Request{r})
				if <-done; r.Err != nil {
					failed <- r.Err
					return
				}
			}
		}()
	}
	for range depth {
		if err := <-failed; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpuTime is what this process has used of the processors: it says more than the clock on a machine that does other work too.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchPair is the device of a volume at a, with a sync target at b that mirrors.
func benchPair(b *testing.B) block.Device {
	root := os.Getenv("KEELSON_BENCH_DIR")
	if root == "" {
		root = "/dev/shm"
	}
	dir, err := os.MkdirTemp(root, "keelson-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	ca, err := peer.NewCA()
	if err != nil {
		b.Fatal(err)
	}
	names := []string{"a", "b"}
	var peers []config.Peer
	for _, name := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		peers = append(peers, config.Peer{Name: name, Address: l.Addr().String()})
		_ = l.Close()
	}
	agents := map[string]*Node{}
	for i, name := range names {
		id, err := ca.Identity(name)
		if err != nil {
			b.Fatal(err)
		}
		cfg := config.Default()
		cfg.Node, cfg.State, cfg.Listen.Address, cfg.Peers = name, filepath.Join(dir, name), peers[i].Address, peers
		if err := os.MkdirAll(filepath.Join(cfg.State, "volumes"), 0o700); err != nil {
			b.Fatal(err)
		}
		n, err := Start(b.Context(), cfg, id, Outside{}, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = n.Close() })
		agents[name] = n
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	a := agents["a"].Service()
	if _, err := a.CreateVolume(ctx, api.CreateVolume{Name: "data", SizeBytes: benchBytes,
		Source: api.Place{Node: "a", Path: filepath.Join(dir, "a.img")}, Targets: []api.Place{{Node: "b", Path: filepath.Join(dir, "b.img")}}}); err != nil {
		b.Fatal(err)
	}
	err = a.Watch(ctx, func(s *api.Status) error {
		if len(s.Volumes) == 1 && len(s.Volumes[0].Mirrors) == 1 && s.Volumes[0].Mirrors[0].State == string(mirror.Mirroring) {
			return errDone
		}
		return nil
	})
	if err != errDone {
		b.Fatalf("the mirror is not Mirroring: %v", err)
	}
	return agents["a"].Volume("data")
}
