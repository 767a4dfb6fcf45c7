package undo

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

const testDir = "/undo"

func openLog(t testing.TB, fsys vfs.FS, bytesMax int64) *Log {
	t.Helper()
	l, err := Open(fsys, testDir, Options{RegionBytes: worldRegion, BytesMax: bytesMax})
	must(t, err)
	return l
}

// batch is images of regions at one stage.
func batch(stage int, regions ...int64) []Image {
	var list []Image
	for _, r := range regions {
		list = append(list, imageOf(r, stage))
	}
	return list
}

func all(t testing.TB, l *Log) []Image {
	t.Helper()
	var list []Image
	must(t, l.Each(func(i Image) error { list = append(list, i.clone()); return nil }))
	return list
}

func wantImages(t testing.TB, l *Log, want []Image) {
	t.Helper()
	got := all(t, l)
	if len(got) != len(want) || l.Regions() != int64(len(want)) {
		t.Fatalf("%d images, Regions %d; want %d", len(got), l.Regions(), len(want))
	}
	for k := range want {
		if !same(got[k], want[k]) {
			t.Fatalf("image %d is of region %d: not as it was saved", k, got[k].Region)
		}
	}
}

func TestTheLifeOfALog(t *testing.T) {
	for _, fsys := range []struct {
		name string
		fs   vfs.FS
		dir  string
	}{{"in memory", vfs.NewMem(1), testDir}, {"on the machine", vfs.OS, filepath.Join(t.TempDir(), "undo")}} {
		t.Run(fsys.name, func(t *testing.T) { checkLife(t, fsys.fs, fsys.dir) })
	}
}

func checkLife(t *testing.T, fsys vfs.FS, dir string) {
	o := Options{RegionBytes: worldRegion}
	l, err := Open(fsys, dir, o)
	must(t, err)
	if l.Anchor() != nil || l.Has(0) || l.Bytes() != 0 || l.Rolling() {
		t.Error("an empty log is not empty")
	}
	if err := l.Save(batch(1, 1)); !errors.Is(err, ErrNoAnchor) {
		t.Errorf("saved without an anchor: %v", err)
	}
	if err := l.Each(nil); !errors.Is(err, ErrNoAnchor) {
		t.Errorf("read without an anchor: %v", err)
	}
	if err := l.BeginRollback(); !errors.Is(err, ErrNoAnchor) {
		t.Errorf("rolled back without an anchor: %v", err)
	}
	must(t, l.Drop())
	if _, err := Open(fsys, dir, o); !errors.Is(err, vfs.ErrInUse) {
		t.Errorf("opened twice: %v", err)
	}
	must(t, l.Begin(anchorOf(anchorID(1))))
	want := append(batch(1, 5, 3, 4), batch(2, 20)...)
	must(t, l.Save(want[:3]))
	must(t, l.Save(want[3:]))
	if err := l.Save(batch(9, 8, 3)); !errors.Is(err, ErrSaved) || l.Has(8) {
		t.Errorf("region 3 was saved again: %v", err)
	}
	if err := l.Save(batch(9, 8, 8)); !errors.Is(err, ErrSaved) || l.Has(8) {
		t.Errorf("region 8 was saved twice: %v", err)
	}
	wantImages(t, l, want)
	must(t, l.Close())
	must(t, l.Close())
	if err := l.Save(batch(9, 8)); !errors.Is(err, errClosed) {
		t.Errorf("saved after Close: %v", err)
	}

	l, err = Open(fsys, dir, o)
	must(t, err)
	wantImages(t, l, want)
	must(t, l.Verify())
	must(t, l.BeginRollback())
	must(t, l.BeginRollback())
	if err := l.Save(batch(9, 8)); !errors.Is(err, ErrRolling) {
		t.Errorf("saved during a rollback: %v", err)
	}
	if err := l.Begin(anchorOf(anchorID(2))); !errors.Is(err, ErrRolling) {
		t.Errorf("a new anchor during a rollback: %v", err)
	}
	must(t, l.Close())
	l, err = Open(fsys, dir, o)
	must(t, err)
	if !l.Rolling() || l.Anchor().ID != anchorID(1) {
		t.Error("the rollback is forgotten")
	}
	wantImages(t, l, want)
	must(t, l.Drop())
	if l.Anchor() != nil || l.Rolling() || l.Has(3) || l.Bytes() != 0 {
		t.Error("dropped, and something is left")
	}
	must(t, l.Begin(anchorOf(anchorID(2))))
	must(t, l.Save(batch(4, 3)))
	must(t, l.Begin(anchorOf(anchorID(3))))
	wantImages(t, l, nil)
	if err := l.Begin(anchorOf(anchorID(3))); err == nil {
		t.Error("an anchor begun twice")
	}
	must(t, l.Close())
	if _, err := Open(fsys, dir, Options{RegionBytes: 4096}); err == nil || !strings.Contains(err.Error(), "another volume") {
		t.Errorf("opened for other regions: %v", err)
	}
}

func TestImagesThatAreRefused(t *testing.T) {
	l := openLog(t, vfs.NewMem(1), 0)
	must(t, l.Begin(anchorOf(anchorID(1))))
	good := imageOf(4, 1)
	for name, i := range map[string]Image{
		"negative": {Region: -1, Zero: true}, "too far": {Region: regionsMax, Zero: true}, "nothing": {Region: 1},
		"zero with data": {Region: 1, Zero: true, Data: good.Data}, "half a sector": {Region: 1, Data: make([]byte, 100)},
		"too long": {Region: 1, Data: make([]byte, 2*worldRegion)}, "number": {Region: 1, Zero: true, Number: lineage.NumberMax + 1},
	} {
		if err := l.Save([]Image{good, i}); err == nil {
			t.Errorf("%s: saved", name)
		}
	}
	must(t, l.Save([]Image{good, {Region: 9, Data: make([]byte, 512)}, {Region: regionsMax - 1, Zero: true}}))
	if l.Regions() != 3 || !l.Has(regionsMax-1) {
		t.Errorf("%d regions", l.Regions())
	}
}

func TestALimitLeavesTheLogAsItWas(t *testing.T) {
	l := openLog(t, vfs.NewMem(1), 3*recordBytes(worldRegion))
	must(t, l.Begin(anchorOf(anchorID(1))))
	want := batch(4, 1) // has data
	must(t, l.Save(want))
	if err := l.Save(batch(4, 3, 4, 5, 6, 7)); !errors.Is(err, ErrFull) {
		t.Fatalf("above the limit: %v", err)
	}
	wantImages(t, l, want)
	want = append(want, batch(4, 3)...)
	must(t, l.Save(want[1:]))
	wantImages(t, l, want)
}

// session is some of everything, and returns the first error and what was saved.
func session(l *Log, round int) error {
	if err := l.Begin(anchorOf(anchorID(round))); err != nil {
		return err
	}
	if err := l.Save(batch(round, 1, 2, 3)); err != nil {
		return err
	}
	if err := l.Save(batch(round, 7, 8)); err != nil {
		return err
	}
	if err := l.BeginRollback(); err != nil {
		return err
	}
	return l.Drop()
}

type faulty struct {
	at, calls int
	err       error
	ops       string // only these
}

func (f *faulty) hook(op, path string, off int64, n int) error {
	if f.ops != "" && !strings.Contains(f.ops, op) {
		return nil
	}
	if f.calls++; f.calls == f.at {
		return f.err
	}
	return nil
}

// TestADiskErrorFailsTheLog: whichever call fails, its caller hears of it, and every durable call after it; opened anew the log works.
func TestADiskErrorFailsTheLog(t *testing.T) {
	for at := 1; ; at++ {
		fsys := vfs.NewMem(1)
		l := openLog(t, fsys, 0)
		must(t, session(l, 1))
		f := &faulty{at: at, err: syscall.EIO}
		fsys.Inject(f.hook)
		err := session(l, 2)
		fsys.Inject(nil)
		if f.calls < at {
			must(t, err)
			return
		}
		if !errors.Is(err, syscall.EIO) || !errors.Is(err, ErrFailed) {
			t.Fatalf("call %d fails: %v", at, err)
		}
		for name, call := range map[string]func() error{
			"Begin": func() error { return l.Begin(anchorOf(anchorID(9))) }, "Save": func() error { return l.Save(batch(1, 9)) },
			"BeginRollback": l.BeginRollback, "Drop": l.Drop,
		} {
			if err := call(); !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
				t.Fatalf("call %d failed, and then %s says %v", at, name, err)
			}
		}
		must(t, l.Close())
		l = openLog(t, fsys, 0)
		if l.Anchor() != nil {
			must(t, l.Verify())
			must(t, l.Drop())
		}
		must(t, session(l, 3))
	}
}

// TestNoRoomIsNoFailure: whichever call finds no room, nothing that was there is lost, and the same succeeds later.
func TestNoRoomIsNoFailure(t *testing.T) {
	for at := 1; ; at++ {
		fsys := vfs.NewMem(1)
		l := openLog(t, fsys, 0)
		must(t, l.Begin(anchorOf(anchorID(1))))
		want := batch(1, 10, 11)
		must(t, l.Save(want))
		f := &faulty{at: at, err: fmt.Errorf("%w: %w", vfs.ErrTorn, syscall.ENOSPC), ops: "write rename"}
		fsys.Inject(f.hook)
		err := l.Save(batch(1, 1, 2, 3))
		if err == nil {
			want = append(want, batch(1, 1, 2, 3)...)
			err = l.BeginRollback()
		}
		fsys.Inject(nil)
		if f.calls < at {
			must(t, err)
			return
		}
		if !errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, ErrFailed) || l.Rolling() || l.Has(1) != (len(want) > 2) {
			t.Fatalf("call %d has no room: %v", at, err)
		}
		wantImages(t, l, want)
		more := batch(1, 20, 21)
		must(t, l.Save(more))
		want = append(want, more...)
		fsys.CrashPower()
		l = openLog(t, fsys, 0)
		wantImages(t, l, want)
		must(t, l.BeginRollback())
		must(t, l.Drop())
	}
}

func TestAFullDisk(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := openLog(t, fsys, 0)
	must(t, l.Begin(anchorOf(anchorID(1))))
	fsys.SetFree(16 << 10)
	var want []Image
	for r := int64(0); ; r++ {
		i := batch(4, 3)
		i[0].Region = r
		err := l.Save(i)
		if err == nil {
			want = append(want, i...)
			continue
		}
		if !errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, ErrFailed) {
			t.Fatal(err)
		}
		break
	}
	if err := l.Begin(anchorOf(anchorID(2))); !errors.Is(err, vfs.ErrNoSpace) {
		t.Fatal(err)
	}
	wantImages(t, l, want)
	fsys.SetFree(0)
	must(t, l.BeginRollback()) // takes no room
	wantImages(t, l, want)
	must(t, l.Drop())
	fsys.CrashPower()
	if openLog(t, fsys, 0).Anchor() != nil {
		t.Error("it is not dropped")
	}
}

func TestADiskErrorAtOpen(t *testing.T) {
	for at := 1; ; at++ {
		fsys := vfs.NewMem(1)
		l := openLog(t, fsys, 0)
		must(t, l.Begin(anchorOf(anchorID(1))))
		must(t, l.Save(batch(1, 1, 2)))
		must(t, l.Close())
		f := &faulty{at: at, err: syscall.EIO}
		fsys.Inject(f.hook)
		_, err := Open(fsys, testDir, Options{RegionBytes: worldRegion})
		fsys.Inject(nil)
		if f.calls < at {
			must(t, err)
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("call %d fails, and Open says %v", at, err)
		}
		wantImages(t, openLog(t, fsys, 0), batch(1, 1, 2))
	}
}

// contents is a file as bytes.
func contents(t testing.TB, fsys vfs.FS, path string) []byte {
	t.Helper()
	f, err := fsys.Open(path, vfs.ReadOnly)
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

func put(t testing.TB, fsys vfs.FS, path string, b []byte) {
	t.Helper()
	must(t, fsys.MkdirAll(filepath.Dir(path)))
	must(t, writeWhole(fsys, path, b, true))
}

// TestDamage changes one bit everywhere: it is never unnoticed, and nothing wrong is ever given out.
func TestDamage(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := openLog(t, fsys, 0)
	must(t, l.Begin(anchorOf(anchorID(1))))
	must(t, l.Save(batch(1, 1, 2, 3, 4)))
	must(t, l.Save(batch(1, 5, 6)))
	must(t, l.Close())
	for _, name := range []string{imagesFile, anchorFile} {
		clean := contents(t, fsys, testDir+"/"+name)
		for at := 0; at < len(clean); at += 37 {
			bad := append([]byte{}, clean...)
			bad[at] ^= 1 << (at % 8)
			put(t, fsys, testDir+"/"+name, bad)
			l, err := Open(fsys, testDir, Options{RegionBytes: worldRegion})
			if err == nil {
				err = l.Verify()
				must(t, l.Close())
			}
			var c *CorruptError
			if !errors.As(err, &c) {
				t.Fatalf("%s: byte %d changed: %v", name, at, err)
			}
			if c.Offset < int64(at)-worldRegion-2*sectorBytes || c.Offset > int64(at) && name == imagesFile {
				t.Fatalf("%s: byte %d changed, and byte %d is said to be wrong", name, at, c.Offset)
			}
		}
		put(t, fsys, testDir+"/"+name, clean)
	}
	must(t, fsys.Remove(testDir+"/"+imagesFile))
	if _, err := Open(fsys, testDir, Options{RegionBytes: worldRegion}); err == nil {
		t.Error("the images are gone, and nobody notices")
	}
}

// TestALostSectorOfTheMiddle: a sector that is zero is torn only in the newest batch.
func TestALostSectorOfTheMiddle(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := openLog(t, fsys, 0)
	must(t, l.Begin(anchorOf(anchorID(1))))
	first, second := batch(4, 1, 3, 4), batch(4, 8, 9)
	must(t, l.Save(first))
	end := l.Bytes()
	must(t, l.Save(second))
	must(t, l.Close())
	clean := contents(t, fsys, testDir+"/"+imagesFile)
	for at := int64(0); at < int64(len(clean)); at += sectorBytes {
		bad := append([]byte{}, clean...)
		if clear(bad[at : at+sectorBytes]); allZero(clean[at : at+sectorBytes]) {
			continue
		}
		put(t, fsys, testDir+"/"+imagesFile, bad)
		l, err := Open(fsys, testDir, Options{RegionBytes: worldRegion})
		var c *CorruptError
		switch {
		case at >= end:
			must(t, err)
			if n := l.Regions(); n < 3 || n > 4 || l.Verify() != nil {
				t.Fatalf("sector at %d lost: %d regions", at, n)
			}
		case err == nil && !errors.As(l.Verify(), &c), err != nil && !errors.As(err, &c):
			t.Fatalf("sector at %d lost: %v", at, err)
		}
		if err == nil {
			must(t, l.Close())
		}
	}
}

// TestReadersAndSavers runs under the race detector.
func TestReadersAndSavers(t *testing.T) {
	l := openLog(t, vfs.NewMem(1), 0)
	must(t, l.Begin(anchorOf(anchorID(1))))
	var wait sync.WaitGroup
	for g := range int64(4) {
		wait.Go(func() {
			for r := g; r < worldRegions; r += 4 {
				if err := l.Save(batch(1, r)); err != nil || !l.Has(r) {
					t.Errorf("region %d: %v", r, err)
				}
				if err := l.Verify(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if l.Regions() != worldRegions {
		t.Errorf("%d regions", l.Regions())
	}
}

// benchDir is on tmpfs where there is one.
func benchDir(b *testing.B) string {
	dir, err := os.MkdirTemp("/dev/shm", "undo-")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// BenchmarkSave saves 64 regions of 64 KiB at a time.
func BenchmarkSave(b *testing.B) {
	const regions, regionBytes, batches = 64, 64 << 10, 64 // 256 MiB, then anew
	l, err := Open(vfs.OS, benchDir(b), Options{RegionBytes: regionBytes})
	must(b, err)
	defer l.Close()
	images := make([]Image, regions)
	data := make([]byte, regionBytes)
	for i := range data {
		data[i] = byte(i*7 + i>>8)
	}
	b.SetBytes(regions * regionBytes)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n%batches == 0 {
			b.StopTimer()
			must(b, l.Begin(Anchor{ID: NewID()}))
			b.StartTimer()
		}
		for k := range images {
			images[k] = Image{Region: int64(n%batches*regions + k), Number: 1, Data: data}
		}
		must(b, l.Save(images))
		n++
	}
}
