package intentlog

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

func TestFloorNeverGoesDown(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 100, lineage.ZeroVersion)
	at := func(g byte, n uint64) lineage.Position { return lineage.Position{Gen: gen(g), Number: n} }
	must(t, l.Save(func(h *Header) { h.History = lineage.History{{ID: gen(1)}, {ID: gen(2)}}; h.Position = at(1, 5) }))
	for _, step := range []struct {
		set, want lineage.Position
	}{{at(1, 3), at(1, 5)}, {at(1, 7), at(1, 7)}, {at(1, 6), at(1, 7)}, {at(2, 9), at(2, 9)}, {at(2, 8), at(2, 9)}, {at(1, 99), at(2, 9)}} {
		must(t, l.SetFloor(step.set))
		if got := l.Floor(); got != step.want {
			t.Errorf("after SetFloor(%v) the floor is %v, not %v", step.set, got, step.want)
		}
	}
	must(t, l.Reserve(50))
	must(t, l.Reserve(40))
	must(t, l.Checkpoint(CheckpointOptions{Position: func() lineage.Position { return at(2, 4) }}))
	fsys.CrashPower()
	l = mustOpen(t, fsys)
	if l.Floor() != at(2, 9) || l.Reserved() != 50 {
		t.Errorf("after a crash: floor %v, reserved %d", l.Floor(), l.Reserved())
	}
	// Rule 12: history and position are cut back, and the floor with them.
	must(t, l.ResetFloor(at(1, 6)))
	must(t, l.Save(func(h *Header) { h.History = h.History[:1]; h.Position = at(1, 6) }))
	must(t, l.Close())
	if l = mustOpen(t, fsys); l.Floor() != at(1, 6) {
		t.Errorf("after it was cut back: floor %v", l.Floor())
	}
}

func TestCleanStop(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 100, lineage.ZeroVersion)
	must(t, l.MarkHot([]int64{3}))
	id := vfs.Identity{Kind: vfs.KindFile, Dev: 1, Inode: 2, Size: 3, ChangeTime: 4}
	if err := l.MarkClean(id); err == nil || !strings.Contains(err.Error(), "1 extents are hot") {
		t.Fatal(err)
	}
	must(t, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	must(t, l.MarkClean(id))
	if err := l.MarkHot([]int64{4}); err == nil || !strings.Contains(err.Error(), "ClearClean") {
		t.Fatal(err)
	}
	must(t, l.Close())
	l = mustOpen(t, fsys)
	if got, ok := l.WasClean(); !ok || got != id {
		t.Fatal(got, ok)
	}
	must(t, l.ClearClean())
	if _, ok := l.WasClean(); !ok {
		t.Fatal("what it was when it was opened is forgotten")
	}
	must(t, l.MarkHot([]int64{4}))
	fsys.CrashProcess()
	l = mustOpen(t, fsys)
	if _, ok := l.WasClean(); ok || l.UnknownRegions() != 4 {
		t.Fatalf("clean %v, %d unknown", ok, l.UnknownRegions())
	}
	must(t, l.ForgetAll())
	must(t, l.Close())
	if l = mustOpen(t, fsys); l.UnknownRegions() != 100 {
		t.Fatalf("%d unknown after ForgetAll", l.UnknownRegions())
	}
}

func TestBusyExtentsStayHot(t *testing.T) {
	l := mustCreate(t, vfs.NewMem(1), 100, lineage.ZeroVersion)
	must(t, l.MarkHot([]int64{1, 2, 3}))
	check := func(all bool, want string) {
		t.Helper()
		must(t, l.Checkpoint(CheckpointOptions{CoolAll: all, Drain: func() { l.Hot(3, 3) }}))
		if got := fmt.Sprint(l.HotExtents()); got != want || l.HotCount() != len(l.HotExtents()) {
			t.Errorf("hot: %s (%d), not %s", got, l.HotCount(), want)
		}
	}
	check(false, "[1 2 3]")
	if !l.Hot(2, 3) || l.Hot(3, 4) {
		t.Error("Hot")
	}
	check(false, "[2 3]")
	check(false, "[3]")
	check(true, "[3]")
}

func TestGroupCommit(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 40000, lineage.ZeroVersion)
	var syncs atomic.Int64
	gate := make(chan struct{})
	first := make(chan struct{})
	fsys.Inject(func(op, path string, off int64, n int) error {
		if op == "sync" && syncs.Add(1) == 1 {
			close(first)
			<-gate
		}
		return nil
	})
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	mark := func(e int64) {
		wg.Go(func() { errs <- l.MarkHot([]int64{e, e + 1}) })
	}
	mark(0)
	<-first
	for e := int64(100); e < 150; e++ {
		mark(e)
	}
	waiting := func() int {
		l.hot.mu.Lock()
		defer l.hot.mu.Unlock()
		if l.hot.next == nil {
			return 0
		}
		return len(l.hot.next.extents)
	}
	for waiting() < 100 {
		runtime.Gosched()
	}
	close(gate)
	wg.Wait()
	close(errs)
	for err := range errs {
		must(t, err)
	}
	if n := syncs.Load(); n != 2 {
		t.Errorf("%d syncs, not 2", n)
	}
	if !l.Hot(0, 1) || !l.Hot(100, 150) || l.HotCount() != 53 {
		t.Errorf("hot: %v", l.HotExtents())
	}
}

// TestManyAtOnce is for the race detector: everything together, then the log is whole.
func TestManyAtOnce(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 8000, lineage.ZeroVersion)
	g, err := l.GenIndex(gen(1))
	must(t, err)
	var number atomic.Uint64
	var inFlight sync.RWMutex // Drain: what is registered holds it
	var wg sync.WaitGroup
	for w := range int64(4) {
		wg.Go(func() {
			for i := range int64(300) {
				e := (i*7+w*500)%2000/8*8 + w
				inFlight.RLock()
				if !l.Hot(e, e) {
					if err := l.MarkHot([]int64{e}); err != nil {
						t.Error(err)
					}
				}
				n := number.Add(1)
				l.SetVersions(e*4, e*4+3, lineage.MakeVersion(g, n))
				inFlight.RUnlock()
				if i%50 == 0 {
					if err := l.SetFloor(lineage.Position{Gen: gen(1), Number: n}); err != nil {
						t.Error(err)
					}
					l.PageDigest(e * 4 / pageRegions)
				}
			}
		})
	}
	for range 20 {
		must(t, l.Checkpoint(CheckpointOptions{CoolAll: true, Drain: func() {
			inFlight.Lock()
			defer inFlight.Unlock()
		}}))
		must(t, l.Save(func(h *Header) { h.Promised.N++ }))
	}
	wg.Wait()
	must(t, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	want := summary(l)
	must(t, l.Close())
	if got := summary(mustOpen(t, fsys)); got != want {
		t.Error("it reads otherwise than it was")
	}
}

func TestGenerationsNoLongerInUseAreDropped(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 100, lineage.ZeroVersion)
	id := func(i int) lineage.GenID { return lineage.GenID{0: 9, 14: byte(i >> 8), 15: byte(i)} }
	must(t, l.Save(func(h *Header) {
		for i := range 1200 {
			h.Generations = append(h.Generations, id(i))
		}
		h.History = lineage.History{{ID: id(100)}}
	}))
	must(t, l.Close())
	l = mustOpen(t, fsys)
	write(t, l, 7, 7, lineage.MakeVersion(2+50, 1))
	must(t, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	must(t, l.Close())
	// The first opening dropped all but generation 100; version 50 was written after it, by a caller that did not ask GenIndex.
	var corrupt *CorruptError
	if _, err := Open(fsys, "/d/log", Options{}); !errors.As(err, &corrupt) || !strings.Contains(err.Error(), "generation index 52") {
		t.Fatal(err)
	}
}

func TestTableKeepsWhatIsInUse(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 100, lineage.ZeroVersion)
	id := func(i int) lineage.GenID { return lineage.GenID{0: 9, 14: byte(i >> 8), 15: byte(i)} }
	var used uint16
	for i := range 1100 {
		g, err := l.GenIndex(id(i))
		must(t, err)
		if i == 600 {
			used = g
			write(t, l, 7, 7, lineage.MakeVersion(g, 1))
		}
	}
	must(t, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	must(t, l.Save(func(h *Header) { h.History = lineage.History{{ID: id(1000)}} }))
	must(t, l.Close())
	l = mustOpen(t, fsys)
	if l.GenByIndex(used) != id(600) || l.GenByIndex(used+400) != id(1000) || l.GenByIndex(used+1) != (lineage.GenID{}) {
		t.Error("the wrong ones were dropped")
	}
	if g, err := l.GenIndex(gen(3)); err != nil || g != 2 {
		t.Errorf("a free index is not used again: %d, %v", g, err)
	}
	if g, err := l.GenIndex(id(600)); err != nil || g != used {
		t.Errorf("index %d, %v", g, err)
	}
	write(t, l, 9, 9, lineage.MakeVersion(2, 5))
	must(t, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	must(t, l.Close())
	if l = mustOpen(t, fsys); l.GenByIndex(2) != gen(3) || l.GenByIndex(used) != id(600) {
		t.Error("after another opening")
	}
}

// TestDigests: two replicas whose tables differ in order have equal digests for equal versions, and for nothing else.
func TestDigests(t *testing.T) {
	a := mustCreate(t, vfs.NewMem(1), 1024, lineage.ZeroVersion)
	b := mustCreate(t, vfs.NewMem(2), 1024, lineage.ZeroVersion)
	ids := []lineage.GenID{gen(1), gen(2), gen(3)}
	for i := range ids {
		_, err := a.GenIndex(ids[i])
		must(t, err)
		_, err = b.GenIndex(ids[len(ids)-1-i])
		must(t, err)
	}
	all := make([]int64, a.Extents())
	for e := range all {
		all[e] = int64(e)
	}
	must(t, a.MarkHot(all))
	must(t, b.MarkHot(all))
	if a.PageDigest(0) != b.PageDigest(0) || a.PageDigest(0) == a.PageDigest(1) {
		t.Error("zero pages")
	}
	rapid.Check(t, func(t *rapid.T) {
		set := func(l *Log, first, last int64, id lineage.GenID, n uint64) {
			g, err := l.GenIndex(id)
			if err != nil {
				t.Fatal(err)
			}
			l.SetVersions(first, last, lineage.MakeVersion(g, n))
		}
		for _, l := range []*Log{a, b} {
			l.SetVersions(0, 511, lineage.ZeroVersion)
		}
		for range rapid.IntRange(0, 10).Draw(t, "writes") {
			first := rapid.Int64Range(0, 511).Draw(t, "first")
			last := rapid.Int64Range(first, 511).Draw(t, "last")
			id := rapid.SampledFrom(ids).Draw(t, "generation")
			n := rapid.Uint64Range(1, 4).Draw(t, "number")
			set(a, first, last, id, n)
			set(b, first, last, id, n)
		}
		if a.PageDigest(0) != b.PageDigest(0) {
			t.Fatal("equal versions, other digests")
		}
		r := rapid.Int64Range(0, 511).Draw(t, "region")
		switch v := a.Version(r); rapid.IntRange(0, 2).Draw(t, "change") {
		case 0:
			set(b, r, r, a.GenByIndex(v.Index()), v.Number()+1)
		case 1:
			set(b, r, r, gen(99), v.Number())
		case 2:
			a.SetVersions(r, r, lineage.Unknown)
			b.SetVersions(r, r, lineage.Unknown)
		}
		if a.PageDigest(0) == b.PageDigest(0) {
			t.Fatal("equal digests, other versions")
		}
	})
}

// TestMapAgainstAnArray: the map in memory is an array of versions, whatever it does to save room.
func TestMapAgainstAnArray(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := geometry{size: 1300 * testRegion, region: testRegion, extent: testExtent}
		var m versionMap
		m.init(g, lineage.ZeroVersion)
		model := make([]lineage.Version, 1300)
		for r := range model {
			model[r] = lineage.ZeroVersion
		}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			first := rapid.Int64Range(0, 1299).Draw(t, "first")
			last := min(1299, first+rapid.Int64Range(0, 1300).Draw(t, "more"))
			v := rapid.SampledFrom([]lineage.Version{lineage.Unknown, lineage.ZeroVersion, lineage.MakeVersion(2, 2)}).Draw(t, "version")
			m.set(first, last, v)
			m.shrink(first / pageRegions)
			for r := first; r <= last; r++ {
				model[r] = v
			}
		}
		unknown := int64(0)
		for r, v := range model {
			if m.get(int64(r)) != v {
				t.Fatalf("region %d", r)
			}
			if v == lineage.Unknown {
				unknown++
			}
		}
		if m.unknown != unknown {
			t.Fatalf("%d unknown, it counts %d", unknown, m.unknown)
		}
	})
}

func TestAdoptUnknown(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 1300, lineage.Unknown)
	if n := len(l.UnknownExtents()); n != 325 {
		t.Fatalf("%d unknown extents", n)
	}
	g, err := l.GenIndex(gen(1))
	must(t, err)
	must(t, l.MarkHot(l.UnknownExtents()))
	l.SetVersions(600, 700, lineage.ZeroVersion)
	if n := l.AdoptUnknown(lineage.MakeVersion(g, 1)); n != 1199 || l.UnknownRegions() != 0 {
		t.Fatalf("%d adopted, %d unknown", n, l.UnknownRegions())
	}
	must(t, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	fsys.CrashProcess()
	l = mustOpen(t, fsys)
	if l.Version(599).Number() != 1 || l.Version(650) != lineage.ZeroVersion || l.UnknownRegions() != 0 {
		t.Error("not as adopted")
	}
}

func TestAVersionWithoutAHotExtentPanics(t *testing.T) {
	l := mustCreate(t, vfs.NewMem(1), 100, lineage.Unknown)
	for name, f := range map[string]func(){
		"SetVersions":  func() { l.SetVersions(5, 5, lineage.ZeroVersion) },
		"AdoptUnknown": func() { l.AdoptUnknown(lineage.ZeroVersion) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s did not", name)
				}
			}()
			f()
		}()
	}
}

func TestCreateSaysWhatIsWrong(t *testing.T) {
	for about, change := range map[string]func(*Header){
		"is not 32 hexadecimal digits":       func(h *Header) { h.Volume = "x" },
		"a volume of 0 bytes":                func(h *Header) { h.SizeBytes = 0 },
		"must be a multiple of 512":          func(h *Header) { h.RegionBytes = 1000 },
		"must be a multiple of the region's": func(h *Header) { h.ExtentBytes = 700 },
		"choose larger ones":                 func(h *Header) { h.SizeBytes = 1 << 50 },
	} {
		h := testHeader(100)
		change(&h)
		if _, err := Create(vfs.NewMem(1), "/d/log", h, 0, Options{}); err == nil || !strings.Contains(err.Error(), about) {
			t.Errorf("want %q, not: %v", about, err)
		}
	}
}

func TestRemove(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 100, lineage.Unknown)
	if err := Remove(fsys, "/d/log"); !errors.Is(err, vfs.ErrInUse) {
		t.Fatal(err)
	}
	must(t, l.Close())
	must(t, Remove(fsys, "/d/log"))
	must(t, Remove(fsys, "/d/log"))
	fsys.CrashPower()
	mustCreate(t, fsys, 100, lineage.Unknown)
}

func TestAHeaderThatCannotBeEncodedIsNoDiskError(t *testing.T) {
	l := mustCreate(t, vfs.NewMem(1), 100, lineage.Unknown)
	if err := l.Save(func(h *Header) { h.Name, h.Anchor = "other", rawJSON("{") }); err == nil || errors.Is(err, ErrFailed) {
		t.Fatal(err)
	}
	must(t, l.Save(func(h *Header) {
		if h.Name != "data" || h.Anchor != nil {
			t.Error("the change that failed is there")
		}
	}))
}
