package volume

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
)

// reopenLazily makes the server what it is after a clean restart as source: it begins its generation with its first write.
func (s *server) reopenLazily() {
	s.t.Helper()
	s.close()
	s.open()
	if err := s.v.BecomeSource(s.v.Header().Standing, true); err != nil {
		s.t.Fatal(err)
	}
	s.v.OpenDevice()
}

// slowSync makes the n-th sync of a file wait: entered is closed when it begins, and it goes on when release is.
func (s *server) slowSync(file string, n int32) (entered, release chan struct{}) {
	entered, release = make(chan struct{}), make(chan struct{})
	var seen atomic.Int32
	s.fs.Inject(func(op, path string, _ int64, _ int) error {
		if op == "sync" && strings.HasSuffix(path, file) && seen.Add(1) == n {
			close(entered)
			<-release
		}
		return nil
	})
	return entered, release
}

// TestEndAndNewGeneration: the end of a resync meets the begin of a generation; the target has each generation once.
func TestEndAndNewGeneration(t *testing.T) {
	a, b := newServer(t, "a", 1<<20), newServer(t, "b", 1<<20)
	a.serve(1)
	_ = connect(a, b, lineage.Member{}).Close(errCut)
	a.wait("LinkDown", is[mirror.LinkDown])
	b.wait("SessionEnded", is[mirror.SessionEnded])
	a.reopenLazily()
	wrote := make(chan error, 1)
	var once atomic.Bool
	a.v.o.Crash = func(point string) {
		if point != "resync-end" || once.Swap(true) {
			return
		}
		entered, release := a.slowSync("/header", 2)
		go func() { wrote <- do(a.v, block.Write, 0, 0, 4096, random(1, 4096)) }()
		<-entered
		time.AfterFunc(20*time.Millisecond, func() { close(release) })
	}
	connect(a, b, lineage.Member{})
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	flush(t, a.v)
	mine, theirs := a.v.Own(), b.v.Own()
	if len(mine.History) != len(theirs.History) || mine.Position != theirs.Position {
		t.Fatalf("the source has %d generations and is at %v, the target has %d and is at %v", len(mine.History), mine.Position, len(theirs.History), theirs.Position)
	}
	same(t, a, b)
}

// TestFailedSyncIsFinal: a failed fsync fails the copy even if it says that there was no room: the kernel drops what it
// could not write, and would call the next one a success.
func TestFailedSyncIsFinal(t *testing.T) {
	for _, who := range []string{"target", "source"} {
		t.Run(who, func(t *testing.T) {
			a, b := newServer(t, "a", 1<<20), newServer(t, "b", 1<<20)
			a.serve(1)
			connect(a, b, lineage.Member{})
			s := map[string]*server{"target": b, "source": a}[who]
			var once atomic.Bool
			s.fs.Inject(func(op, path string, _ int64, _ int) error {
				if op == "sync" && strings.HasSuffix(path, "data.img") && !once.Swap(true) {
					return vfs.ErrNoSpace
				}
				return nil
			})
			put(t, a.v, 0, random(1, 4096))
			answered := make(chan error, 1)
			go func() { answered <- do(a.v, block.Flush, 0, 0, 0, nil) }()
			waitFor(t, "the copy has failed", func() bool { return s.v.Failed() != nil })
			if who == "source" {
				if err := <-answered; err == nil {
					t.Error("the flush was answered as done")
				}
				return
			}
			a.wait("LinkDown", is[mirror.LinkDown])
			if err := <-answered; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestHoldWaitsForAGeneration: what a plan holds includes the generation that a first write is beginning.
func TestHoldWaitsForAGeneration(t *testing.T) {
	a := newServer(t, "a", 1<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	a.reopenLazily()
	entered, release := a.slowSync("/header", 1)
	wrote := make(chan error, 1)
	go func() { wrote <- do(a.v, block.Write, 0, 0, 4096, random(1, 4096)) }()
	<-entered
	a.v.Hold("p")
	close(release)
	drained := a.wait("Drained", is[mirror.Drained]).(mirror.Drained)
	a.v.CheckpointHere("p")
	checked := a.wait("CheckedHere", is[mirror.CheckedHere]).(mirror.CheckedHere)
	if drained.Number != checked.Last.Number {
		t.Errorf("drained at %d, the checkpoint says %d", drained.Number, checked.Last.Number)
	}
	a.v.Release()
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
}
