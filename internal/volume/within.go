package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keelson/internal/block"
)

// ErrBegun is in the error about a change whose answer did not come in time, and which is done all the same.
var ErrBegun = errors.New("it has begun, and is not answered yet: it will be there, unless this server dies")

// DoWithin does a change or a flush of an open device, and returns when it is answered, or when ctx ends. A change has a number
// by until, or it never gets one: then the error is block.ErrLate. ErrBegun: it has one.
func (v *Volume) DoWithin(ctx context.Context, until time.Time, r *block.Request) error {
	d := &doing{done: make(chan error, 1), buf: r.Buf}
	r.By, r.Until, r.Number = d, until, 0
	limit := time.Until(until)
	if limit <= 0 {
		return block.ErrLate
	}
	v.mu.Lock()
	if !v.serving { // nor is it counted among what Close waits for
		defer v.mu.Unlock()
		return v.closed()
	}
	v.done.Add(1)
	v.mu.Unlock()
	_, stop := v.after(limit) // wakes what is held back
	defer stop()
	if r.Buf != nil {
		r.Buf.Retain() // the device's, until it is done
	}
	go func() {
		defer v.done.Done()
		v.Submit([]*block.Request{r})
	}()
	select {
	case err := <-d.done:
		return err
	case <-ctx.Done():
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if r.Number != 0 {
		return fmt.Errorf("%w: %w", ErrBegun, ctx.Err())
	}
	r.Until = time.Unix(0, 1) // long ago
	v.freed.Broadcast()
	return fmt.Errorf("%w: %w", block.ErrLate, ctx.Err())
}

// doing waits for one request, and gives its buffer back.
type doing struct {
	done chan error
	buf  *block.Buffer
}

// Complete implements block.Completer.
func (d *doing) Complete(r *block.Request) {
	err := r.Err
	if d.buf != nil {
		d.buf.Release()
	}
	d.done <- err
}

// Flush implements block.Completer.
func (d *doing) Flush() {}
