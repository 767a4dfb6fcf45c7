package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"keelson/internal/block"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t testing.TB, fsys FS, path string, flags Flag) File {
	t.Helper()
	f, err := fsys.Open(path, flags)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// everyFS runs a test on each FS, in a directory of its own.
func everyFS(t *testing.T, test func(t *testing.T, fsys FS, dir string)) {
	t.Run("OS", func(t *testing.T) { test(t, OS, t.TempDir()) })
	t.Run("Mem", func(t *testing.T) {
		m := NewMem(1)
		must(t, m.MkdirAll("/t"))
		test(t, m, "/t")
	})
}

func TestReadWhatWasWritten(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		f := mustOpen(t, fsys, dir+"/f", Create)
		_, err := f.WriteAt([]byte("hello"), 8190)
		must(t, err)
		must(t, f.Datasync())
		b := make([]byte, 10)
		n, err := f.ReadAt(b, 8188)
		if n != 7 || err != io.EOF || string(b[:7]) != "\x00\x00hello" {
			t.Errorf("%d bytes, %v: %q", n, err, b)
		}
		if size, err := f.Size(); err != nil || size != 8195 {
			t.Errorf("size %d, %v", size, err)
		}
		must(t, f.Truncate(8192))
		must(t, f.Truncate(9000))
		if n, err := f.ReadAt(b, 8190); n != 10 || err != nil || string(b[:4]) != "he\x00\x00" {
			t.Errorf("after cutting: %d bytes, %v: %q", n, err, b)
		}
	})
}

func TestZeroReadsAsZero(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		f := mustOpen(t, fsys, dir+"/f", Create)
		zeroReadsAsZero(t, f, 3<<20, true)
		if size, err := f.Size(); err != nil || size != 3<<20 {
			t.Errorf("size %d, %v", size, err)
		}
	})
}

// zeroReadsAsZero zeroes odd ranges of a file or device and looks at every byte.
func zeroReadsAsZero(t *testing.T, f File, size int64, odd bool) {
	t.Helper()
	want := bytes.Repeat([]byte{0xa5}, int(size))
	for _, punch := range []bool{true, false} {
		for _, r := range [][2]int64{{0, 4096}, {5000, 100}, {8000, 70000}, {1 << 20, 1<<20 + 512}, {size - 700, 700}, {12345, 0}} {
			if !odd {
				r[0], r[1] = r[0]/512*512, r[1]/512*512
			}
			for i := range want {
				want[i] = 0xa5
			}
			_, err := f.WriteAt(want, 0)
			must(t, err)
			must(t, f.Zero(r[0], r[1], punch))
			clear(want[r[0] : r[0]+r[1]])
			got := make([]byte, size)
			if _, err := f.ReadAt(got, 0); err != nil && err != io.EOF {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("Zero(%d, %d, %v): other content", r[0], r[1], punch)
			}
		}
	}
	for _, r := range [][2]int64{{-1, 5}, {size - 1, 2}, {size + 1, 0}, {0, -1}} {
		if err := f.Zero(r[0], r[1], true); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Zero(%d, %d) says %v", r[0], r[1], err)
		}
	}
}

func TestExtents(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		f := mustOpen(t, fsys, dir+"/f", Create)
		must(t, f.Truncate(1<<20))
		_, err := f.WriteAt(bytes.Repeat([]byte{1}, 65536), 128<<10)
		must(t, err)
		must(t, f.Datasync())
		list, err := f.Extents(0, 1<<20)
		must(t, err)
		want := []block.Extent{{Len: 128 << 10, Hole: true, Zero: true}, {Len: 64 << 10}, {Len: 832 << 10, Hole: true, Zero: true}}
		if len(list) != 3 || list[0] != want[0] || list[1] != want[1] || list[2] != want[2] {
			t.Errorf("extents %v", list)
		}
		list, err = f.Extents(130<<10, 1000)
		if err != nil || len(list) != 1 || list[0] != (block.Extent{Len: 1000}) {
			t.Errorf("inside: %v, %v", list, err)
		}
		must(t, f.Zero(128<<10, 65536, true))
		list, err = f.Extents(0, 1<<20)
		if err != nil || len(list) != 1 || !list[0].Hole {
			t.Errorf("punched: %v, %v", list, err)
		}
	})
}

func TestLocksExclude(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		f := mustOpen(t, fsys, dir+"/f", Create|Lock)
		if _, err := fsys.Open(dir+"/f", Lock); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), dir+"/f") || !strings.Contains(err.Error(), "stop what uses it") {
			t.Errorf("a second lock says %v", err)
		}
		mustOpen(t, fsys, dir+"/f", 0)
		must(t, f.Close())
		mustOpen(t, fsys, dir+"/f", Lock)
	})
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		mustOpen(t, fsys, dir+"/f", Create)
		for _, c := range []struct {
			path  string
			flags Flag
			want  error
		}{{"/none", 0, fs.ErrNotExist}, {"/none/f", Create, fs.ErrNotExist}, {"/f", Create | Exclusive, fs.ErrExist}} {
			if _, err := fsys.Open(dir+c.path, c.flags); !errors.Is(err, c.want) || !strings.Contains(err.Error(), dir+c.path) {
				t.Errorf("open %s: %v", c.path, err)
			}
		}
		if _, err := fsys.Open(dir, ReadOnly); err == nil || !strings.Contains(err.Error(), "neither a file nor a block device") {
			t.Errorf("open a directory: %v", err)
		}
		f := mustOpen(t, fsys, dir+"/f", ReadOnly)
		if _, err := f.WriteAt([]byte{1}, 0); err == nil {
			t.Error("a write to a file opened for reading succeeds")
		}
		must(t, f.Close())
		if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		if err := f.Datasync(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("sync after Close: %v", err)
		}
	})
}

func TestNames(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		must(t, fsys.MkdirAll(dir+"/a/b"))
		must(t, fsys.MkdirAll(dir+"/a/b"))
		f := mustOpen(t, fsys, dir+"/a/b/f", Create)
		_, err := f.WriteAt([]byte("x"), 0)
		must(t, err)
		id, err := f.Identity()
		must(t, err)
		mustOpen(t, fsys, dir+"/a/b/g", Create)
		must(t, fsys.Rename(dir+"/a/b/f", dir+"/a/b/g"))
		must(t, fsys.SyncDir(dir+"/a/b"))
		again, err := fsys.Stat(dir + "/a/b/g")
		if err != nil || again.Inode != id.Inode || again.Size != 1 || again.Kind != KindFile {
			t.Errorf("%+v, %v; it was %+v", again, err, id)
		}
		must(t, fsys.Remove(dir+"/a/b/g"))
		for name, err := range map[string]error{
			"remove": fsys.Remove(dir + "/a/b/g"), "rename": fsys.Rename(dir+"/a/b/g", dir+"/h"), "syncdir": fsys.SyncDir(dir + "/none"),
			"stat": func() error { _, err := fsys.Stat(dir + "/a/b/g"); return err }(),
		} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
		mustOpen(t, fsys, dir+"/file", Create)
		if err := fsys.MkdirAll(dir + "/file"); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a directory over a file: %v", err)
		}
	})
}

func TestIdentityChangesWithTheContent(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		f := mustOpen(t, fsys, dir+"/f", Create)
		before, err := f.Identity()
		must(t, err)
		if _, err := f.WriteAt([]byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		if after, err := f.Identity(); err != nil || after == before {
			t.Errorf("%+v is the same, %v", after, err)
		}
	})
}

func TestHandlesAreForEverybody(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		f := mustOpen(t, fsys, dir+"/f", Create)
		must(t, f.Truncate(1<<20))
		var wg sync.WaitGroup
		for w := range int64(4) {
			wg.Go(func() {
				b := bytes.Repeat([]byte{byte(w + 1)}, 4096)
				got := make([]byte, 4096)
				for i := range int64(30) {
					off := (i*4 + w) * 4096
					if _, err := f.WriteAt(b, off); err != nil {
						t.Error(err)
					}
					if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, b) {
						t.Error("read something else", err)
					}
					if err := f.Datasync(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		must(t, f.Close())
	})
}

func TestOSNamesAFileThatIsInTheWay(t *testing.T) {
	dir := t.TempDir()
	must(t, syscall.Mkfifo(dir+"/fifo", 0o600))
	if _, err := OS.Open(dir+"/fifo", 0); err == nil || !strings.Contains(err.Error(), "neither a file nor a block device") {
		t.Errorf("a FIFO: %v", err)
	}
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o700))
	if _, err := OS.Open(dir+"/d", 0); err == nil {
		t.Error("a directory opens")
	}
}

func TestReadNowait(t *testing.T) {
	f := mustOpen(t, OS, t.TempDir()+"/f", Create)
	want := bytes.Repeat([]byte{7}, 8192)
	_, err := f.WriteAt(want, 0)
	must(t, err)
	r := f.(NowaitReader)
	got := make([]byte, 8192)
	n, ok, err := r.ReadNowait(got, 0)
	must(t, err)
	if ok && (n != 8192 || !bytes.Equal(got, want)) {
		t.Errorf("%d bytes, other content", n)
	}
	if n, ok, err := r.ReadNowait(got, 4096); ok || err != nil || n > 4096 {
		t.Errorf("past the end: %d, %v, %v", n, ok, err)
	}
	if allocs := testing.AllocsPerRun(100, func() { r.ReadNowait(got, 0) }); allocs > 0 {
		t.Errorf("%v allocations a read", allocs)
	}
	must(t, f.Close())
	if _, _, err := r.ReadNowait(got, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestNoSpaceOnARealFileSystem(t *testing.T) {
	f := &Error{Op: "write", Path: "/x", Off: 5, Err: syscall.ENOSPC}
	if !errors.Is(f, ErrNoSpace) || !errors.Is(f, block.ErrNoSpace) || errors.Is(f, ErrInUse) || !strings.Contains(f.Error(), "write /x at 5: no space left on device: free some space") {
		t.Error(f)
	}
	m := NewMem(1)
	m.SetFree(4096)
	g := mustOpen(t, m, "/f", Create)
	_, err := g.WriteAt(make([]byte, 4096), 0)
	must(t, err)
	if _, err := g.WriteAt(make([]byte, 1), 4096); !errors.Is(err, ErrNoSpace) {
		t.Error(err)
	}
	_, err = g.WriteAt(make([]byte, 4096), 0)
	must(t, err)
}
