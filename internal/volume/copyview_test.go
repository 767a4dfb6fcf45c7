package volume

import (
	"bytes"
	"errors"
	"testing"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// TestCopyIsViewedWhileItStandsStill: a view reads the copy, changes nothing, and is over before the first write to it.
func TestCopyIsViewedWhileItStandsStill(t *testing.T) {
	w := newReturning(t, 0, false)
	if _, err := w.b.v.ViewCopy(); !errors.Is(err, ErrCopyChanges) {
		t.Fatalf("a copy that is served: %v", err)
	}
	view, err := w.a.v.ViewCopy()
	if err != nil {
		t.Fatal(err)
	}
	read := &block.Request{Op: block.Read, Len: testSize, Buf: block.NewBuffer(testSize)}
	defer read.Buf.Release()
	if err := submitOne(view.Submit, read); err != nil || !bytes.Equal(read.Buf.Bytes, w.before) {
		t.Fatal(err)
	}
	for _, op := range []block.Op{block.Write, block.Zero, block.Trim} {
		if err := do(view, op, 0, 0, testRegion, make([]byte, testRegion)); !errors.Is(err, block.ErrReadOnly) {
			t.Fatalf("%s: %v", op, err)
		}
	}
	if e, err := view.Extents(0, testSize); err != nil || len(e) == 0 {
		t.Fatal(e, err)
	}
	w.follow(t)
	<-view.Ended()
	if err := submitOne(view.Submit, read); !errors.Is(err, block.ErrShutdown) {
		t.Fatalf("a read of a copy that changes: %v", err)
	}
	if _, err := w.a.v.ViewCopy(); !errors.Is(err, ErrCopyChanges) {
		t.Fatalf("a copy with a session: %v", err)
	}
	view.Close()
}

// TestCopyInMidResyncIsNotViewed: it is neither what it was nor what it will be.
func TestCopyInMidResyncIsNotViewed(t *testing.T) {
	w := newReturning(t, 0, false)
	w.a.close()
	w.a.lim.SalvageBytesMax = 64 << 10 // stops the resync at its end
	w.a.open()
	begin(w.b, w.a, lineage.Member{}, false)
	w.a.wait("SessionEnded", is[mirror.SessionEnded])
	if _, err := w.a.v.ViewCopy(); err == nil || errors.Is(err, ErrCopyChanges) {
		t.Fatal(err)
	}
}
