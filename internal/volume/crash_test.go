package volume

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// hotRun is a source with a target, one of which stops at the k-th call of its file system (0: neither; the calls are counted).
// Of its 16 extents of 1 MiB some were written and are cool, durably; then 9, 10 and 11 are written, with a checkpoint between.
func hotRun(t *testing.T, name string, k int, power bool) (calls int) {
	const size, extent = 16 << 20, 1 << 20
	a, b := newServer(t, "a", size), newServer(t, "b", size)
	for _, s := range []*server{a, b} {
		s.close()
		s.lim.CheckpointEvery = time.Hour
		s.open()
	}
	a.serve(1)
	connect(a, b, lineage.Member{})
	put(t, a.v, 0, random(1, 4*extent))
	for _, s := range []*server{a, b} {
		if err := s.v.checkpoint(true, nil); err != nil {
			t.Fatal(err)
		}
	}
	put(t, a.v, 9*extent, random(2, 4096)) // marking it makes the cooling durable
	s := map[string]*server{"source": a, "target": b}[name]
	waitFor(t, "only one extent is hot", func() bool { return s.v.log.HotCount() == 1 })

	count := crashAt(s, k)
	written := map[int64][]byte{}
	for i := range int64(6) {
		off := (9+i/2)*extent + i*100<<10
		p := random(i+3, 150<<10)
		err := do(a.v, block.Write, 0, off, int64(len(p)), p)
		if err == nil {
			written[off] = p
		}
		if i == 3 {
			_ = s.v.checkpoint(false, nil)
		}
		if err == nil && do(a.v, block.Flush, 0, 0, 0, nil) != nil {
			break
		}
	}
	if k == 0 {
		defer s.fs.Inject(nil)
		return count()
	}
	s.crash(power)
	if s == b {
		a.wait("LinkDown", is[mirror.LinkDown])
	} else {
		b.wait("SessionEnded", is[mirror.SessionEnded])
	}
	for _, e := range s.v.log.UnknownExtents() {
		if e < 9 || e > 11 {
			t.Fatalf("call %d of the %s: extent %d is unknown, and nobody wrote to it", k, name, e)
		}
	}
	if s == a {
		a.serve(2)
	}
	connect(a, b, lineage.Member{})
	flush(t, a.v)
	same(t, a, b)
	if r := a.v.Status(time.Now()).Links["b"].Resync; r == nil || r.Kind != "partial" || r.Progress.Sent > 3*extent {
		t.Fatalf("call %d of the %s: the resync is %+v", k, name, r)
	}
	if s == b { // the source lost nothing
		for off, p := range written {
			if got := content(t, a)[off:][:50<<10]; !bytes.Equal(got, p[:50<<10]) {
				t.Fatalf("call %d of the target: what was answered at %d is lost", k, off)
			}
		}
	}
	return 0
}

// TestOnlyHotExtentsAreUnknown: after a stop at any instant under writes, of the source or a target, what is unknown lies within
// the extents that were hot, and the resync is partial and sends no more than those.
func TestOnlyHotExtentsAreUnknown(t *testing.T) {
	for _, name := range []string{"source", "target"} {
		t.Run(name, func(t *testing.T) {
			calls := hotRun(t, name, 0, false)
			for k := 1; k <= calls; k += 2 + 7*raceFactor {
				for _, power := range []bool{false, true} {
					t.Run(fmt.Sprintf("%d,power=%t", k, power), func(t *testing.T) { hotRun(t, name, k, power) })
				}
			}
			t.Logf("%d calls", calls)
		})
	}
}
