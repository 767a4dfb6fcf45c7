package volume

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
)

// BenchmarkResync is a resync of regions that all differ and all have old content, between two volumes in memory (or in
// KEELSON_BENCH_DIR), with and without an undo log.
func BenchmarkResync(b *testing.B) {
	for _, c := range []struct {
		name string
		omit omission
	}{{"undo=off", omitUndo}, {"undo=on", 0}} {
		b.Run(c.name, func(b *testing.B) { benchResync(b, c.omit) })
	}
}

func benchResync(b *testing.B, o omission) {
	const size = 128 << 20
	root := os.Getenv("KEELSON_BENCH_DIR")
	if root == "" {
		root = "/dev/shm"
	}
	dir, err := os.MkdirTemp(root, "keelson-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	source, target := benchServer(b, dir, "a", size, 0), benchServer(b, dir, "b", size, o)
	standing := source.v.Header().Standing
	standing.Role, standing.Promised, standing.Served = lineage.RoleSource, lineage.Term{N: 1, Node: "a"}, lineage.Term{N: 1, Node: "a"}
	if err := source.v.BecomeSource(standing, false); err != nil {
		b.Fatal(err)
	}
	source.v.OpenDevice()
	b.SetBytes(size)
	for round := -1; round < b.N; round++ {
		b.StopTimer()
		p := random(int64(round), 1<<20)
		for off := int64(0); off < size; off += 1 << 20 {
			p[off%4096]++
			if err := do(source.v, block.Write, 0, off, 1<<20, p); err != nil {
				b.Fatal(err)
			}
		}
		if round >= 0 {
			b.StartTimer()
		}
		x := beginVia(source, target, lineage.Member{}, false, func(p *pipe) Stream { return p })
		source.wait("InStep", is[mirror.InStep])
		b.StopTimer()
		_ = x.Close(errCut)
		source.wait("LinkDown", is[mirror.LinkDown])
		target.wait("SessionEnded", is[mirror.SessionEnded])
	}
}

func benchServer(b *testing.B, dir, name string, size int64, o omission) *server {
	s := &server{t: b, name: name, lim: DefaultLimits}
	s.lim.CheckpointEvery = time.Second
	options := Options{FS: vfs.OS, Dir: filepath.Join(dir, name), Limits: s.lim, omit: o, Log: slog.New(slog.DiscardHandler), Post: func(e mirror.Event) {
		s.mu.Lock()
		s.events = append(s.events, e)
		s.cond.Broadcast()
		s.mu.Unlock()
	}}
	s.cond.L = &s.mu
	h := intentlog.Header{Cluster: "c", Volume: "00112233445566778899aabbccddeeff", Name: "data", Node: name}
	h.Role = lineage.RoleTarget
	path := filepath.Join(dir, fmt.Sprintf("%s.img", name))
	if _, err := Create(options, New{Header: h, Path: path, SizeBytes: size}); err != nil {
		b.Fatal(err)
	}
	v, err := Open(options)
	if err != nil {
		b.Fatal(err)
	}
	s.v = v
	b.Cleanup(func() { _ = v.Close() })
	return s
}
