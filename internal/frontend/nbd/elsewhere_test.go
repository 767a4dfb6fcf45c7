package nbd_test

import (
	"sync"
	"testing"

	"keelson/internal/block"
	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
	"keelson/internal/frontend/nbd/nbdclient"
)

// elsewhere completes every request in a goroutine of its own, each with its own Flush, as a volume does with reads that
// wait for the disk.
type elsewhere struct {
	block.Device
	answers sync.WaitGroup
}

func (e *elsewhere) Submit(batch []*block.Request) {
	for _, r := range batch {
		e.answers.Add(1)
		go func() {
			defer e.answers.Done()
			by, done := r.By, waiter(make(chan struct{}))
			r.By = done
			e.Device.Submit([]*block.Request{r})
			<-done
			r.By = by
			by.Complete(r)
			by.Flush()
		}()
	}
}

type waiter chan struct{}

func (w waiter) Complete(*block.Request) { close(w) }
func (w waiter) Flush()                  {}

// TestAnswersFromManyGoroutines: replies that are queued while others are being sent leave too, whoever sends them.
func TestAnswersFromManyGoroutines(t *testing.T) {
	dev := &elsewhere{Device: blocktest.NewMem(4 << 20)}
	r := start(t, dev, nbd.Options{})
	c, err := nbdclient.Dial("nbd+unix:///data?socket=" + r.socket)
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for i := range 32 {
		readers.Add(1)
		go func() {
			defer readers.Done()
			p := make([]byte, 512)
			for n := range 600 {
				if _, err := c.ReadAt(p, int64((i*600+n)%8000)*512); err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	readers.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	dev.answers.Wait()
}
