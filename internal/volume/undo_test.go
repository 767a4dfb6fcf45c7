package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/undo"
	"keelson/internal/vfs"
	"keelson/internal/wire"
)

const (
	testRegion = 64 << 10
	testSize   = 4 << 20
)

// gate lets a number of changes through to the target and keeps the next from arriving, until it is told to go on; with
// cutEnd the stream is cut when the end of the resync comes.
type gate struct {
	*pipe
	mu     sync.Mutex
	cond   sync.Cond
	left   int
	cutEnd bool
	held   bool // something waits
}

func newGate(p *pipe, left int) *gate {
	g := &gate{pipe: p, left: left}
	g.cond.L = &g.mu
	go func() { // it lives as long as the pipe
		<-p.Done()
		g.mu.Lock()
		g.cond.Broadcast()
		g.mu.Unlock()
	}()
	return g
}

func (g *gate) Buffered() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left > 0 && g.pipe.Buffered()
}

func (g *gate) Read() (wire.Header, *block.Buffer, error) {
	h, body, err := g.pipe.Read()
	if err != nil {
		return h, body, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if h.Type == wire.TypeEnd && g.cutEnd {
		return h, nil, errCut
	}
	if changesRegions(h.Type) {
		for g.left == 0 && g.pipe.Err() == nil {
			g.held = true
			g.cond.Broadcast()
			g.cond.Wait()
		}
		if g.pipe.Err() != nil {
			return h, nil, errCut
		}
		g.left--
	}
	return h, body, nil
}

// waitHeld waits until a change is kept from arriving.
func (g *gate) waitHeld(t testing.TB) {
	t.Helper()
	waitFor(t, "the gate holds something", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.held })
}

func (g *gate) open(cutEnd bool) {
	g.mu.Lock()
	g.left, g.cutEnd = 1<<30, cutEnd
	g.cond.Broadcast()
	g.mu.Unlock()
}

func region(s *server, r int64) []byte {
	p := make([]byte, testRegion)
	if _, err := s.v.disk.ReadAt(p, r*testRegion); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// returning is an old source that comes back to b, which was switched to without it: a wrote regions 10, 11 and 20 that b
// has not, and 12 with what was there; b wrote 20, 30 and more of its own. before is a's content.
type returning struct {
	a, b   *server
	before []byte
	own    []int64 // regions whose content is only at a
}

// quiet is a server whose I/O comes from what the test does alone.
func quietServer(t *testing.T, name string, o omission) *server {
	s := newServer(t, name, testSize)
	s.close()
	s.lim.CheckpointEvery, s.omit, s.lim.CopyQueueBytes = time.Hour, o, 128<<10
	s.open()
	return s
}

func newReturning(t *testing.T, o omission, crashed bool) *returning {
	w := &returning{a: quietServer(t, "a", o), b: quietServer(t, "b", 0), own: []int64{10, 11, 20}}
	a, b := w.a, w.b
	a.serve(1)
	put(t, a.v, 0, random(1, 24*testRegion))
	flush(t, a.v)
	cut := connect(a, b, lineage.Member{})
	_ = cut.Close(errCut)
	b.wait("SessionEnded", is[mirror.SessionEnded])
	a.wait("LinkDown", is[mirror.LinkDown])
	put(t, a.v, 10*testRegion+512, random(2, 2*testRegion-1024))
	put(t, a.v, 12*testRegion, region(a, 12))
	put(t, a.v, 20*testRegion, random(3, 4096))
	flush(t, a.v)
	b.serve(2)
	put(t, b.v, 20*testRegion+8192, random(4, 4096))
	put(t, b.v, 30*testRegion, random(5, testRegion))
	if err := do(b.v, block.Trim, 0, 31*testRegion, testRegion, nil); err != nil {
		t.Fatal(err)
	}
	put(t, b.v, 4*testRegion, random(6, 4*testRegion))
	put(t, b.v, 40*testRegion, random(7, 4*testRegion))
	a.v.CloseDevice("test")
	a.v.BecomeTarget()
	if crashed {
		a.crash(true)
	}
	w.before = content(t, a)
	return w
}

// salvaged is what a server's salvages have of each region, and which salvages there are.
func salvaged(s *server) (of map[int64][][]byte, list []undo.Salvage) {
	of = map[int64][][]byte{}
	list = s.v.Salvages()
	for _, m := range list {
		v, err := s.v.OpenSalvage(m.ID)
		if err != nil {
			s.t.Fatal(err)
		}
		for r := range v.Regions() {
			p := make([]byte, testRegion)
			if _, err := v.ReadAt(p, r*testRegion); err != nil {
				s.t.Fatal(err)
			}
			of[r] = append(of[r], p)
		}
		if err := v.Close(); err != nil {
			s.t.Fatal(err)
		}
	}
	return of, list
}

// nothingLost is guarantee 6: what only a had, and was answered, is on its disk, in the undo log or in a salvage.
func (w *returning) nothingLost() error {
	kept, _ := salvaged(w.a)
	if log := w.a.v.undo.log.Load(); log != nil && log.Anchor() != nil {
		if err := log.Each(func(i undo.Image) error {
			p := make([]byte, testRegion)
			copy(p, i.Data)
			kept[i.Region] = append(kept[i.Region], p)
			return nil
		}); err != nil {
			return err
		}
	}
	for _, r := range w.own {
		want := w.before[r*testRegion:][:testRegion]
		if !bytes.Equal(region(w.a, r), want) && !slices.ContainsFunc(kept[r], func(p []byte) bool { return bytes.Equal(p, want) }) {
			return fmt.Errorf("region %d of the old source is lost", r)
		}
	}
	return nil
}

// inSalvage: after the resync exactly a's own content is in salvages, once.
func (w *returning) inSalvage(exactly bool) error {
	kept, list := salvaged(w.a)
	for _, r := range w.own {
		if len(kept[r]) != 1 || !bytes.Equal(kept[r][0], w.before[r*testRegion:][:testRegion]) {
			return fmt.Errorf("region %d is %d times in %d salvages, or is something else", r, len(kept[r]), len(list))
		}
	}
	if exactly && len(kept) != len(w.own) {
		return fmt.Errorf("%d regions were salvaged, not %d", len(kept), len(w.own))
	}
	return nil
}

func (w *returning) follow(t *testing.T) {
	t.Helper()
	connect(w.b, w.a, lineage.Member{})
	flush(t, w.b.v)
	same(t, w.a, w.b)
	if h := w.a.v.Header(); h.Consistent != consistentYes || h.Anchor != nil {
		t.Fatalf("after the resync: %s %s", h.Consistent, h.Anchor)
	}
	if log := w.a.v.undo.log.Load(); log != nil && (log.Anchor() != nil || log.Bytes() != 0) {
		t.Fatal("the undo log was not dropped")
	}
}

func TestTheSurplusIsSalvaged(t *testing.T) {
	w := newReturning(t, 0, false)
	w.follow(t)
	if err := w.inSalvage(true); err != nil {
		t.Fatal(err)
	}
	list := w.a.v.Salvages()
	if m := list[0]; len(list) != 1 || !strings.HasPrefix(m.Reason, "resync from b in term 2@b") || m.Volume != "data" || m.Node != "a" || m.Regions != 3 || m.Expires.Sub(m.Time) != DefaultLimits.SalvageRetention {
		t.Fatalf("%+v", list)
	}
}

func TestUnknownContentIsSalvaged(t *testing.T) {
	if err := unknownRun(t, 0); err != nil {
		t.Fatal(err)
	}
}

// unknownRun: a's power failed, so that what it has is unknown.
func unknownRun(t *testing.T, o omission) error {
	w := newReturning(t, o, true)
	w.follow(t)
	return w.inSalvage(false)
}

// TestNoSalvageWithoutSurplus: a target that catches up, and a source that was switched away from as planned, give nothing up.
func TestNoSalvageWithoutSurplus(t *testing.T) {
	a, b := quietServer(t, "a", 0), quietServer(t, "b", 0)
	servers := []*server{a, b}
	a.serve(1)
	put(t, a.v, 0, random(1, testSize/2))
	for round := range 4 {
		from, to := servers[round%2], servers[(round+1)%2]
		p := connect(from, to, lineage.Member{})
		put(t, from.v, int64(round)*testRegion, random(int64(round), testRegion))
		flush(t, from.v)
		_ = p.Close(errCut)
		from.wait("LinkDown", is[mirror.LinkDown])
		to.wait("SessionEnded", is[mirror.SessionEnded])
		put(t, from.v, 9*testRegion, random(int64(round+70), 10*testRegion)) // it catches up, in two goes
		g := newGate(nil2(from, to, 3))
		_ = g.pipe.Close(errCut)
		from.wait("LinkDown", is[mirror.LinkDown])
		to.wait("SessionEnded", is[mirror.SessionEnded])
		p = connect(from, to, lineage.Member{})
		same(t, a, b)
		from.v.Hold("plan")
		from.wait("Drained", is[mirror.Drained])
		from.v.CloseDevice("switchover")
		_ = p.Close(errCut)
		from.wait("LinkDown", is[mirror.LinkDown])
		to.wait("SessionEnded", is[mirror.SessionEnded])
		from.v.BecomeTarget()
		to.serve(uint64(round + 2))
	}
	for _, s := range servers {
		if list := s.v.Salvages(); len(list) != 0 {
			t.Fatalf("%s: %+v", s.name, list)
		}
	}
}

// TestWhatATargetGivesUpAfterACrash: what a target holds came from the tenure that its source still is in, so it gives nothing
// up, however much of it a crash made unknown. If the source was started again, or the disk is another one, nobody knows.
func TestWhatATargetGivesUpAfterACrash(t *testing.T) {
	for _, c := range []struct {
		name     string
		salvages int
		between  func(t *testing.T, a, b *server)
	}{
		{"the source goes on", 0, func(t *testing.T, a, b *server) { b.crash(true) }},
		{"its process dies", 0, func(t *testing.T, a, b *server) { b.crash(false) }},
		{"it crashes in the middle of the resync, too", 0, func(t *testing.T, a, b *server) {
			b.crash(true)
			put(t, a.v, 3*testRegion, random(7, 12*testRegion))
			p, _ := nil2(a, b, 3)
			_ = p.Close(errCut)
			a.wait("LinkDown", is[mirror.LinkDown])
			b.wait("SessionEnded", is[mirror.SessionEnded])
			b.crash(true)
		}},
		{"the source is started again", 1, func(t *testing.T, a, b *server) {
			b.crash(true)
			a.crash(false)
			a.serve(1)
		}},
		{"another source", 1, func(t *testing.T, a, b *server) {
			b.crash(true)
			a.serve(2)
		}},
		{"another disk", 1, func(t *testing.T, a, b *server) {
			b.close()
			p := random(9, testSize)
			if err := b.fs.Remove("/s/data.img"); err != nil {
				t.Fatal(err)
			}
			f, err := b.fs.Open("/s/data.img", vfs.Create|vfs.Exclusive)
			if err == nil {
				_, err = f.WriteAt(p, 0)
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			b.open()
			b.crash(false)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := quietServer(t, "a", 0), quietServer(t, "b", 0)
			a.serve(1)
			put(t, a.v, 0, random(1, testSize/2))
			p := connect(a, b, lineage.Member{})
			put(t, a.v, 0, random(2, 20*testRegion)) // hot at b
			_ = p.Close(errCut)
			a.wait("LinkDown", is[mirror.LinkDown])
			b.wait("SessionEnded", is[mirror.SessionEnded])
			c.between(t, a, b)
			put(t, a.v, 5*testRegion, random(3, 10*testRegion))
			connect(a, b, lineage.Member{})
			flush(t, a.v)
			same(t, a, b)
			if list := b.v.Salvages(); len(list) != c.salvages {
				t.Fatalf("%d salvages, not %d: %+v", len(list), c.salvages, list)
			}
		})
	}
}

// nil2 begins a resync that is held after some changes.
func nil2(from, to *server, changes int) (*pipe, int) {
	var g *gate
	beginVia(from, to, lineage.Member{}, false, func(p *pipe) Stream { g = newGate(p, changes); return g })
	g.waitHeld(from.t)
	return g.pipe, 0
}

func TestRollBackRestoresTheAnchor(t *testing.T) {
	if err := rollBackRun(t, 0); err != nil {
		t.Fatal(err)
	}
}

// rollBackRun interrupts a resync with streamed writes in it, and rolls back.
func rollBackRun(t *testing.T, o omission) error {
	w := newReturning(t, o, false)
	was := w.a.v.Own()
	var g *gate
	beginVia(w.b, w.a, lineage.Member{Mode: lineage.Async}, false, func(p *pipe) Stream { g = newGate(p, 4); return g })
	g.waitHeld(t)
	put(t, w.b.v, 1*testRegion+100, random(90, 3*testRegion)) // in step: it goes into the stream at once
	if err := do(w.b.v, block.Zero, 0, 5*testRegion, 5000, nil); err != nil {
		t.Fatal(err)
	}
	g.open(true)
	w.a.wait("SessionEnded", is[mirror.SessionEnded])
	w.b.wait("LinkDown", is[mirror.LinkDown])
	if own := w.a.v.Own(); own.Consistent != consistentRolling || own.Position != was.Position || own.Floor != was.Position || !slices.Equal(own.History, was.History) {
		t.Fatalf("it reports %+v in mid-resync, had %+v", own, was)
	}
	if s := w.a.v.UndoStatus(); s.State != "rolling" || s.Regions == 0 {
		t.Fatalf("%+v", s)
	}
	w.a.close()
	w.a.open()
	late := content(t, w.a)
	if bytes.Equal(late, w.before) {
		t.Fatal("the resync changed nothing")
	}
	record := w.a.v.Anchor().Record
	if err := w.a.v.RollBack(); err != nil {
		t.Fatal(err)
	}
	if e := w.a.wait("RolledBack", is[mirror.RolledBack]).(mirror.RolledBack); e.Record.Epoch != record.Epoch || w.a.v.Header().Record.Epoch != record.Epoch {
		t.Fatalf("the record is %+v, it says %+v, it was %+v", w.a.v.Header().Record, e.Record, record)
	}
	if now := content(t, w.a); !bytes.Equal(now, w.before) {
		return errors.New("the rollback did not restore the anchor's content")
	}
	if own := w.a.v.Own(); own.Consistent != consistentYes || own.Position != was.Position || !slices.Equal(own.History, was.History) {
		t.Fatalf("it is %+v after the rollback, was %+v", own, was)
	}
	kept, _ := salvaged(w.a)
	for r := int64(0); r < testSize/testRegion; r++ {
		differs := !bytes.Equal(late[r*testRegion:][:testRegion], w.before[r*testRegion:][:testRegion])
		if differs != (len(kept[r]) == 1) || differs && !bytes.Equal(kept[r][0], late[r*testRegion:][:testRegion]) {
			return fmt.Errorf("region %d: the rollback overwrote it (%v) and it is %d times in the salvage", r, differs, len(kept[r]))
		}
	}
	connect(w.b, w.a, lineage.Member{})
	same(t, w.a, w.b)
	if r := w.b.v.Status(time.Now()).Links["a"].Resync; r == nil || r.Kind != "partial" || r.Progress.Sent >= testSize/2 {
		t.Fatalf("the resync after a rollback: %+v", r)
	}
	return w.inAnySalvage()
}

// inAnySalvage: a's own content is in a salvage.
func (w *returning) inAnySalvage() error {
	kept, _ := salvaged(w.a)
	for _, r := range w.own {
		want := w.before[r*testRegion:][:testRegion]
		if !slices.ContainsFunc(kept[r], func(p []byte) bool { return bytes.Equal(p, want) }) {
			return fmt.Errorf("region %d is in no salvage", r)
		}
	}
	return nil
}

// TestWhatAnInterruptedResyncBroughtIsSalvaged: another source, of another line, goes on with the resync: what had come from the first is
// kept, once, and what a has of its own too.
func TestWhatAnInterruptedResyncBroughtIsSalvaged(t *testing.T) {
	if err := arrivedRun(t, 0); err != nil {
		t.Fatal(err)
	}
}

func arrivedRun(t *testing.T, o omission) error {
	w := newReturning(t, o, false)
	c := quietServer(t, "c", 0)
	connect(w.b, c, lineage.Member{})
	w.b.v.Hangup("c", errCut)
	c.wait("SessionEnded", is[mirror.SessionEnded])
	c.serve(3)
	put(t, c.v, 0, random(80, 24*testRegion)) // what b writes from now on is not in c's line, and c writes the same regions
	put(t, w.b.v, 1*testRegion, random(81, 20*testRegion))
	flush(t, w.b.v)
	for range 2 { // interrupted twice in the same tenure: that makes no salvage
		var g *gate
		p := beginVia(w.b, w.a, lineage.Member{Mode: lineage.Async}, false, func(p *pipe) Stream { g = newGate(p, 6); return g })
		g.waitHeld(t)
		_ = p.Close(errCut)
		w.a.wait("SessionEnded", is[mirror.SessionEnded])
		w.b.wait("LinkDown", is[mirror.LinkDown])
		w.a.crash(false)
		if list := w.a.v.Salvages(); len(list) != 0 {
			return fmt.Errorf("%d salvages in the middle of one source's resync: %+v", len(list), list)
		}
	}
	arrived := content(t, w.a)
	mine := map[int64]bool{}
	for r := int64(1); r < 21; r++ {
		if bytes.Equal(region(w.a, r), region(w.b, r)) && !bytes.Equal(region(w.a, r), w.before[r*testRegion:][:testRegion]) {
			mine[r] = true
		}
	}
	if len(mine) < 3 {
		t.Fatalf("only %d regions had come from b", len(mine))
	}
	connect(c, w.a, lineage.Member{})
	same(t, w.a, c)
	kept, _ := salvaged(w.a)
	for r := range mine {
		if n := slices.IndexFunc(kept[r], func(p []byte) bool { return bytes.Equal(p, arrived[r*testRegion:][:testRegion]) }); n < 0 {
			return fmt.Errorf("region %d, which had come from b, is in none of %d salvages", r, len(kept[r]))
		}
	}
	return w.inAnySalvage()
}

// TestStaleImagesStayAway: after a rollback and another resync, a rollback restores the newer anchor.
func TestStaleImagesStayAway(t *testing.T) {
	w := newReturning(t, 0, false)
	for round := range 3 {
		before := content(t, w.a)
		g, _ := nil2(w.b, w.a, 2+3*round)
		_ = g.Close(errCut)
		w.b.wait("LinkDown", is[mirror.LinkDown])
		w.a.wait("SessionEnded", is[mirror.SessionEnded])
		if err := w.a.v.RollBack(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(content(t, w.a), before) {
			t.Fatalf("round %d: not what it was", round)
		}
		p := connect(w.b, w.a, lineage.Member{})
		same(t, w.a, w.b)
		_ = p.Close(errCut)
		w.b.wait("LinkDown", is[mirror.LinkDown])
		w.a.wait("SessionEnded", is[mirror.SessionEnded])
		put(t, w.b.v, int64(round)*testRegion, random(int64(50+round), 20*testRegion))
	}
}

// TestAFullUndoLog gives the way back up, and loses nothing.
func TestAFullUndoLog(t *testing.T) {
	for _, limit := range []int64{1 << 10, 300 << 10} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			w := newReturning(t, 0, false)
			w.a.close()
			w.a.lim.UndoBytesMax = limit
			w.a.open()
			if limit < testRegion { // not even one region: what has to be kept cannot be
				begin(w.b, w.a, lineage.Member{}, false)
				if e := w.a.wait("SessionEnded", is[mirror.SessionEnded]).(mirror.SessionEnded); !strings.Contains(e.Why, RuleSalvageFull) {
					t.Fatal(e.Why)
				}
				if err := w.nothingLost(); err != nil {
					t.Fatal(err)
				}
				return
			}
			g, _ := nil2(w.b, w.a, 8)
			_ = g.Close(errCut)
			w.b.wait("LinkDown", is[mirror.LinkDown])
			w.a.wait("SessionEnded", is[mirror.SessionEnded])
			if own, s := w.a.v.Own(), w.a.v.UndoStatus(); own.Consistent != consistentNo || s.State != "given-up" || s.Reason == "" || s.GaveUp != 1 {
				t.Fatalf("%+v %+v", own, s)
			}
			if err := w.a.v.RollBack(); err == nil || !strings.Contains(err.Error(), "not-consistent") {
				t.Fatalf("rolled back without a way: %v", err)
			}
			if err := w.nothingLost(); err != nil {
				t.Fatal(err)
			}
			w.a.crash(true)
			if err := w.nothingLost(); err != nil {
				t.Fatal(err)
			}
			w.follow(t)
			if err := w.inAnySalvage(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestAFullSalvageStopsTheResync: what would be lost is not overwritten for good before there is room for it.
func TestAFullSalvageStopsTheResync(t *testing.T) {
	w := newReturning(t, 0, false)
	w.a.close()
	w.a.lim.SalvageBytesMax = 64 << 10
	w.a.open()
	begin(w.b, w.a, lineage.Member{}, false)
	e := w.a.wait("SessionEnded", is[mirror.SessionEnded]).(mirror.SessionEnded)
	if !strings.Contains(e.Why, RuleSalvageFull) {
		t.Fatal(e.Why)
	}
	w.b.wait("LinkDown", is[mirror.LinkDown])
	if own := w.a.v.Own(); own.Consistent != consistentRolling {
		t.Fatalf("%+v", own)
	}
	if err := w.nothingLost(); err != nil {
		t.Fatal(err)
	}
	w.a.close()
	w.a.lim.SalvageBytesMax = 0
	w.a.open()
	w.follow(t)
	if err := w.inSalvage(true); err != nil {
		t.Fatal(err)
	}
}

func TestSalvagesAreUsed(t *testing.T) {
	w := newReturning(t, 0, false)
	w.follow(t)
	id := w.a.v.Salvages()[0].ID
	files := map[string]*bytes.Buffer{}
	if err := w.a.v.ExportSalvage(id, func(name string) (io.WriteCloser, error) {
		files[name] = &bytes.Buffer{}
		return nopCloser{files[name]}, nil
	}); err != nil || files[undo.ManifestFile] == nil || len(files) != 3 {
		t.Fatalf("%v, %d files", err, len(files))
	}
	for _, r := range []Range{{0, testSize + 512}, {testSize, 512}, {-512, 512}, {1 << 62, 1 << 62}, {0, testRegion}} { // beyond the end, or nothing there
		if n, err := w.a.v.ApplySalvage(context.Background(), id, []Range{{10 * testRegion, 512}, r}, w.b.v.doSoon); !errors.Is(err, ErrOutside) || n != 0 {
			t.Fatal(r, n, err)
		}
	}
	planned := func(ranges ...Range) ApplyPlan {
		t.Helper()
		p, err := w.a.v.PlanSalvage(context.Background(), id, ranges, 2, w.b.v.Sums)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := planned(Range{10*testRegion + 512, 512}, Range{10 * testRegion, 1024}); p.Bytes != 1024 || p.Equal != 0 || len(p.Changes) != 1 || p.Changes[0] != (Range{10 * testRegion, 1024}) {
		t.Fatalf("%+v", p)
	}
	all := planned()
	if all.Bytes != w.a.v.Salvages()[0].Bytes || len(all.Changes) != 2 {
		t.Fatalf("%+v of %+v", all, w.a.v.Salvages())
	}
	same(t, w.a, w.b)
	n, err := w.a.v.ApplySalvage(context.Background(), id, []Range{{10*testRegion + 512, testRegion}}, w.b.v.doSoon)
	if err != nil || n != testRegion {
		t.Fatal(n, err)
	}
	same(t, w.a, w.b)
	if got := content(t, w.b)[10*testRegion+512:][:testRegion]; !bytes.Equal(got, w.before[10*testRegion+512:][:testRegion]) {
		t.Fatal("what was applied is not there")
	}
	if p := planned(); p.Equal != testRegion || p.Bytes != all.Bytes-testRegion {
		t.Fatalf("after %d bytes of %d were applied: %+v", n, all.Bytes, p)
	}
	if _, err := w.a.v.ApplySalvage(context.Background(), id, nil, w.b.v.doSoon); err != nil {
		t.Fatal(err)
	}
	same(t, w.a, w.b)
	for _, r := range w.own {
		if !bytes.Equal(region(w.b, r), w.before[r*testRegion:][:testRegion]) {
			t.Fatalf("region %d was not applied", r)
		}
	}
	w.a.v.expire(time.Now().Add(DefaultLimits.SalvageRetention - time.Hour))
	if len(w.a.v.Salvages()) != 1 {
		t.Fatal("a salvage was deleted before its time")
	}
	over := time.Now().Add(DefaultLimits.SalvageRetention + time.Hour)
	w.a.v.expire(over) // a clock that jumps ahead, stays there for a while, and is put right
	w.a.v.expire(over.Add(overdueWait - time.Hour))
	w.a.v.expire(time.Now())
	w.a.v.expire(over.Add(overdueWait + time.Hour))
	if len(w.a.v.Salvages()) != 1 {
		t.Fatal("a salvage was deleted because the clock was wrong for a while")
	}
	w.a.v.expire(over.Add(2*overdueWait + 2*time.Hour))
	if len(w.a.v.Salvages()) != 0 {
		t.Fatal("a salvage outlived its time")
	}
	if err := w.a.v.DeleteSalvage(id); !errors.Is(err, undo.ErrUnknown) {
		t.Fatal(err)
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// differing are the regions that differ.
func differing(p, q []byte) (list []int) {
	for r := range len(p) / testRegion {
		if !bytes.Equal(p[r*testRegion:][:testRegion], q[r*testRegion:][:testRegion]) {
			list = append(list, r)
		}
	}
	return list
}

// crashAt makes the k-th call of the file system from now on, and all that follow, fail; the count of calls comes back.
func crashAt(s *server, k int) (calls func() int) {
	var mu sync.Mutex
	n := 0
	s.fs.Inject(func(op, path string, off int64, _ int) error {
		mu.Lock()
		defer mu.Unlock()
		if n++; k > 0 && n == k && (op == "write" || op == "sync") {
			return fmt.Errorf("%w: %w", vfs.ErrTorn, vfs.ErrCrashed)
		}
		if k > 0 && n >= k {
			return vfs.ErrCrashed
		}
		return nil
	})
	return func() int { mu.Lock(); defer mu.Unlock(); return n }
}

// resyncCrash runs a's resync with a crash at the k-th call (0: none) and checks everything after it.
func resyncCrash(t *testing.T, o omission, k int, power, back bool) (calls int, err error) {
	w := newReturning(t, o, k%2 == 1)
	count := crashAt(w.a, k)
	p := begin(w.b, w.a, lineage.Member{}, false)
	if k == 0 {
		w.b.wait("InStep", is[mirror.InStep])
		calls = count()
		w.a.fs.Inject(nil)
		return calls, nil
	}
	waitFor(t, "the crash, or the end", func() bool { return count() >= k || w.a.v.InStep() })
	_ = p.Close(errCut)
	w.b.wait("LinkDown", is[mirror.LinkDown])
	w.a.wait("SessionEnded", is[mirror.SessionEnded])
	w.a.crash(power)
	if err := w.nothingLost(); err != nil {
		return 0, err
	}
	own := w.a.v.Own()
	if own.Consistent == consistentNo {
		return 0, errors.New("the way back is gone")
	}
	if back && own.Consistent == consistentRolling {
		if err := w.a.v.RollBack(); err != nil {
			return 0, err
		}
		if !bytes.Equal(content(t, w.a), w.before) {
			return 0, errors.New("the rollback after the crash did not restore the anchor")
		}
	}
	w.follow(t)
	if back {
		return 0, w.inAnySalvage()
	}
	return 0, w.inSalvage(false)
}

// InStep reports that the incoming session is.
func (v *Volume) InStep() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.inStep
}

func TestCrashesOfAResync(t *testing.T) {
	if err := resyncCrashes(t, 0, resyncStep); err != nil {
		t.Fatal(err)
	}
}

func resyncCrashes(t *testing.T, o omission, step int) error {
	calls, err := resyncCrash(t, o, 0, false, false)
	if err != nil {
		return err
	}
	for k := calls + 2; k > 0; k -= step {
		if _, err := resyncCrash(t, o, k, k/2%2 == 0, k/4%2 == 0); err != nil {
			return fmt.Errorf("crash at call %d of %d: %w", k, calls, err)
		}
	}
	return nil
}

// Under the race detector everything is ten times slower: fewer points are tried.
const (
	resyncStep   = 2 + 7*raceFactor
	rollbackStep = 1 + 4*raceFactor
)

// TestCrashesOfARollback: it is repeated until it is done, and what it overwrites is in a salvage: as it was when the rollback
// began, or, if the power failed before it was durable anywhere, as that left it.
func TestCrashesOfARollback(t *testing.T) {
	for k := 1; ; k += rollbackStep {
		w := newReturning(t, 0, false)
		g, _ := nil2(w.b, w.a, 8)
		w.a.v.ckptMu.Lock() // what the resync brought is not made durable by the checkpoint at the session's end
		letCheckpoint := sync.OnceFunc(w.a.v.ckptMu.Unlock)
		w.a.v.o.Crash = func(point string) {
			if point == "rollback-begun" {
				letCheckpoint()
			}
		}
		_ = g.Close(errCut)
		w.b.wait("LinkDown", is[mirror.LinkDown])
		w.a.wait("SessionEnded", is[mirror.SessionEnded])
		late := content(t, w.a)
		count := crashAt(w.a, k)
		err := w.a.v.RollBack()
		letCheckpoint()
		done, power := err == nil && count() < k, k/2%2 == 0
		w.a.crash(power)
		if power && len(w.a.v.Salvages()) == 0 {
			late = content(t, w.a)
		}
		if own := w.a.v.Own(); own.Consistent == consistentRolling {
			if err := w.a.v.RollBack(); err != nil {
				t.Fatalf("crash at call %d: %v", k, err)
			}
		}
		if !bytes.Equal(content(t, w.a), w.before) {
			t.Fatalf("crash at call %d: the anchor is not restored: %v, %+v, RollBack said: %v", k, differing(content(t, w.a), w.before), w.a.v.UndoStatus(), err)
		}
		kept, list := salvaged(w.a)
		for r := int64(0); r < testSize/testRegion; r++ {
			if p := late[r*testRegion:][:testRegion]; !bytes.Equal(p, w.before[r*testRegion:][:testRegion]) &&
				(len(kept[r]) != 1 || !bytes.Equal(kept[r][0], p)) {
				t.Fatalf("crash at call %d: region %d is %d times in %d salvages, or is something else", k, r, len(kept[r]), len(list))
			}
		}
		w.follow(t)
		if done {
			t.Logf("%d calls", count())
			return
		}
	}
}

// TestEveryProtectionIsNeeded leaves one out at a time: then something above must fail.
func TestEveryProtectionIsNeeded(t *testing.T) {
	for _, c := range []struct {
		name string
		omit omission
		run  func(*testing.T, omission) error
	}{
		{"writes of the stream are saved", omitStreamSaves, rollBackRun},
		{"saved before the overwrite", omitSaveFirst, rollBackRun},
		{"the log is dropped after the adoption", omitAdoptFirst, func(t *testing.T, o omission) error { return resyncCrashes(t, o, 1) }},
		{"unknown versions are salvaged", omitSalvageUnknown, unknownRun},
		{"what a rollback overwrites is salvaged", omitSalvageRollback, rollBackRun},
		{"what an interrupted resync brought is salvaged", omitSalvageArrived, arrivedRun},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.run(t, c.omit)
			if err == nil {
				t.Fatal("left out, and nothing noticed")
			}
			t.Log("noticed:", err)
		})
	}
}
