package intentlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"syscall"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// The world of the crash tests: a volume of a few pages whose data file is on the same Mem as its log, a script of random
// steps that uses the log as the data path does, and a record of everything that was promised.
const (
	worldRegions = 600  // two pages
	worldRegion  = 1024 // two sectors: a write can be torn
	worldExtent  = 4 * worldRegion
)

type world struct {
	mem    *vfs.Mem
	rng    *rand.Rand
	random io.Reader
	left   protection
	log    *Log
	data   vfs.File
	lives  int
	err    error // a promise that was broken, noticed in the middle of a life

	crash    crashPlan
	calls    int
	dead     bool // the crash has come: every call fails
	failed   bool // a sync has
	failedAt int  // the newest call of that kind
	nested   bool // inside of the hook
	busy     bool // a checkpoint runs: the hook writes beside it
	gen      lineage.GenID
	index    uint16
	number   uint64
	flights  []*flight

	// What was promised, and what may be.
	history           map[int64][]lineage.Position          // by region: its writes, in order
	adopted           map[lineage.Position]map[int64][]byte // content of regions that got an adoption number
	maybe             map[lineage.Position]bool             // writes of earlier lives that no floor covered
	floor             lineage.Position                      // acknowledged
	reserved          uint64                                // acknowledged
	saved, savedTried uint64                                // counter in the header
	markTried         bool                                  // MarkClean was called and no ClearClean has returned since
	forgetTried       bool                                  // ForgetAll was called in this life
	created           bool                                  // Create has returned
	made              bool                                  // the content is there
	unknownAtMark     int64
}

// flight is a write on its way: registered, perhaps hot, not ended.
type flight struct {
	first, last int64
	at          lineage.Position
	index       uint16
	late        bool // its versions are set at its end
}

// crashPlan is where a life ends.
type crashPlan struct {
	call int  // number of the I/O call; 0: at the end of the script
	torn bool // that call is carried out in part
	eio  bool // instead of a crash there, the first sync from it on fails, and the life ends when somebody says so
}

func newWorld(seed int64, left protection) *world {
	return &world{mem: vfs.NewMem(seed), random: rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1}), left: left,
		history: map[int64][]lineage.Position{}, adopted: map[lineage.Position]map[int64][]byte{}, maybe: map[lineage.Position]bool{}}
}

// hook counts calls, crashes at the planned one, and writes beside a running checkpoint.
func (w *world) hook(op, path string, off int64, n int) error {
	if w.nested {
		return nil
	}
	if w.dead {
		return vfs.ErrCrashed
	}
	w.calls++
	if w.crash.eio {
		if op != "sync" || w.failed || w.calls < w.crash.call {
			return nil
		}
		w.failed, w.failedAt = true, w.calls
		return syscall.EIO
	}
	if w.crash.call > 0 && w.calls >= w.crash.call {
		w.dead = true
		if w.crash.torn {
			return fmt.Errorf("%w: %w", vfs.ErrTorn, vfs.ErrCrashed)
		}
		return vfs.ErrCrashed
	}
	if w.busy && w.rng.IntN(2) == 0 {
		w.nested = true
		w.writeHot()
		w.nested = false
	}
	return nil
}

// writeHot begins, and perhaps ends, a write into an extent that is hot already; it needs no lock of the log that is held during I/O.
func (w *world) writeHot() {
	first := w.rng.Int64N(worldRegions)
	hot := w.log.HotExtents()
	if len(hot) > 0 && w.rng.IntN(4) > 0 {
		first = min(worldRegions-1, hot[w.rng.IntN(len(hot))]*4+w.rng.Int64N(4))
	}
	if w.overlaps(first, first) || !w.log.Hot(first/4, first/4) {
		return
	}
	f := w.register(first, first)
	w.issue(f)
	if w.rng.IntN(2) == 0 {
		w.end(f)
	}
}

func (w *world) overlaps(first, last int64) bool {
	return slices.ContainsFunc(w.flights, func(f *flight) bool { return f.first <= last && first <= f.last })
}

func (w *world) register(first, last int64) *flight {
	w.number++
	f := &flight{first: first, last: last, at: lineage.Position{Gen: w.gen, Number: w.number}, index: w.index, late: w.rng.IntN(2) == 0}
	w.flights = append(w.flights, f)
	return f
}

// issue is right after the extents are hot.
func (w *world) issue(f *flight) {
	for r := f.first; r <= f.last; r++ {
		w.history[r] = append(w.history[r], f.at)
	}
	if !f.late {
		w.log.SetVersions(f.first, f.last, lineage.MakeVersion(f.index, f.at.Number))
	}
}

// end writes the data and ends the write.
func (w *world) end(f *flight) error {
	for r := f.first; r <= f.last; r++ {
		if _, err := w.data.WriteAt(pattern(f.at, r), r*worldRegion); err != nil {
			return err
		}
	}
	if f.late {
		w.log.SetVersions(f.first, f.last, lineage.MakeVersion(f.index, f.at.Number))
	}
	w.flights = slices.DeleteFunc(w.flights, func(g *flight) bool { return g == f })
	return nil
}

// pattern is the content that a write gives a region.
func pattern(at lineage.Position, region int64) []byte {
	b := make([]byte, worldRegion)
	x := binary.LittleEndian.Uint64(at.Gen[8:])*31 + at.Number*0x9e3779b97f4a7c15 + uint64(region)*0xbf58476d1ce4e5b9
	binary.LittleEndian.PutUint64(b, x|1)
	for n := 8; n < len(b); n *= 2 {
		copy(b[n:], b[:n])
	}
	return b
}

// live runs one life: open or create, check what is there, then steps until the planned crash or the end of the script.
func (w *world) live(steps int, plan crashPlan, script uint64, power bool) error {
	w.lives++
	w.crash, w.calls, w.dead, w.failed = plan, 0, false, false
	w.rng = rand.New(rand.NewPCG(script, uint64(w.lives)))
	w.flights = nil
	w.mem.Inject(w.hook)
	err := w.start()
	for i := 0; i < steps && err == nil && w.err == nil; i++ {
		err = w.step()
	}
	if w.err != nil {
		return w.err
	}
	if err != nil && !errors.Is(err, vfs.ErrCrashed) && !(w.failed && errors.Is(err, syscall.EIO)) {
		return fmt.Errorf("life %d: %w", w.lives, err)
	}
	before := w.log
	flights := w.flights
	if power {
		w.mem.CrashPower()
	} else {
		w.mem.CrashProcess()
	}
	if w.log = nil; before != nil {
		return w.verify(before, flights)
	}
	return nil
}

func (w *world) options() Options { return Options{Random: w.random, leftOut: w.left} }

func (w *world) start() (err error) {
	w.log, w.busy = nil, false
	if w.data, err = w.mem.Open("/data", vfs.Create); err != nil {
		return err
	}
	if err := w.makeData(); err != nil {
		return err
	}
	l, err := Open(w.mem, "/log", w.options())
	if errors.Is(err, fs.ErrNotExist) && !w.created {
		h := testHeader(1)
		h.SizeBytes, h.RegionBytes, h.ExtentBytes = worldRegions*worldRegion, worldRegion, worldExtent
		h.Extra = w.counter(0)
		l, err = Create(w.mem, "/log", h, lineage.ZeroVersion, w.options())
	}
	if err != nil {
		return err
	}
	w.created = true
	w.log = l
	if err := forgetHot(l, w.data); err != nil {
		return err
	}
	return w.begin()
}

// makeData makes the content durable, once.
func (w *world) makeData() error {
	if w.made {
		return nil
	}
	for _, size := range []int64{0, worldRegions * worldRegion} {
		if err := w.data.Truncate(size); err != nil {
			return err
		}
	}
	if err := w.data.Datasync(); err != nil {
		return err
	}
	err := w.mem.SyncDir("/")
	w.made = err == nil
	return err
}

// forgetHot does what whoever has the data does after a stop that was not clean.
func forgetHot(l *Log, data vfs.File) error {
	for _, e := range l.HotExtents() {
		if err := data.Forget(e*worldExtent, worldExtent); err != nil {
			return err
		}
	}
	return nil
}

// begin starts a generation, as a source does.
func (w *world) begin() error {
	if err := w.log.ClearClean(); err != nil {
		return err
	}
	w.markTried, w.forgetTried = false, false
	w.number = max(w.number, w.log.Reserved()) + 1
	binary.LittleEndian.PutUint64(w.gen[8:], w.number)
	if err := w.reserve(w.number + 1); err != nil {
		return err
	}
	var err error
	if w.index, err = w.log.GenIndex(w.gen); err != nil {
		return err
	}
	if err := w.save(); err != nil {
		return err
	}
	if w.rng.IntN(2) == 0 {
		return w.adopt()
	}
	return nil
}

// adopt gives what is unknown the generation's adoption number (rule 8).
func (w *world) adopt() error {
	if err := w.log.MarkHot(w.log.UnknownExtents()); err != nil {
		return err
	}
	w.number++
	at := lineage.Position{Gen: w.gen, Number: w.number}
	w.adopted[at] = map[int64][]byte{}
	for r := range w.log.Regions() {
		if w.log.Version(r) == lineage.Unknown {
			b := make([]byte, worldRegion)
			if _, err := w.data.ReadAt(b, r*worldRegion); err != nil {
				return err
			}
			w.adopted[at][r] = b
		}
	}
	w.log.AdoptUnknown(lineage.MakeVersion(w.index, at.Number))
	return nil
}

func (w *world) step() error {
	switch n := w.rng.IntN(100); {
	case n < 40:
		return w.beginWrite()
	case n < 68:
		if len(w.flights) > 0 {
			return w.end(w.flights[w.rng.IntN(len(w.flights))])
		}
		return nil
	case n < 76:
		return w.flush()
	case n < 80:
		return w.save()
	case n < 92:
		return w.checkpoint(w.rng.IntN(3) > 0)
	case n < 95:
		return w.reserve(w.number + w.rng.Uint64N(50))
	case n < 98:
		return w.restart()
	case n < 99:
		w.forgetTried = true
		return w.log.ForgetAll()
	}
	return w.adopt()
}

func (w *world) beginWrite() error {
	first := w.rng.Int64N(worldRegions)
	if w.rng.IntN(2) == 0 {
		first = w.rng.Int64N(40) // some extents are busy
	}
	last := min(worldRegions-1, first+w.rng.Int64N(7))
	if w.overlaps(first, last) {
		return nil
	}
	if w.number+1 > w.log.Reserved() {
		if err := w.reserve(w.number + 20); err != nil {
			return err
		}
	}
	f := w.register(first, last)
	if !w.log.Hot(first/4, last/4) {
		var extents []int64
		for e := first / 4; e <= last/4; e++ {
			extents = append(extents, e)
		}
		if err := w.log.MarkHot(extents); err != nil {
			w.flights = slices.DeleteFunc(w.flights, func(g *flight) bool { return g == f })
			return err
		}
	}
	w.issue(f)
	return nil
}

// held is the number up to which every write has ended.
func (w *world) held() lineage.Position {
	p := lineage.Position{Gen: w.gen, Number: w.number}
	for _, f := range w.flights {
		p.Number = min(p.Number, f.at.Number-1)
	}
	return p
}

func (w *world) flush() error {
	p := w.held()
	if err := w.data.Datasync(); err != nil {
		return err
	}
	err := w.log.SetFloor(p)
	if err == nil && p.Number > w.floor.Number {
		w.floor = p
	}
	return err
}

func (w *world) reserve(n uint64) error {
	err := w.log.Reserve(n)
	if err == nil {
		w.reserved = max(w.reserved, n)
	}
	return err
}

func (w *world) save() error {
	w.savedTried = max(w.savedTried, w.saved) + 1
	err := w.log.Save(func(h *Header) {
		h.Extra = w.counter(w.savedTried)
		h.Promised.N = w.savedTried
		if h.History.Find(w.gen) < 0 {
			h.History = append(h.History, lineage.Generation{ID: w.gen})
		}
	})
	if err == nil {
		w.saved = w.savedTried
	}
	return err
}

func (w *world) checkpoint(all bool) error {
	w.busy = true
	defer func() { w.busy = false }()
	var p lineage.Position
	var failed error
	err := w.log.Checkpoint(CheckpointOptions{CoolAll: all,
		Position: func() lineage.Position {
			p = lineage.Position{Gen: w.gen, Number: w.number} // all that began
			return p
		},
		Drain: func() {
			for _, f := range slices.Clone(w.flights) {
				if err := w.end(f); err != nil {
					failed = err
				}
			}
			w.writeHot()
		},
		SyncData: func() error {
			if failed != nil {
				return failed
			}
			return w.data.Datasync()
		}})
	if err == nil && p.Number > w.floor.Number {
		w.floor = p
	}
	return err
}

// restart stops cleanly and opens again.
func (w *world) restart() error {
	for _, f := range slices.Clone(w.flights) {
		if err := w.end(f); err != nil {
			return err
		}
	}
	if err := w.log.Checkpoint(CheckpointOptions{CoolAll: true, SyncData: w.data.Datasync,
		Position: func() lineage.Position { return w.held() }}); err != nil {
		return err
	}
	id := vfs.Identity{Kind: vfs.KindFile, Size: int64(w.number)}
	w.markTried, w.unknownAtMark = true, w.log.UnknownRegions()
	if err := w.log.MarkClean(id); err != nil {
		return err
	}
	l := w.log
	if err := l.Close(); err != nil {
		return err
	}
	again, err := Open(w.mem, "/log", w.options())
	if err != nil {
		return err
	}
	w.log = again
	if got, ok := again.WasClean(); !ok || got != id || again.UnknownRegions() != w.unknownAtMark {
		w.err = fmt.Errorf("life %d: after a clean stop: clean %v, %v; %d regions unknown, %d before", w.lives, ok, got, again.UnknownRegions(), w.unknownAtMark)
		return nil
	}
	return w.begin()
}

func (w *world) counter(n uint64) map[string]rawJSON {
	text := rawJSON(fmt.Sprint(n))
	return map[string]rawJSON{"x": text, "y": text}
}
