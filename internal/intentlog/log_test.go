package intentlog

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

const (
	testVolume = "00112233445566778899aabbccddeeff"
	testRegion = 512
	testExtent = 4 * testRegion
)

// testHeader describes a volume of some regions.
func testHeader(regions int64) Header {
	return Header{Cluster: "c", Volume: testVolume, Name: "data", Node: "a",
		SizeBytes: regions * testRegion, RegionBytes: testRegion, ExtentBytes: testExtent, Consistent: "yes"}
}

func mustCreate(t testing.TB, fsys vfs.FS, regions int64, initial lineage.Version) *Log {
	t.Helper()
	l, err := Create(fsys, "/d/log", testHeader(regions), initial, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustOpen(t testing.TB, fsys vfs.FS) *Log {
	t.Helper()
	l, err := Open(fsys, "/d/log", Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func gen(b byte) lineage.GenID { return lineage.GenID{15: b} }

// write marks and sets regions as a volume would.
func write(t testing.TB, l *Log, first, last int64, v lineage.Version) {
	t.Helper()
	var extents []int64
	for e := l.ExtentOf(first); e <= l.ExtentOf(last); e++ {
		extents = append(extents, e)
	}
	must(t, l.MarkHot(extents))
	l.SetVersions(first, last, v)
}

func TestWhatIsCheckpointedIsThereAgain(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
	g, err := l.GenIndex(gen(7))
	must(t, err)
	write(t, l, 0, 511, lineage.MakeVersion(g, 5))
	write(t, l, 600, 603, lineage.MakeVersion(g, 6))
	write(t, l, 1299, 1299, lineage.MakeVersion(g, 7))
	at := lineage.Position{Gen: gen(7), Number: 7}
	must(t, l.Checkpoint(CheckpointOptions{CoolAll: true, Position: func() lineage.Position { return at }}))
	write(t, l, 700, 700, lineage.MakeVersion(g, 8)) // after it: unknown after a crash
	want := make([]lineage.Version, 1300)
	for r := range want {
		want[r] = l.Version(int64(r))
	}
	for r := 700; r < 704; r++ {
		want[r] = lineage.Unknown
	}
	fsys.CrashPower()
	l = mustOpen(t, fsys)
	for r, v := range want {
		if got := l.Version(int64(r)); got != v {
			t.Fatalf("region %d has version %x, not %x", r, got, v)
		}
	}
	if n := l.UnknownRegions(); n != 4 {
		t.Errorf("%d regions are unknown, not 4", n)
	}
	if got := l.UnknownExtents(); len(got) != 1 || got[0] != 175 || !l.IsHot(175) {
		t.Errorf("unknown extents %v, hot %v", got, l.HotExtents())
	}
	if l.Floor() != at || l.Header().Position != at || l.GenByIndex(g) != gen(7) {
		t.Errorf("floor %v, position %v, generation %v", l.Floor(), l.Header().Position, l.GenByIndex(g))
	}
}

func TestASecondOpenerIsRefused(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 10, lineage.Unknown)
	if _, err := Open(fsys, "/d/log", Options{}); !errors.Is(err, vfs.ErrInUse) {
		t.Fatalf("a second Open says %v", err)
	}
	if _, err := Create(fsys, "/d/log", testHeader(10), 0, Options{}); !errors.Is(err, vfs.ErrInUse) {
		t.Fatalf("a Create beside it says %v", err)
	}
	must(t, l.Close())
	if _, err := Create(fsys, "/d/log", testHeader(10), 0, Options{}); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a Create over it says %v", err)
	}
	if err := l.Save(func(*Header) {}); !errors.Is(err, fs.ErrClosed) {
		t.Fatalf("a Save after Close says %v", err)
	}
	mustOpen(t, fsys)
}

func TestThereIsNoLog(t *testing.T) {
	fsys := vfs.NewMem(1)
	if _, err := Open(fsys, "/d/log", Options{}); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/d/log") {
		t.Fatal(err)
	}
}
