package volume

import (
	"errors"
	"testing"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/wire"
)

// TestWritesWithoutRoomMakeNoHistory: an application that tries again and again to write where there is no room must not make the
// volume's history grow with each try: histories travel in every hello, and one that is too long for it keeps all targets out for good.
func TestWritesWithoutRoomMakeNoHistory(t *testing.T) {
	a, b := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20)
	a.serve(1)
	put(t, a.v, 0, random(1, 4096))
	const tries = 30
	for i := range tries {
		if i%3 == 0 {
			connect(a, b, lineage.Member{})
		}
		a.full("/data.img")
		if err := do(a.v, block.Write, 0, int64(i)*testRegion, 4096, random(2, 4096)); !errors.Is(err, block.ErrNoSpace) {
			t.Fatalf("written without room: %v", err)
		}
		a.fs.Inject(nil)
		if i%3 == 0 {
			a.wait("LinkDown", is[mirror.LinkDown])
			b.wait("SessionEnded", is[mirror.SessionEnded])
		}
	}
	h := a.v.Header()
	text, _ := wire.Marshal(wire.TypeEnd, wire.End{History: h.History})
	t.Logf("%d generations, %d bytes", len(h.History), len(text))
	if n := len(h.History); n > 2 {
		t.Errorf("%d writes that found no room made %d generations", tries, n)
	}
	put(t, a.v, 0, random(3, 300<<10))
	connect(a, b, lineage.Member{})
	flush(t, a.v)
	same(t, a, b)
}
