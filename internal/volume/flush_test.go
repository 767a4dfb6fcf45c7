package volume

import (
	"bytes"
	"testing"
	"testing/synctest"

	"keelson/internal/block"
)

// TestFlushCoversWhatIsAnswered: a write that was answered while an earlier FUA write was still on its way to the disk is
// durable when a flush that came after its answer is answered.
func TestFlushCoversWhatIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, "a", 4<<20)
		s.serve(1)
		put(t, s.v, 0, make([]byte, 512))
		put(t, s.v, 1<<20, make([]byte, 512)) // both extents are hot
		flush(t, s.v)
		release := make(chan struct{})
		s.fs.Inject(func(op, path string, off int64, _ int) error {
			if op == "write" && path == "/s/data.img" && off == 0 {
				<-release
			}
			return nil
		})
		fua := make(chan error, 1)
		go func() { fua <- do(s.v, block.Write, block.FUA, 0, 512, bytes.Repeat([]byte{1}, 512)) }()
		synctest.Wait()
		written := bytes.Repeat([]byte{2}, 512)
		if err := do(s.v, block.Write, 0, 1<<20, 512, written); err != nil { // answered: nothing holds it
			t.Fatal(err)
		}
		flushed := make(chan struct{})
		go func() { flush(t, s.v); close(flushed) }()
		synctest.Wait()
		select {
		case <-flushed:
			if _, durable := s.fs.Peek("/s/data.img", 1<<20/512); !bytes.Equal(durable[:], written) {
				t.Error("the flush is answered, and a write that was answered before it is not durable")
			}
		default:
		}
		close(release)
		<-flushed
		if err := <-fua; err != nil {
			t.Fatal(err)
		}
		if _, durable := s.fs.Peek("/s/data.img", 1<<20/512); !bytes.Equal(durable[:], written) {
			t.Error("after all is answered the write is not durable")
		}
	})
}
