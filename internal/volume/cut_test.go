package volume

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// slowToClose is a stream whose end takes a while, as one does that still sends what is queued.
type slowToClose struct {
	*pipe
	closing, release chan struct{}
}

func (s *slowToClose) Close(reason error) error {
	select {
	case s.closing <- struct{}{}:
	default:
	}
	<-s.release
	return s.pipe.Close(reason)
}

// TestNothingFollowsAFailedWrite: a write finds no room at the source and reaches the target. Another write to the same region,
// which comes before the session has ended, must not give the region one version on both sides: it would never be compared again.
func TestNothingFollowsAFailedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
		a.serve(1)
		stream := &slowToClose{closing: make(chan struct{}, 1), release: make(chan struct{})}
		beginBetween(a, b, lineage.Member{}, false, func(p *pipe) Stream { stream.pipe = p; return stream }, func(p *pipe) Stream { return p })
		a.wait("InStep", is[mirror.InStep])
		put(t, a.v, 0, bytes.Repeat([]byte{1}, 512)) // the extent is hot

		a.fs.SetFree(0)
		failed := make(chan error, 1)
		go func() { failed <- do(a.v, block.Write, 0, 8192, 4096, bytes.Repeat([]byte{2}, 4096)) }()
		<-stream.closing // the session is being ended
		synctest.Wait()
		a.fs.SetFree(-1)
		later := make(chan error, 1)
		go func() { later <- do(a.v, block.Write, 0, 0, 512, bytes.Repeat([]byte{3}, 512)) }() // answered after the one before
		synctest.Wait()
		close(stream.release)
		if err := <-failed; !errors.Is(err, block.ErrNoSpace) {
			t.Fatalf("the write that found no room: %v", err)
		}
		if err := <-later; err != nil {
			t.Fatal(err)
		}
		a.wait("LinkDown", is[mirror.LinkDown])
		b.wait("SessionEnded", is[mirror.SessionEnded])
		connect(a, b, lineage.Member{})
		flush(t, a.v)
		same(t, a, b)
	})
}
