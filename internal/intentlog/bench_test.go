package intentlog

import (
	"math/rand/v2"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// tib is a log of a volume of 1 TiB with regions of 64 KiB and extents of 1 MiB, on tmpfs where there is one.
func tib(b *testing.B) *Log {
	b.Helper()
	root := "/dev/shm"
	if _, err := os.Stat(root); err != nil {
		root = b.TempDir()
	}
	dir, err := os.MkdirTemp(root, "intentlog")
	must(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	h := testHeader(1)
	h.SizeBytes, h.RegionBytes, h.ExtentBytes = 1<<40, 64<<10, 1<<20
	l, err := Create(vfs.OS, dir+"/log", h, lineage.ZeroVersion, Options{})
	must(b, err)
	b.Cleanup(func() { l.Close() })
	return l
}

func heatAll(b *testing.B, l *Log) {
	all := make([]int64, l.Extents())
	for e := range all {
		all[e] = int64(e)
	}
	must(b, l.MarkHot(all))
}

// scatter gives every region its own version.
func scatter(l *Log) {
	for r := range l.Regions() {
		l.SetVersions(r, r, lineage.MakeVersion(1, rand.Uint64()&lineage.NumberMax))
	}
}

func BenchmarkHot(b *testing.B) {
	l := tib(b)
	must(b, l.MarkHot([]int64{5}))
	b.ReportAllocs()
	for b.Loop() {
		if !l.Hot(5, 5) {
			b.Fatal("cool")
		}
	}
}

func BenchmarkSetVersions(b *testing.B) {
	l := tib(b)
	must(b, l.MarkHot([]int64{5}))
	l.SetVersions(80, 80, lineage.MakeVersion(1, 1)) // the page has its array
	b.ReportAllocs()
	for n := uint64(1); b.Loop(); n++ {
		l.SetVersions(81, 81, lineage.MakeVersion(1, n))
	}
}

// BenchmarkMarkHot is one extent a call, from 32 callers at once.
func BenchmarkMarkHot(b *testing.B) {
	l := tib(b)
	var next atomic.Int64
	b.SetParallelism(32 / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e := next.Add(1) * 977 % l.Extents()
			if err := l.MarkHot([]int64{e}); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkSetFloor(b *testing.B) {
	l := tib(b)
	b.ReportAllocs()
	for n := uint64(1); b.Loop(); n++ {
		must(b, l.SetFloor(lineage.Position{Gen: gen(1), Number: n}))
	}
}

// BenchmarkDigestTiB is all pages of 1 TiB, each region with a version of its own.
func BenchmarkDigestTiB(b *testing.B) {
	l := tib(b)
	heatAll(b, l)
	scatter(l)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.ReportAllocs()
	for b.Loop() {
		for p := range l.Pages() {
			l.PageDigest(p)
		}
	}
	b.ReportMetric(float64(m.HeapAlloc)/(1<<20), "MiB-heap")
}

// BenchmarkCheckpointTiB writes every page of the map.
func BenchmarkCheckpointTiB(b *testing.B) {
	l := tib(b)
	heatAll(b, l)
	scatter(l)
	for b.Loop() {
		for p := range l.Pages() {
			l.SetVersions(p*pageRegions, p*pageRegions, lineage.MakeVersion(1, rand.Uint64()&lineage.NumberMax))
		}
		must(b, l.Checkpoint(CheckpointOptions{}))
		heatAll(b, l)
	}
}

// BenchmarkCheckpoint is what one costs after 100 scattered writes.
func BenchmarkCheckpoint(b *testing.B) {
	l := tib(b)
	extents := make([]int64, 100)
	for b.Loop() {
		for i := range extents {
			extents[i] = rand.Int64N(l.Extents())
		}
		must(b, l.MarkHot(extents))
		for _, e := range extents {
			l.SetVersions(e*16, e*16, lineage.MakeVersion(1, rand.Uint64()&lineage.NumberMax))
		}
		must(b, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	}
}

// BenchmarkOpenTiB reads a map in which each region has a version of its own.
func BenchmarkOpenTiB(b *testing.B) {
	l := tib(b)
	heatAll(b, l)
	scatter(l)
	must(b, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	must(b, l.Close())
	for b.Loop() {
		again, err := Open(vfs.OS, l.dir, Options{})
		must(b, err)
		must(b, again.Close())
	}
}
