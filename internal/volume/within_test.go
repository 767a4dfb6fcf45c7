package volume

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"keelson/internal/block"
)

// doSoon is DoWithin for whoever has a minute.
func (v *Volume) doSoon(ctx context.Context, r *block.Request) error {
	return v.DoWithin(ctx, time.Now().Add(time.Minute), r)
}

func writeOf(p []byte) *block.Request {
	r := &block.Request{Op: block.Write, Len: int64(len(p)), Buf: block.NewBuffer(len(p))}
	copy(r.Buf.Bytes, p)
	return r
}

// TestWriteThatIsHeldNeverLandsLate: what has not begun when its limit, or the patience of who asked, is over never does.
func TestWriteThatIsHeldNeverLandsLate(t *testing.T) {
	a := newServer(t, "a", 8<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	a.v.Hold("")
	if err := a.v.DoWithin(t.Context(), time.Now().Add(50*time.Millisecond), writeOf(random(2, 4096))); !errors.Is(err, block.ErrLate) {
		t.Fatalf("past its limit: %v", err)
	}
	if err := a.v.DoWithin(t.Context(), time.Now(), writeOf(random(2, 4096))); !errors.Is(err, block.ErrLate) {
		t.Fatalf("with a limit that is over: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.v.DoWithin(ctx, time.Now().Add(time.Hour), writeOf(random(3, 4096))); !errors.Is(err, block.ErrLate) {
		t.Fatalf("that nobody waits for: %v", err)
	}
	a.v.Release()
	flush(t, a.v)
	if got := content(t, a)[:4096]; !bytes.Equal(got, random(1, 4096)) {
		t.Fatal("a write that was said never to begin is there")
	}
	if err := a.v.DoWithin(t.Context(), time.Now().Add(time.Minute), writeOf(random(4, 4096))); err != nil || !bytes.Equal(content(t, a)[:4096], random(4, 4096)) {
		t.Fatal(err)
	}
}

// TestWriteThatHasBegunIsSaidToBe: and then it is there.
func TestWriteThatHasBegunIsSaidToBe(t *testing.T) {
	a := newServer(t, "a", 8<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	stuck := make(chan struct{})
	a.fs.Inject(func(op, path string, _ int64, _ int) error {
		if op == "write" && strings.HasSuffix(path, "data.img") {
			<-stuck
		}
		return nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := a.v.DoWithin(ctx, time.Now().Add(time.Minute), writeOf(random(2, 4096)))
	close(stuck)
	if !errors.Is(err, ErrBegun) || errors.Is(err, block.ErrLate) {
		t.Fatal(err)
	}
	waitFor(t, "it is there", func() bool { return bytes.Equal(content(t, a)[:4096], random(2, 4096)) })
}
