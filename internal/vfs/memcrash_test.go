package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

func TestProcessCrashKeepsWhatWasWritten(t *testing.T) {
	m := NewMem(1)
	f := mustOpen(t, m, "/f", Create|Lock)
	_, err := f.WriteAt([]byte("kept"), 0)
	must(t, err)
	m.CrashProcess()
	if _, err := f.ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrCrashed) {
		t.Errorf("a handle from before reads: %v", err)
	}
	f = mustOpen(t, m, "/f", Lock)
	b := make([]byte, 4)
	if _, err := f.ReadAt(b, 0); err != nil || string(b) != "kept" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestPowerCrash sees, over many seeds, every outcome that may be, and none that may not.
func TestPowerCrash(t *testing.T) {
	sector := func(c byte) []byte { return bytes.Repeat([]byte{c}, SectorBytes) }
	seen := map[string]int{}
	for seed := range int64(200) {
		m := NewMem(seed)
		f := mustOpen(t, m, "/f", Create)
		_, err := f.WriteAt(bytes.Join([][]byte{sector('a'), sector('b')}, nil), 0)
		must(t, err)
		must(t, f.Datasync())
		must(t, m.SyncDir("/"))
		_, err = f.WriteAt(bytes.Join([][]byte{sector('c'), sector('d')}, nil), 0)
		must(t, err)
		_, err = f.WriteAt(sector('e'), 0)
		must(t, err)
		_, err = f.WriteAt(sector('x'), 1024) // the file grows
		must(t, err)
		mustOpen(t, m, "/unsynced", Create)
		m.CrashPower()
		f = mustOpen(t, m, "/f", 0)
		size, err := f.Size()
		must(t, err)
		b := make([]byte, size)
		_, err = f.ReadAt(b, 0)
		must(t, err)
		for at := 0; at < len(b); at += SectorBytes {
			if !bytes.Equal(b[at:at+SectorBytes], sector(b[at])) {
				t.Fatal("a sector is torn")
			}
			seen[fmt.Sprintf("%d%c", at/SectorBytes, b[at])]++
		}
		seen[fmt.Sprint("size ", size)]++
		if _, err := m.Stat("/unsynced"); errors.Is(err, fs.ErrNotExist) {
			seen["vanished"]++
		} else {
			seen["stayed"]++
		}
	}
	for _, want := range []string{"0a", "0c", "0e", "1b", "1d", "2x", "2\x00", "size 1024", "size 1536", "vanished", "stayed"} {
		if seen[want] == 0 {
			t.Errorf("never: %q", want)
		}
		delete(seen, want)
	}
	if len(seen) > 0 {
		t.Errorf("impossible: %v", seen)
	}
}

func TestPowerCrashKeepsWhatIsSynced(t *testing.T) {
	for seed := range int64(50) {
		m := NewMem(seed)
		f := mustOpen(t, m, "/new", Create)
		_, err := f.WriteAt([]byte("v1"), 0)
		must(t, err)
		must(t, f.Datasync())
		must(t, m.Rename("/new", "/f"))
		must(t, m.SyncDir("/"))
		must(t, f.Truncate(1))
		m.CrashPower()
		if _, err := m.Stat("/new"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal("the old name is there")
		}
		f = mustOpen(t, m, "/f", 0)
		b := make([]byte, 2)
		if n, _ := f.ReadAt(b, 0); string(b[:n]) != "v1" && string(b[:n]) != "v" && string(b[:n]) != "v\x00" {
			t.Fatalf("%q", b[:n])
		}
	}
}

func TestTheSameSeedMakesTheSameCrash(t *testing.T) {
	run := func() []byte {
		m := NewMem(7)
		f := mustOpen(t, m, "/f", Create)
		must(t, m.SyncDir("/"))
		must(t, f.Truncate(1<<16))
		must(t, f.Datasync())
		_, err := f.WriteAt(bytes.Repeat([]byte{1}, 1<<16), 0)
		must(t, err)
		m.CrashPower()
		b := make([]byte, 1<<16)
		_, err = mustOpen(t, m, "/f", 0).ReadAt(b, 0)
		must(t, err)
		return b
	}
	if !bytes.Equal(run(), run()) {
		t.Error("they differ")
	}
}

func TestInject(t *testing.T) {
	m := NewMem(1)
	var calls []string
	broken := ""
	m.Inject(func(op, path string, off int64, n int) error {
		calls = append(calls, fmt.Sprintf("%s %s %d %d", op, path, off, n))
		if op == broken {
			return syscall.EIO
		}
		return nil
	})
	f := mustOpen(t, m, "/f", Create)
	ops := map[string]func() error{
		"write": func() error { _, err := f.WriteAt(make([]byte, 9), 3); return err }, "sync": f.Datasync,
		"read": func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
		"zero": func() error { return f.Zero(0, 1, true) }, "truncate": func() error { return f.Truncate(12) },
		"syncdir": func() error { return m.SyncDir("/") }, "rename": func() error { return m.Rename("/f", "/f") },
		"open": func() error { _, err := m.Open("/f", 0); return err }, "remove": func() error { return m.Remove("/f") },
	}
	for _, name := range []string{"write", "sync", "read", "zero", "truncate", "syncdir", "rename", "open", "remove"} {
		broken = name
		var e *Error
		if err := ops[name](); !errors.Is(err, syscall.EIO) || !errors.As(err, &e) || e.Op != name {
			t.Errorf("%s fails with %v", name, err)
		}
		broken = ""
		must(t, ops[name]())
	}
	if calls[1] != "write /f 3 9" {
		t.Errorf("calls %q", calls)
	}
}

func TestATornWriteIsThereInPart(t *testing.T) {
	m := NewMem(3)
	f := mustOpen(t, m, "/f", Create)
	must(t, f.Truncate(64*SectorBytes))
	m.Inject(func(op, path string, off int64, n int) error {
		return fmt.Errorf("%w: %w", ErrTorn, syscall.EIO)
	})
	if _, err := f.WriteAt(bytes.Repeat([]byte{1}, 64*SectorBytes), 0); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	m.Inject(nil)
	b := make([]byte, 64*SectorBytes)
	_, err := f.ReadAt(b, 0)
	must(t, err)
	if n := bytes.Count(b, []byte{1}); n == 0 || n == len(b) || n%SectorBytes != 0 {
		t.Errorf("%d bytes of it are there", n)
	}
}
