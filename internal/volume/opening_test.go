package volume

import (
	"errors"
	"strings"
	"testing"

	"keelson/internal/block"
)

// TestViewsEndBeforeTheDeviceOpens: a read of a view that is with the disk while the device opens is not answered with what the
// first writes brought, and none begins.
func TestViewsEndBeforeTheDeviceOpens(t *testing.T) {
	a := newServer(t, "a", 8<<20)
	view, err := a.v.ViewCopy()
	if err != nil {
		t.Fatal(err)
	}
	begun, goOn := make(chan struct{}), make(chan struct{})
	a.fs.Inject(func(op, path string, _ int64, n int) error {
		if op == "read" && n == 4096 && strings.HasSuffix(path, "data.img") {
			close(begun)
			<-goOn
		}
		return nil
	})
	read := later(func() error { _, err := get(view, 0, 4096); return err })
	<-begun
	opened := later(func() error { a.serve(1); put(t, a.v, 0, random(1, 4096)); return nil })
	<-opened // it waits for no read of a view: the disk may hang in it
	close(goOn)
	if err := <-read; !errors.Is(err, block.ErrShutdown) {
		t.Fatalf("a view was answered although the device was open and written to: %v", err)
	}

	// While it opens, before the first write, there is no new view either.
	a.v.CloseDevice("test")
	view, err = a.v.ViewCopy()
	if err != nil {
		t.Fatal(err)
	}
	view.mu.Lock() // holds OpenDevice at the end of this view
	opened = later(func() error { a.v.OpenDevice(); return nil })
	waitFor(t, "it opens", func() bool { a.v.mu.Lock(); defer a.v.mu.Unlock(); return a.v.opening })
	if _, err := a.v.ViewCopy(); !errors.Is(err, ErrCopyChanges) {
		t.Errorf("a view of a copy whose device opens: %v", err)
	}
	a.v.mu.Lock()
	if a.v.serving {
		t.Error("it serves while a view is not over")
	}
	a.v.mu.Unlock()
	view.mu.Unlock()
	<-opened
}
