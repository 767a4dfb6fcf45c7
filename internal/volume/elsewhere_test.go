package volume

import (
	"bytes"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// breakDisk makes every such operation on the server's disk fail from now on.
func (s *server) breakDisk(ops ...string) {
	s.fs.Inject(func(op, path string, _ int64, _ int) error {
		for _, o := range ops {
			if op == o && strings.HasSuffix(path, "data.img") {
				return syscall.EIO
			}
		}
		return nil
	})
}

func get(d block.Device, off, n int64) ([]byte, error) {
	done := make(asker)
	r := &block.Request{Op: block.Read, Off: off, Len: n, By: done, Buf: block.NewBuffer(int(n))}
	defer r.Buf.Release()
	d.Submit([]*block.Request{r})
	<-done
	return bytes.Clone(r.Buf.Bytes), r.Err
}

// later does it beside the test.
func later[T any](f func() T) <-chan T {
	c := make(chan T, 1)
	go func() { c <- f() }()
	return c
}

func nothingYet[T any](t *testing.T, c <-chan T, what string) {
	t.Helper()
	select {
	case got := <-c:
		t.Fatalf("%s before there was anybody to serve from: %v", what, got)
	case <-time.After(20 * time.Millisecond): // that it does not end cannot be waited for
	}
}

// TestSourceDiskFails: the first error of a read, a write or a flush fails the source's copy, durably. Nothing is answered
// until the volume is told whom to serve from; then nothing was lost, and what failed was done there.
func TestSourceDiskFails(t *testing.T) {
	for _, op := range []string{"read", "write", "sync"} {
		t.Run(op, func(t *testing.T) {
			a, b, c := newServer(t, "a", 8<<20), newServer(t, "b", 8<<20), newServer(t, "c", 8<<20)
			a.stays = true
			a.serve(1, "b", "c")
			p := connect(a, b, lineage.Member{})
			connect(a, c, lineage.Member{Mode: lineage.Async})
			first, second := random(1, 300<<10), random(2, 64<<10)
			put(t, a.v, 1<<20, first)
			flush(t, a.v)
			put(t, a.v, 0, random(9, 4096)) // so that there is something to make durable
			a.breakDisk(op)
			wrote := later(func() error { return do(a.v, block.Write, block.FUA, 1<<20+512, int64(len(second)), second) })
			read := later(func() error {
				got, err := get(a.v, 1<<20, 512)
				if err == nil && !bytes.Equal(got, first[:512]) {
					t.Error("the read got something else")
				}
				return err
			})
			if op == "read" {
				a.wait("DiskFailed", is[mirror.DiskFailed])
				nothingYet(t, read, "a read ended")
			} else {
				a.wait("DiskFailed", is[mirror.DiskFailed])
				nothingYet(t, wrote, "a write ended")
			}
			if why := a.v.Header().Failed; !strings.Contains(why, "input/output error") {
				t.Errorf("the header says %q", why)
			}
			a.v.ServeFrom("b")
			for _, end := range []<-chan error{wrote, read} {
				if err := <-end; err != nil {
					t.Fatal(err)
				}
			}
			copy(first[512:], second)
			if got, err := get(a.v, 1<<20, int64(len(first))); err != nil || !bytes.Equal(got, first) {
				t.Fatalf("read back: %v", err)
			}
			flush(t, a.v)
			if got := content(t, b)[1<<20:][:len(first)]; !bytes.Equal(got, first) {
				t.Fatal("b holds something else")
			}
			if floor := b.v.Floor(); floor.Number < a.v.Own().Position.Number {
				t.Fatalf("flushed up to %d, b says %v", a.v.Own().Position.Number, floor)
			}

			// The session ends: reads wait, and go on at the other target. It is async, and is waited for now.
			_ = p.Close(errCut)
			a.wait("LinkDown", is[mirror.LinkDown])
			read = later(func() error { _, err := get(a.v, 0, 4096); return err })
			nothingYet(t, read, "a read ended")
			a.v.Require([]string{"c"}, 1)
			a.v.ServeFrom("c")
			if err := <-read; err != nil {
				t.Fatal(err)
			}
			put(t, a.v, 3<<20, second)
			if got := content(t, c)[3<<20:][:len(second)]; !bytes.Equal(got, second) {
				t.Fatal("c does not hold what was answered")
			}

			// A hand-over without a copy of its own.
			a.v.Hold("p")
			drained := a.wait("Drained", is[mirror.Drained]).(mirror.Drained)
			a.v.CheckpointHere("p")
			checked := a.wait("CheckedHere", is[mirror.CheckedHere]).(mirror.CheckedHere)
			if own := c.v.Own(); drained.Number != checked.Last.Number || own.Position != checked.Last {
				t.Errorf("drained at %d, checked at %v, c is at %v", drained.Number, checked.Last, own.Position)
			}
			held := later(func() error { return do(a.v, block.Write, 0, 0, 4096, random(3, 4096)) })
			a.v.CloseDevice("handed over")
			if err := <-held; !errors.Is(err, block.ErrShutdown) { // the client is to look for the new source
				t.Errorf("a held write ended with %v", err)
			}
			if _, err := get(a.v, 0, 4096); !errors.Is(err, block.ErrShutdown) {
				t.Errorf("a read after the hand-over ended with %v", err)
			}

			// After a restart nothing of the copy is used, whatever the disk says then.
			a.fs.Inject(nil)
			a.close()
			a.open()
			if own := a.v.Own(); !own.Failed || a.v.Failed() == nil {
				t.Errorf("after a restart: %+v", own)
			}
			a.v.OpenDevice()
			a.v.CloseDevice("test")
			if _, err := a.v.disk.ReadAt(make([]byte, 512), 0); err == nil {
				t.Error("the disk is used again")
			}
		})
	}
}

// TestSourceDiskFailsAlone: without anybody to serve from the application gets the disk's error.
func TestSourceDiskFailsAlone(t *testing.T) {
	for _, op := range []string{"read", "write", "sync"} {
		t.Run(op, func(t *testing.T) {
			a := newServer(t, "a", 4<<20)
			a.serve(1)
			put(t, a.v, 0, random(1, 4096))
			a.breakDisk(op)
			var err error
			switch op {
			case "read":
				_, err = get(a.v, 0, 4096)
			case "write":
				err = do(a.v, block.Write, 0, 0, 4096, random(1, 4096))
			default:
				err = do(a.v, block.Flush, 0, 0, 0, nil)
			}
			if err == nil || !strings.Contains(err.Error(), "input/output error") {
				t.Fatalf("the application got %v", err)
			}
			a.fs.Inject(nil)
			if _, err := get(a.v, 0, 4096); err == nil {
				t.Fatal("a later read is a success")
			}
		})
	}
}

// TestTargetDiskFails: the same at a target: its session ends, it takes no other, and the source goes on.
func TestTargetDiskFails(t *testing.T) {
	for _, op := range []string{"read", "write", "sync"} {
		t.Run(op, func(t *testing.T) {
			a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
			a.stays = true
			a.serve(1)
			connect(a, b, lineage.Member{})
			put(t, a.v, 0, random(1, 4096))
			b.breakDisk(op)
			if op == "read" { // a target reads for a source whose disk failed
				a.breakDisk("read")
				got := later(func() error { _, err := get(a.v, 0, 4096); return err })
				a.wait("DiskFailed", is[mirror.DiskFailed])
				a.v.ServeFrom("b")
				a.wait("LinkDown", is[mirror.LinkDown])
				nothingYet(t, got, "a read ended")
				a.v.CloseDevice("no copy is left")
				if err := <-got; err == nil || !strings.Contains(err.Error(), "input/output error") {
					t.Errorf("the application got %v", err)
				}
			} else {
				put(t, a.v, 0, random(2, 4096))
				_ = do(a.v, block.Flush, 0, 0, 0, nil)
			}
			b.wait("DiskFailed", is[mirror.DiskFailed])
			b.wait("SessionEnded", is[mirror.SessionEnded])
			if b.v.Header().Failed == "" {
				t.Error("it is not noted durably")
			}
			b.fs.Inject(nil)
			b.crash(true)
			if !b.v.Own().Failed {
				t.Error("after a power cut nothing is known of it")
			}
			x, _ := newPipe()
			if err := b.v.Attach(x, SessionOptions{From: "a"}); err == nil {
				t.Error("a session is taken")
			}
		})
	}
}

// TestDiskHangs: a write that the disk does not finish is reported; given up, the volume goes on from the target, and only
// what hangs in the disk hangs.
func TestDiskHangs(t *testing.T) {
	a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
	a.stays = true
	a.close()
	a.lim.DiskStall = 300 * time.Millisecond
	a.open()
	a.serve(1, "b")
	connect(a, b, lineage.Member{})
	put(t, a.v, 0, random(1, 4096))
	entered, release := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	a.fs.Inject(func(op, path string, _ int64, _ int) error {
		if op == "write" && strings.HasSuffix(path, "data.img") && !once.Swap(true) {
			close(entered)
			<-release
		}
		return nil
	})
	hung := later(func() error { return do(a.v, block.Write, 0, 1<<20, 4096, random(2, 4096)) })
	<-entered
	stalled := a.wait("DiskStalled", is[mirror.DiskStalled]).(mirror.DiskStalled)
	if !strings.Contains(stalled.Why, "write") {
		t.Error(stalled)
	}
	a.v.AbandonDisk(stalled.Why)
	a.wait("DiskFailed", is[mirror.DiskFailed])
	a.v.ServeFrom("b")
	put(t, a.v, 2<<20, random(3, 4096))
	flush(t, a.v)
	if got, err := get(a.v, 2<<20, 4096); err != nil || !bytes.Equal(got, random(3, 4096)) {
		t.Fatal(err)
	}
	nothingYet(t, hung, "what hangs was answered")
	a.v.Hold("p") // what hangs is not waited for
	a.wait("Drained", is[mirror.Drained])
	a.v.Require([]string{"b"}, 2) // nor does it wait for copies afterwards
	a.v.CloseDevice("handed over")
	close(release)
	if err := <-hung; err == nil {
		t.Error("a write that hung was answered after the device closed")
	}
}

// TestAStalledTargetIsDroppedBesideAHungDisk: what hangs in the given-up disk comes first of all that waits, for ever; a target
// that does not acknowledge what came later is dropped as ever.
func TestAStalledTargetIsDroppedBesideAHungDisk(t *testing.T) {
	a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
	a.stays = true
	a.close()
	a.lim.SyncTimeout = 300 * time.Millisecond
	a.open()
	a.serve(1, "b")
	p := connect(a, b, lineage.Member{})
	put(t, a.v, 0, random(1, 4096))
	entered, release := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	a.fs.Inject(func(op, path string, _ int64, _ int) error {
		if op == "write" && strings.HasSuffix(path, "data.img") && !once.Swap(true) {
			close(entered)
			<-release
		}
		return nil
	})
	hung := later(func() error { return do(a.v, block.Write, 0, 1<<20, 4096, random(2, 4096)) })
	<-entered
	waitFor(t, "b has it", func() bool { return bytes.Equal(region(b, 16)[:4096], random(2, 4096)) })
	a.v.AbandonDisk("test")
	a.v.ServeFrom("b")
	put(t, a.v, 2<<20, random(3, 4096))
	p.stall(true)
	wrote := later(func() error { return do(a.v, block.Write, 0, 2<<20, 4096, random(4, 4096)) })
	a.wait("LinkDown", is[mirror.LinkDown])
	a.v.CloseDevice("nobody is left")
	close(release)
	for _, end := range []<-chan error{hung, wrote} {
		if err := <-end; err == nil {
			t.Error("answered without a copy")
		}
	}
}

// TestAStoppedProcessIsNoHang: a disk hangs if something stays the same while the keeper looks again and again, however
// long that is by the clock: a stopped process, or a paused machine, does not fail its disk for good.
func TestAStoppedProcessIsNoHang(t *testing.T) {
	v := &Volume{active: []span{{0, 4096, 1}}}
	limit := 3 * tick
	for now, want := range []string{"", "", "", "", "a write"} {
		if got := v.hangs(int64(now+1), limit); got != want {
			t.Errorf("after %d ticks: %q", now, got)
		}
	}
}

// TestMinCopies: rule 18. Below it writes wait, then fail, and nothing is answered by one copy; above it they go on.
func TestMinCopies(t *testing.T) {
	a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
	a.close()
	a.lim.CopiesWait = 300 * time.Millisecond
	a.open()
	a.serve(1)
	a.v.Require(nil, 2)
	began := time.Now()
	if err := do(a.v, block.Write, 0, 0, 4096, random(1, 4096)); err == nil || !strings.Contains(err.Error(), "min-copies") {
		t.Fatalf("answered: %v", err)
	}
	if took := time.Since(began); took < 250*time.Millisecond {
		t.Errorf("it failed after %s", took)
	}
	for _, op := range []block.Op{block.Write, block.Flush} {
		if err := do(a.v, op, 0, 0, 0, random(1, 4096)); err == nil {
			t.Fatalf("%s was answered", op)
		}
	}
	if _, err := get(a.v, 0, 4096); err != nil {
		t.Errorf("a read: %v", err)
	}
	p := connect(a, b, lineage.Member{})
	put(t, a.v, 0, random(2, 4096))
	flush(t, a.v)
	same(t, a, b)
	_ = p.Close(errCut)
	a.wait("LinkDown", is[mirror.LinkDown])
	waits := later(func() error { return do(a.v, block.Write, 0, 0, 4096, random(3, 4096)) })
	b.wait("SessionEnded", is[mirror.SessionEnded])
	connect(a, b, lineage.Member{})
	if err := <-waits; err != nil && !strings.Contains(err.Error(), "min-copies") {
		t.Fatal(err)
	}
	put(t, a.v, 0, random(4, 4096))
	same(t, a, b)
	a.v.Tune(lineage.Member{Node: "b", Mode: lineage.Async}) // no copy of what is answered
	if err := do(a.v, block.Write, 0, 0, 4096, random(5, 4096)); err == nil {
		t.Fatal("an async target counts")
	}
	a.v.Require(nil, 1)
	put(t, a.v, 0, random(6, 4096))
}
