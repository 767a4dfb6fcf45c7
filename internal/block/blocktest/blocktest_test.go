package blocktest_test

import (
	"path/filepath"
	"strconv"
	"testing"

	"keelson/internal/block"
	"keelson/internal/block/blocktest"
)

func TestMem(t *testing.T) {
	blocktest.Run(t, func() block.Device { return blocktest.NewMem(64<<20 + 4096) })
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	var n int
	blocktest.Run(t, func() block.Device {
		n++
		dev, err := blocktest.NewFile(filepath.Join(dir, strconv.Itoa(n)), 64<<20+4096)
		if err != nil {
			t.Fatal(err)
		}
		return dev
	})
}

// later completes everything from another goroutine, as a volume with a mirror does.
type later struct {
	block.Device
	work chan []*block.Request
	done chan struct{}
}

type collector struct{}

func (c *collector) Complete(r *block.Request) {}
func (c *collector) Flush()                    {}

func newLater(dev block.Device) *later {
	l := &later{Device: dev, work: make(chan []*block.Request, 16), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		for batch := range l.work {
			by := batch[0].By
			for _, r := range batch {
				r.By = &collector{}
			}
			dev.Submit(batch)
			for _, r := range batch {
				r.By = by
				by.Complete(r)
			}
			by.Flush()
		}
	}()
	return l
}

func (l *later) Submit(batch []*block.Request) {
	l.work <- append([]*block.Request(nil), batch...)
}

func (l *later) Close() error {
	close(l.work)
	<-l.done
	return nil
}

func TestCompletedElsewhere(t *testing.T) {
	blocktest.Run(t, func() block.Device { return newLater(blocktest.NewMem(1 << 20)) })
}
