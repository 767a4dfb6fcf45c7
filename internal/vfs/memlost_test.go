package vfs

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"
)

// lostWorld is a file whose newest content a failed Datasync did not bring to the disk.
func lostWorld(t *testing.T, seed int64) (*Mem, File) {
	t.Helper()
	m := NewMem(seed)
	f := mustOpen(t, m, "/f", Create)
	_, err := f.WriteAt(fill('a', 16), 0)
	must(t, err)
	must(t, f.Datasync())
	must(t, m.SyncDir("/"))
	_, err = f.WriteAt(fill('b', 20), 0)
	must(t, err)
	m.Inject(func(op, _ string, _ int64, _ int) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	})
	if err := f.Datasync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	m.Inject(nil)
	return m, f
}

func fill(c byte, sectors int) []byte { return bytes.Repeat([]byte{c}, sectors*SectorBytes) }

// contents are the first bytes of the file's sectors.
func contents(t *testing.T, f File) string {
	t.Helper()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	var s []byte
	for at := 0; at < len(b); at += SectorBytes {
		s = append(s, b[at])
	}
	return string(s)
}

// TestFailedSyncLosesWhatItShows: after a Datasync that failed the content shows, later ones succeed and write none of it, and a
// power cut takes it away, all but what had reached the disk by chance.
func TestFailedSyncLosesWhatItShows(t *testing.T) {
	lost, kept, short := 0, 0, 0
	for seed := range int64(20) {
		m, f := lostWorld(t, seed)
		if got := contents(t, f); got != string(bytes.Repeat([]byte{'b'}, 20)) {
			t.Fatalf("after the error the file shows %q", got)
		}
		must(t, f.Datasync())
		m.CrashPower()
		got := contents(t, mustOpen(t, m, "/f", 0))
		if len(got) == 16 {
			short++
		}
		for _, c := range got[:16] {
			if c == 'a' {
				lost++
			} else {
				kept++
			}
		}
	}
	if lost < 100 || kept < 20 || short == 0 || short == 20 {
		t.Errorf("%d sectors lost, %d kept, %d of 20 files short", lost, kept, short)
	}
}

// TestWrittenAnewIsKept: what is written again after the error is durable with the next Datasync, the size included.
func TestWrittenAnewIsKept(t *testing.T) {
	for seed := range int64(20) {
		m, f := lostWorld(t, seed)
		_, err := f.WriteAt(fill('b', 20), 0)
		must(t, err)
		must(t, f.Datasync())
		m.CrashPower()
		if got := contents(t, mustOpen(t, m, "/f", 0)); got != string(bytes.Repeat([]byte{'b'}, 20)) {
			t.Fatalf("seed %d: %q", seed, got)
		}
	}
}

// TestForget shows what the disk has; a process that dies may show some of it.
func TestForget(t *testing.T) {
	_, f := lostWorld(t, 1)
	must(t, f.Forget(0, 4*SectorBytes))
	if got := contents(t, f); !bytes.Contains([]byte(got[:4]), []byte("a")) || bytes.Contains([]byte(got[4:]), []byte("a")) {
		t.Errorf("%q", got)
	}
	must(t, f.Datasync())
	_, err := f.WriteAt(fill('c', 1), 0)
	must(t, err)
	must(t, f.Forget(0, SectorBytes))
	if got := contents(t, f); got[0] != 'c' {
		t.Errorf("what is not written yet is forgotten: %q", got)
	}
	some := 0
	for seed := range int64(20) {
		m, _ := lostWorld(t, seed)
		m.CrashProcess()
		if bytes.Contains([]byte(contents(t, mustOpen(t, m, "/f", 0))), []byte("a")) {
			some++
		}
	}
	if some == 0 || some == 20 {
		t.Errorf("of 20 files %d show the disk's content after the death of their process", some)
	}
}

// TestForgetLosesNothing that was written, synced or not, on any file system that works.
func TestForgetLosesNothing(t *testing.T) {
	everyFS(t, func(t *testing.T, fsys FS, dir string) {
		f := mustOpen(t, fsys, dir+"/f", Create)
		_, err := f.WriteAt(fill('a', 64), 0)
		must(t, err)
		must(t, f.Datasync())
		_, err = f.WriteAt(fill('b', 8), 8*SectorBytes)
		must(t, err)
		must(t, f.Forget(0, 64*SectorBytes))
		want := string(fill('a', 8)) + string(fill('b', 8)) + string(fill('a', 48))
		b := make([]byte, len(want))
		if _, err := f.ReadAt(b, 0); err != nil || string(b) != want {
			t.Errorf("%v, or another content", err)
		}
		must(t, f.Close())
		if err := f.Forget(0, 1); err == nil {
			t.Error("a closed file")
		}
	})
}
