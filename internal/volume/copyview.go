package volume

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"keelson/internal/block"
)

// ErrCopyChanges is in the error of ViewCopy about a copy that does not stand still.
var ErrCopyChanges = errors.New("the copy is being written to")

// CopyView reads a copy that nobody writes to: of a target without a session, or of a source that is closed. It is a
// block.Device, read-only. It ends by itself before the first write to the copy: from then on reads fail with
// block.ErrShutdown.
type CopyView struct {
	v     *Volume
	mu    sync.Mutex
	over  bool // guarded by mu
	ended chan struct{}
}

// ViewCopy lets people look at this copy while it stands still.
func (v *Volume) ViewCopy() (*CopyView, error) {
	consistent := v.log.Header().Consistent
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.failed != nil:
		return nil, v.failed
	case v.session != nil || v.serving || v.opening || v.undo.busy || v.inFlight():
		return nil, fmt.Errorf("volume %s: %w", v.name, ErrCopyChanges)
	case consistent != consistentYes:
		return nil, fmt.Errorf("volume %s: the copy is in the middle of a resync: it is neither what it was nor what it will be", v.name)
	}
	c := &CopyView{v: v, ended: make(chan struct{})}
	v.views = append(v.views, c)
	return c, nil
}

// endViews ends all views: what they read from now on is not answered. Whoever is about to write has made ViewCopy refuse before.
func (v *Volume) endViews() {
	v.mu.Lock()
	views := v.views
	v.views = nil
	v.mu.Unlock()
	for _, c := range views {
		c.end()
	}
}

func (c *CopyView) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.over = true
		close(c.ended)
	}
}

// Ended is closed when the view is over.
func (c *CopyView) Ended() <-chan struct{} { return c.ended }

// Close ends the view.
func (c *CopyView) Close() {
	c.v.mu.Lock()
	c.v.views = slices.DeleteFunc(c.v.views, func(o *CopyView) bool { return o == c })
	c.v.mu.Unlock()
	c.end()
}

// Size implements block.Device.
func (c *CopyView) Size() int64 { return c.v.size }

// Submit implements block.Device; it waits for the disk.
func (c *CopyView) Submit(batch []*block.Request) {
	for _, r := range batch {
		switch r.Op {
		case block.Read:
			r.Err = c.read(r.Buf.Bytes, r.Off)
		case block.Flush:
			r.Err = nil
		default:
			r.Err = block.ErrReadOnly
		}
		r.By.Complete(r)
	}
}

func (c *CopyView) read(p []byte, off int64) error {
	if !c.begin() {
		return block.ErrShutdown
	}
	defer c.v.done.Done()
	_, err := c.v.disk.ReadAt(p, off)
	if err != nil {
		c.v.fail(err)
		return err
	}
	if c.isOver() { // it may have seen the first write
		return block.ErrShutdown
	}
	return nil
}

// begin counts a use of the disk, unless the view is over; done.Done ends it.
func (c *CopyView) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.v.done.Add(1)
	}
	return !c.over
}

func (c *CopyView) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// Extents implements block.Device.
func (c *CopyView) Extents(off, length int64) ([]block.Extent, error) {
	if !c.begin() {
		return nil, block.ErrShutdown
	}
	defer c.v.done.Done()
	return c.v.Extents(off, length)
}
