package volume

import (
	"bytes"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
)

// full makes every write to these files find no room, until the hook is taken away. (A file system without any would show little:
// most of what an intent log needs has its room since it was made.)
func (s *server) full(files ...string) {
	s.fs.Inject(func(op, path string, _ int64, _ int) error {
		for _, f := range files {
			if op == "write" && strings.HasSuffix(path, f) {
				return vfs.ErrNoSpace
			}
		}
		return nil
	})
}

// TestIntentLogHasNoRoom: what cannot be noted is refused and changes nothing, what was answered stays, and the same
// succeeds when there is room. It is no failure of the copy, at a source or at a target.
func TestIntentLogHasNoRoom(t *testing.T) {
	for _, file := range []string{"/hot", "/map", "/header", "/floor"} {
		for _, who := range []string{"source", "target"} {
			t.Run(strings.TrimPrefix(file, "/")+" of the "+who, func(t *testing.T) {
				a, b := quietServer(t, "a", 0), quietServer(t, "b", 0)
				s := map[string]*server{"source": a, "target": b}[who]
				a.serve(1)
				connect(a, b, lineage.Member{})
				first := random(1, 64<<10)
				put(t, a.v, 0, first)
				flush(t, a.v)
				s.full(file)
				switch err := s.v.checkpoint(true, nil); {
				case (file == "/map" || file == "/header") && !errors.Is(err, block.ErrNoSpace):
					t.Fatalf("a checkpoint without room: %v", err)
				case file == "/floor" && err != nil:
					t.Fatal(err)
				}
				second := random(2, 4096)
				wrote := do(a.v, block.Write, 0, 2<<20, 4096, second) // into an extent that is cold
				flushed := do(a.v, block.Flush, 0, 0, 0, nil)
				if s == a && file == "/hot" && !errors.Is(wrote, block.ErrNoSpace) || s == a && file == "/floor" && !errors.Is(flushed, block.ErrNoSpace) {
					t.Fatalf("written: %v, flushed: %v", wrote, flushed)
				}
				if s == b && (file == "/hot" || file == "/floor") { // the source goes on without it, and it is told why
					if e := b.wait("SessionEnded", is[mirror.SessionEnded]).(mirror.SessionEnded); !strings.Contains(e.Why, "no space") {
						t.Fatalf("the session ended: %s", e.Why)
					}
					a.wait("LinkDown", is[mirror.LinkDown])
				}
				if got, err := get(a.v, 0, int64(len(first))); err != nil || !bytes.Equal(got, first) {
					t.Fatalf("what was answered: %v", err)
				}
				if s.v.Failed() != nil {
					t.Fatalf("the copy failed: %v", s.v.Failed())
				}
				s.fs.Inject(nil)
				put(t, a.v, 2<<20, second)
				flush(t, a.v)
				if len(a.v.snapshot()) == 0 {
					connect(a, b, lineage.Member{})
				}
				flush(t, a.v)
				same(t, a, b)
				if err := s.v.checkpoint(true, nil); err != nil || s.v.log.HotCount() != 0 {
					t.Fatalf("the checkpoint with room: %v, %d extents are hot", err, s.v.log.HotCount())
				}
				s.crash(true)
				if n := s.v.log.UnknownRegions(); n > 32 { // the cooling of two extents need not be durable
					t.Fatalf("%d regions are unknown", n)
				}
				if got := content(t, s); !bytes.Equal(got[:len(first)], first) || !bytes.Equal(got[2<<20:][:4096], second) {
					t.Fatal("what was flushed is lost")
				}
			})
		}
	}
}

// TestFileSystemIsFull: a file system with no page left, under copy and log of a source, refuses and loses nothing.
func TestFileSystemIsFull(t *testing.T) {
	a := quietServer(t, "a", 0)
	a.serve(1)
	put(t, a.v, 0, random(1, testRegion))
	a.fs.SetFree(0)
	if err := do(a.v, block.Write, 0, 3*testRegion, 4096, random(2, 4096)); !errors.Is(err, block.ErrNoSpace) {
		t.Fatalf("written without room: %v", err)
	}
	if got, err := get(a.v, 0, testRegion); err != nil || !bytes.Equal(got, random(1, testRegion)) {
		t.Fatalf("what was answered: %v", err)
	}
	a.crash(false)
	a.fs.SetFree(-1)
	a.serve(2)
	put(t, a.v, 3*testRegion, random(2, 4096))
	flush(t, a.v)
	if got, err := get(a.v, 0, testRegion); err != nil || !bytes.Equal(got, random(1, testRegion)) {
		t.Fatalf("what was answered: %v", err)
	}
}

// TestSyncOfALogWithoutRoom: a sync of the intent log that finds no room has lost what it was to make durable: the log has
// failed, and nothing is answered any more.
func TestSyncOfALogWithoutRoom(t *testing.T) {
	a := quietServer(t, "a", 0)
	a.serve(1)
	var once atomic.Bool
	a.fs.Inject(func(op, path string, _ int64, _ int) error {
		if op == "sync" && strings.HasSuffix(path, "/hot") && !once.Swap(true) {
			return vfs.ErrNoSpace
		}
		return nil
	})
	if err := do(a.v, block.Write, 0, 0, 4096, random(1, 4096)); err == nil {
		t.Fatal("answered")
	}
	a.wait("DiskFailed", is[mirror.DiskFailed])
	if err := do(a.v, block.Write, 0, 0, 4096, random(1, 4096)); err == nil || a.v.Failed() == nil {
		t.Fatalf("a later write is answered: %v, %v", err, a.v.Failed())
	}
}

// TestUndoDiskHasNoRoom: without room for before-images the way back is given up, and status says why; what is only here is
// kept, or not overwritten.
func TestUndoDiskHasNoRoom(t *testing.T) {
	for _, c := range []struct{ name, file string }{{"images", "/images"}, {"anchor", "/anchor.new"}} {
		t.Run(c.name, func(t *testing.T) {
			w := newReturning(t, 0, false)
			w.a.full(c.file)
			begin(w.b, w.a, lineage.Member{}, false)
			e := w.a.wait("SessionEnded", is[mirror.SessionEnded]).(mirror.SessionEnded)
			w.b.wait("LinkDown", is[mirror.LinkDown])
			if !strings.Contains(e.Why, RuleSalvageFull) || !strings.Contains(e.Why, "no space") {
				t.Fatal(e.Why)
			}
			if own, s := w.a.v.Own(), w.a.v.UndoStatus(); own.Consistent != consistentNo || s.State != "given-up" || !strings.Contains(s.Reason, "no space") {
				t.Fatalf("%+v %+v", own, s)
			}
			if err := w.nothingLost(); err != nil {
				t.Fatal(err)
			}
			w.a.crash(true) // the hook is gone with it: there is room
			if err := w.nothingLost(); err != nil {
				t.Fatal(err)
			}
			w.follow(t)
			if err := w.inAnySalvage(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestUndoDiskFails: the first error of the undo log's disk fails the copy, durably; nothing is overwritten without its
// before-image, nothing that only it has is lost, and no later try is a success.
func TestUndoDiskFails(t *testing.T) {
	for _, op := range []string{"write", "sync"} {
		for _, file := range []string{"/images", "/anchor.new"} {
			t.Run(op+" of "+strings.TrimPrefix(file, "/"), func(t *testing.T) {
				w := newReturning(t, 0, false)
				w.a.stays = true
				w.a.fs.Inject(func(o, path string, _ int64, _ int) error {
					if (o == op || o == "truncate") && strings.HasSuffix(path, file) {
						return syscall.EIO
					}
					return nil
				})
				begin(w.b, w.a, lineage.Member{}, false)
				w.a.wait("SessionEnded", is[mirror.SessionEnded])
				w.b.wait("LinkDown", is[mirror.LinkDown])
				w.a.fs.Inject(nil)
				if err := w.a.v.Failed(); err == nil || !strings.Contains(err.Error(), "undo log") || !strings.Contains(w.a.v.Header().Failed, "input/output error") {
					t.Fatalf("failed: %v, the header says %q", err, w.a.v.Header().Failed)
				}
				x, _ := newPipe()
				if err := w.a.v.Attach(x, SessionOptions{From: "b"}); err == nil {
					t.Fatal("a session is taken")
				}
				if err := w.a.v.RollBack(); err == nil {
					t.Fatal("it was rolled back")
				}
				if got := content(t, w.a); !bytes.Equal(got, w.before) {
					t.Fatalf("overwritten before their images were durable: %v", differing(got, w.before))
				}
				w.a.crash(true)
				if own := w.a.v.Own(); !own.Failed {
					t.Fatalf("after a power cut: %+v", own)
				}
			})
		}
	}
}
