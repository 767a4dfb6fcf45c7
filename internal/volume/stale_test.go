package volume

import (
	"bytes"
	"testing"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

// TestNoCopyFromAFailedDisk: a write fails on the source's disk after another target has it. A resync that has not come to
// its region yet sends nothing any more: what it would read is not what the region's version says.
func TestNoCopyFromAFailedDisk(t *testing.T) {
	a, b, c := newServer(t, "a", 4<<20), newServer(t, "b", 4<<20), newServer(t, "c", 4<<20)
	a.stays, a.v.o.Limits.CopyQueueBytes = true, 2*testRegion
	a.serve(1, "c")
	connect(a, c, lineage.Member{})
	put(t, a.v, 0, random(1, 4<<20))
	flush(t, a.v)
	var g *gate
	beginVia(a, b, lineage.Member{}, false, func(p *pipe) Stream { g = newGate(p, 1); return g })
	g.waitHeld(t)
	a.breakDisk("write")
	const last = 60
	fresh := random(2, testRegion)
	wrote := later(func() error { return do(a.v, block.Write, 0, last*testRegion, testRegion, fresh) })
	waitFor(t, "the disk failed", func() bool { return a.v.Failed() != nil }) // LinkDown may be told before that
	waitFor(t, "c has the write", func() bool { return bytes.Equal(region(c, last), fresh) })
	g.open(false)
	a.wait("LinkDown", func(e mirror.Event) bool {
		if in, ok := e.(mirror.InStep); ok && in.Target == "b" {
			t.Error("b came into step from a disk that failed")
			return true
		}
		return is[mirror.LinkDown](e)
	})
	b.v.DropSession("test")
	gen, number := b.v.RegionVersion(last)
	if g, n := c.v.RegionVersion(last); g == gen && n == number && !bytes.Equal(region(b, last), region(c, last)) {
		t.Errorf("version %d of region %d has two contents", n, last)
	}
	a.v.CloseDevice("test")
	if err := <-wrote; err == nil {
		t.Error("the write was answered")
	}
}
