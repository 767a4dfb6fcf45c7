package volume

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
)

// TestFailureThatCannotBeNoted: the disk of a copy fails at a sync, and the log has no room, or fails as well, so that nothing
// says so at the next start. Memory then shows what the disk never got, and no later sync writes it. Whoever goes on from that copy, or
// compares it, must not take it for durable: after a power cut, and without further ado, both copies are the same.
func TestFailureThatCannotBeNoted(t *testing.T) {
	for _, role := range []string{"source", "target"} {
		t.Run(role, func(t *testing.T) {
			a, b := newServer(t, "a", 16<<20), newServer(t, "b", 16<<20)
			for _, s := range []*server{a, b} {
				s.close()
				s.lim.CheckpointEvery = time.Hour
				s.stays = true
				s.open()
			}
			a.serve(1)
			connect(a, b, lineage.Member{})
			s := map[string]*server{"source": a, "target": b}[role]
			for r := range int64(64) {
				put(t, a.v, r*testRegion, random(r, 4096))
			}
			s.fs.Inject(func(op, path string, _ int64, _ int) error {
				if op == "sync" && strings.HasSuffix(path, "data.img") || op == "write" && strings.HasSuffix(path, "header") {
					return syscall.EIO
				}
				return nil
			})
			if err := s.v.checkpoint(true, nil); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if s.v.Failed() == nil {
				t.Fatal("the copy is not failed")
			}
			s.crash(false)
			if s == a {
				b.wait("SessionEnded", is[mirror.SessionEnded])
			} else {
				a.wait("LinkDown", is[mirror.LinkDown])
			}
			if err := s.v.Failed(); err != nil {
				t.Fatal("it was noted: ", err)
			}
			if s == a {
				a.serve(2)
			}
			connect(a, b, lineage.Member{})
			flush(t, a.v)
			for _, s := range []*server{a, b} {
				if err := s.v.checkpoint(true, nil); err != nil {
					t.Fatal(err)
				}
			}
			put(t, a.v, 9<<20, random(99, 4096)) // marking it makes the cooling durable
			same(t, a, b)
			before := content(t, a)
			s.crash(true)
			after := content(t, s)
			for r := range s.v.regions {
				if s.v.log.Version(r) != lineage.Unknown && string(after[r<<16:][:testRegion]) != string(before[r<<16:][:testRegion]) {
					t.Errorf("region %d: its content is gone after the power cut, and its version is as if it were there", r)
				}
			}
		})
	}
}

// TestFailureIsNotedWhenThereIsRoom: the note that had no room is tried again, and holds across the restart.
func TestFailureIsNotedWhenThereIsRoom(t *testing.T) {
	a := newServer(t, "a", 8<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	a.fs.Inject(func(op, path string, _ int64, _ int) error {
		switch {
		case op == "sync" && strings.HasSuffix(path, "data.img"):
			return syscall.EIO
		case op == "write" && strings.HasSuffix(path, "header"):
			return vfs.ErrNoSpace
		}
		return nil
	})
	if err := do(a.v, block.Flush, 0, 0, 0, nil); err == nil {
		t.Fatal("a flush that failed was answered")
	}
	a.wait("DiskFailed", is[mirror.DiskFailed])
	if why := a.v.Header().Failed; why != "" {
		t.Fatalf("noted without room: %q", why)
	}
	a.fs.Inject(nil)
	a.v.askCheckpoint()
	waitFor(t, "it is noted", func() bool { return a.v.Header().Failed != "" })
	a.crash(true)
	if err := a.v.Failed(); err == nil || !strings.Contains(err.Error(), "input/output error") {
		t.Fatalf("after the restart: %v", err)
	}
}

// hangLog lets no write to the intent log end until the test does.
func (s *server) hangLog(t *testing.T, data bool) {
	stuck := make(chan struct{})
	t.Cleanup(func() { close(stuck) })
	s.fs.Inject(func(op, path string, _ int64, _ int) error {
		if inLog := strings.Contains(path, "/log/"); inLog && op != "open" || data && strings.HasSuffix(path, "data.img") && op != "open" {
			<-stuck
		}
		return nil
	})
}

// TestAbandonedDiskWithItsLog: the disk that hangs holds the intent log too. Giving it up waits for nothing, and nobody who looks at
// the volume does; the failure is told.
func TestAbandonedDiskWithItsLog(t *testing.T) {
	a := newServer(t, "a", 8<<20)
	a.stays = true
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	a.hangLog(t, true)
	saving := later(func() error { return a.v.SaveStanding(a.v.Header().Standing) })
	flushing := later(func() error { return do(a.v, block.Flush, 0, 0, 0, nil) })
	waitFor(t, "a save and a flush are under way", func() bool { return a.v.watch.syncs.mark() > 0 && len(saving) == 0 })
	looked := later(func() error {
		a.v.AbandonDisk("a flush is not finished")
		a.v.Header()
		a.v.Own()
		a.v.Status(time.Now())
		a.v.Floor()
		return nil
	})
	select {
	case <-looked:
	case <-time.After(waitMax):
		t.Fatal("whoever looks at the volume waits for its disk")
	}
	a.wait("DiskFailed", is[mirror.DiskFailed])
	a.v.CloseDevice("test")
	if err := <-flushing; err == nil {
		t.Error("a flush that hangs was answered")
	}
}

// TestCloseDeviceWithADiskThatHangs: closing waits for what is with the disk, but not for ever; until the disk has finished no
// session may write to the copy (rule 14), and what comes back late is not answered as done.
func TestCloseDeviceWithADiskThatHangs(t *testing.T) {
	a, b := newServer(t, "a", 8<<20), newServer(t, "b", 8<<20)
	a.close()
	a.lim.DiskStall = 200 * time.Millisecond
	a.open()
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	stuck := make(chan struct{})
	a.fs.Inject(func(op, path string, _ int64, _ int) error {
		if op == "write" && strings.HasSuffix(path, "data.img") {
			<-stuck
		}
		return nil
	})
	writing := later(func() error { return do(a.v, block.Write, 0, 8192, 0, random(2, 4096)) })
	waitFor(t, "a write is with the disk", func() bool { a.v.mu.Lock(); defer a.v.mu.Unlock(); return a.v.inFlight() })
	closed := later(func() error { a.v.CloseDevice("test"); a.v.BecomeTarget(); return nil })
	select {
	case <-closed:
	case <-time.After(waitMax):
		t.Fatal("closing waits for the disk")
	}
	b.serve(2)
	x, y := newPipe()
	defer x.Close(errCut)
	if err := a.v.Attach(y, SessionOptions{From: "b", History: b.v.Own().History}); err == nil {
		t.Fatal("a session began while an older write may still land")
	}
	if err := a.v.RollBack(); err == nil {
		t.Fatal("a rollback began")
	}
	if _, err := a.v.ViewCopy(); !errors.Is(err, ErrCopyChanges) {
		t.Fatalf("a view of a copy that an older write may still change: %v", err)
	}
	close(stuck)
	if err := <-writing; !errors.Is(err, block.ErrShutdown) {
		t.Fatalf("the write that came back late: %v", err)
	}
	connect(b, a, lineage.Member{})
	same(t, a, b)
}

// TestHangingLogIsNoticed: a write waits for a note that the disk under the intent log does not finish; that is told, and when it has been
// finished that is told too.
func TestHangingLogIsNoticed(t *testing.T) {
	a := newServer(t, "a", 8<<20)
	a.close()
	a.lim.DiskStall = 300 * time.Millisecond
	a.open()
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	stuck := make(chan struct{})
	a.fs.Inject(func(op, path string, _ int64, _ int) error {
		if op == "sync" && strings.HasSuffix(path, "/log/hot") {
			<-stuck
		}
		return nil
	})
	writing := later(func() error { return do(a.v, block.Write, 0, 5<<20, 0, random(2, 4096)) })
	e := a.wait("DiskStalled", is[mirror.DiskStalled]).(mirror.DiskStalled)
	if !strings.Contains(e.Why, "intent log") {
		t.Errorf("told: %q", e.Why)
	}
	close(stuck)
	if err := <-writing; err != nil {
		t.Fatal(err)
	}
	a.wait("that it goes on", func(e mirror.Event) bool { s, ok := e.(mirror.DiskStalled); return ok && s.Why == "" })
}
