package intentlog

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// errFault is what a faulty call answers in these tests.
type faulty struct {
	at, calls int
	err       error
	noSync    bool // only calls that allocate
}

func (f *faulty) hook(op, path string, off int64, n int) error {
	if f.noSync && op != "write" && op != "truncate" {
		return nil
	}
	f.calls++
	if f.calls == f.at {
		return f.err
	}
	return nil
}

// session is some of everything, and returns the first error.
func session(l *Log, round uint64) error {
	index, err := l.GenIndex(gen(byte(round)))
	if err != nil {
		return err
	}
	if err := l.Reserve(round * 100); err != nil {
		return err
	}
	if err := l.MarkHot([]int64{int64(round), 200}); err != nil {
		return err
	}
	l.SetVersions(int64(round)*4, int64(round)*4+3, lineage.MakeVersion(index, round))
	at := lineage.Position{Gen: gen(byte(round)), Number: round}
	if err := l.SetFloor(at); err != nil {
		return err
	}
	if err := l.Save(func(h *Header) { h.Promised.N = round }); err != nil {
		return err
	}
	return l.Checkpoint(CheckpointOptions{CoolAll: true, Position: func() lineage.Position { return at }})
}

// TestADiskErrorFailsTheLogForGood: whichever call fails, that call's caller hears of it, and every durable call after it.
func TestADiskErrorFailsTheLogForGood(t *testing.T) {
	for at := 1; ; at++ {
		fsys := vfs.NewMem(1)
		l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
		must(t, session(l, 1))
		f := &faulty{at: at, err: syscall.EIO}
		fsys.Inject(f.hook)
		err := session(l, 2)
		if f.calls < at {
			must(t, err)
			return
		}
		if !errors.Is(err, syscall.EIO) || !errors.Is(err, ErrFailed) {
			t.Fatalf("call %d fails: %v", at, err)
		}
		fsys.Inject(nil)
		for name, call := range map[string]func() error{
			"Save": func() error { return l.Save(func(*Header) {}) }, "MarkHot": func() error { return l.MarkHot([]int64{9}) },
			"SetFloor":   func() error { return l.SetFloor(lineage.Position{Gen: gen(2), Number: 999}) },
			"Reserve":    func() error { return l.Reserve(9999) },
			"Checkpoint": func() error { return l.Checkpoint(CheckpointOptions{}) },
			"MarkClean":  func() error { return l.MarkClean(vfs.Identity{}) }, "ForgetAll": l.ForgetAll,
			"GenIndex": func() error { _, err := l.GenIndex(gen(77)); return err },
		} {
			if err := call(); err == nil || name != "MarkClean" && !errors.Is(err, syscall.EIO) {
				t.Fatalf("call %d failed, and then %s says %v", at, name, err)
			}
		}
		must(t, l.Close())
		l = mustOpen(t, fsys)
		must(t, session(l, 3))
	}
}

// TestNoRoomIsNoFailure: whichever write finds no room, nothing is lost, and the same succeeds later.
func TestNoRoomIsNoFailure(t *testing.T) {
	for at := 1; ; at++ {
		fsys := vfs.NewMem(1)
		l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
		must(t, session(l, 1))
		f := &faulty{at: at, err: syscall.ENOSPC, noSync: true}
		fsys.Inject(f.hook)
		err := session(l, 2)
		fsys.Inject(nil)
		if f.calls < at {
			must(t, err)
			return
		}
		// A cooling that found no room is not worth an error: more is hot on the disk than need be.
		if err != nil && (!errors.Is(err, vfs.ErrNoSpace) || errors.Is(err, ErrFailed)) {
			t.Fatalf("call %d has no room: %v", at, err)
		}
		if l.Header().Promised.N < 1 || l.Floor().Number < 1 {
			t.Fatalf("call %d had no room, and something is lost", at)
		}
		must(t, session(l, 2))
		must(t, session(l, 3))
		must(t, l.MarkClean(vfs.Identity{}))
		fsys.CrashPower()
		l = mustOpen(t, fsys)
		if h := l.Header(); h.Promised.N != 3 || l.Floor().Number != 3 || l.UnknownRegions() != 0 || l.HotCount() != 0 {
			t.Fatalf("call %d had no room: promised %d, floor %d, %d regions unknown, %d extents hot", at, h.Promised.N, l.Floor().Number, l.UnknownRegions(), l.HotCount())
		}
		for r, want := range map[int64]uint64{4: 1, 8: 2, 12: 3} {
			if n := l.Version(r).Number(); n != want {
				t.Fatalf("call %d had no room: region %d has version %d", at, r, n)
			}
		}
	}
}

// TestADiskErrorAtOpen: Open says so, and leaves nothing locked.
func TestADiskErrorAtOpen(t *testing.T) {
	for at := 1; ; at++ {
		fsys := vfs.NewMem(1)
		l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
		must(t, session(l, 1))
		must(t, l.Close())
		f := &faulty{at: at, err: syscall.EIO}
		fsys.Inject(f.hook)
		_, err := Open(fsys, "/d/log", Options{})
		fsys.Inject(nil)
		if f.calls < at {
			must(t, err)
			return
		}
		if !errors.Is(err, syscall.EIO) {
			t.Fatalf("call %d fails, and Open says %v", at, err)
		}
		l = mustOpen(t, fsys)
		must(t, session(l, 2))
	}
}

func TestContentThatCannotBeSyncedIsNotCommitted(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
	g, err := l.GenIndex(gen(1))
	must(t, err)
	write(t, l, 0, 0, lineage.MakeVersion(g, 1))
	broken := fmt.Errorf("no: %w", syscall.EIO)
	if err := l.Checkpoint(CheckpointOptions{CoolAll: true, SyncData: func() error { return broken }}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if l.Header().Checkpoint != 0 || !l.IsHot(0) {
		t.Error("it was committed, or cooled")
	}
}
