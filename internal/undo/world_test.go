package undo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"syscall"
	"testing"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

const (
	worldRegions = 24
	worldRegion  = 1024 // two sectors of data in each image: a save can be torn inside of it
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// imageOf is a region as it was at a certain stage of its life.
func imageOf(region int64, stage int) Image {
	i := Image{Region: region, Gen: lineage.GenID{byte(stage), byte(region), 7}, Number: uint64(stage)*100 + uint64(region)}
	switch x := stage*7 + int(region); {
	case x%5 == 0:
		i.Zero = true
	case x%3 == 0:
		i.Unknown, i.Gen, i.Number = true, lineage.GenID{}, 0
	}
	if !i.Zero {
		i.Data = make([]byte, worldRegion)
		for k := 0; k < len(i.Data); k += 8 {
			binary.LittleEndian.PutUint64(i.Data[k:], uint64(stage)<<32|uint64(region)<<16|uint64(k)|1)
		}
		if stage%4 == 3 { // a sector that is all zero is not torn
			clear(i.Data[sectorBytes:])
		}
	}
	return i
}

func same(a, b Image) bool {
	return a.Region == b.Region && a.Gen == b.Gen && a.Number == b.Number && a.Unknown == b.Unknown && a.Zero == b.Zero && bytes.Equal(a.Data, b.Data)
}

func (i Image) clone() Image {
	i.Data = slices.Clone(i.Data)
	return i
}

func anchorID(n int) string { return fmt.Sprintf("%032x", n+1) }

// crasher is what both worlds have: a Mem that crashes at a planned call.
type crasher struct {
	mem      *vfs.Mem
	rng      *rand.Rand
	left     protection
	plan     crashPlan
	calls    int
	dead     bool
	failed   bool // a sync has
	failedAt int  // the newest call of that kind
	quiet    bool // comparing: these calls are not the script's
	lives    int
	wrong    error // a promise that was broken
}

// crashPlan is where a life ends.
type crashPlan struct {
	call int  // number of the I/O call; 0: at the end of the script
	torn bool // that call is carried out in part
	eio  bool // instead of a crash there, the first sync from it on fails, and the life ends when somebody says so; with torn at once
}

func (w *crasher) hook(op, path string, off int64, n int) error {
	if w.dead {
		return vfs.ErrCrashed
	}
	if w.quiet {
		return nil
	}
	w.calls++
	if w.plan.eio {
		if op != "sync" || w.failed || w.calls < w.plan.call {
			return nil
		}
		w.failed, w.failedAt, w.dead = true, w.calls, w.plan.torn
		return syscall.EIO
	}
	if w.plan.call > 0 && w.calls >= w.plan.call {
		w.dead = true
		if w.plan.torn {
			return fmt.Errorf("%w: %w", vfs.ErrTorn, vfs.ErrCrashed)
		}
		return vfs.ErrCrashed
	}
	return nil
}

func (w *crasher) begin(plan crashPlan, script uint64) {
	w.lives++
	w.plan, w.calls, w.dead, w.failed = plan, 0, false, false
	w.rng = rand.New(rand.NewPCG(script, uint64(w.lives)))
	w.mem.Inject(w.hook)
}

func (w *crasher) end(err error, power bool) error {
	if w.wrong == nil && err != nil && !errors.Is(err, vfs.ErrCrashed) && !(w.failed && errors.Is(err, syscall.EIO)) {
		w.wrong = err
	}
	if power {
		w.mem.CrashPower()
	} else {
		w.mem.CrashProcess()
	}
	if w.wrong != nil {
		return fmt.Errorf("life %d: %w", w.lives, w.wrong)
	}
	return nil
}

func (w *crasher) broken(why string, args ...any) error {
	w.wrong = fmt.Errorf(why, args...)
	return w.wrong
}

// logWorld uses a log as a target does, and notes what it was promised.
type logWorld struct {
	crasher
	log     *Log
	anchors int

	anchor  string            // promised; "": none
	rolling bool              // promised
	kept    []Image           // promised, in order
	stage   [worldRegions]int // of each region's content

	// What was under way when the life ended; each may have happened.
	beginTried string
	dropTried  bool
	rollTried  bool
	saveTried  []Image
}

// live runs one life: open, compare with what was promised, then random steps.
func (w *logWorld) live(steps int, plan crashPlan, script uint64, power bool) error {
	w.begin(plan, script)
	err := w.open()
	for i := 0; i < steps && err == nil && w.wrong == nil; i++ {
		err = w.step()
	}
	return w.end(err, power)
}

func (w *logWorld) open() (err error) {
	if w.log, err = Open(w.mem, "/undo", Options{RegionBytes: worldRegion, leftOut: w.left}); err != nil {
		return err
	}
	w.quiet = true
	defer func() { w.quiet = false }()
	return w.check()
}

// check compares the log just opened with what was promised; what it shows is a promise from now on.
func (w *logWorld) check() error {
	got, rolling := "", w.log.Rolling()
	if a := w.log.Anchor(); a != nil {
		got = a.ID
		if want := anchorOf(got); !reflect.DeepEqual(*a, want) {
			return w.broken("the anchor is %+v, not %+v", *a, want)
		}
	}
	switch {
	case got == w.beginTried && got != "":
		w.anchor, w.rolling, w.kept, w.saveTried = got, false, nil, nil
	case got == "" && w.dropTried:
		w.anchor, w.rolling, w.kept, w.saveTried = "", false, nil, nil
	case got != w.anchor:
		return w.broken("the anchor is %q, not %q", got, w.anchor)
	}
	if rolling != w.rolling && !(rolling && w.rollTried) {
		return w.broken("rolling is %v, not %v", rolling, w.rolling)
	}
	w.rolling = rolling
	if err := w.checkImages(); err != nil {
		return err
	}
	w.beginTried, w.dropTried, w.rollTried, w.saveTried = "", false, false, nil
	return nil
}

func (w *logWorld) checkImages() error {
	var got []Image
	if w.anchor != "" {
		if err := w.log.Each(func(i Image) error { got = append(got, i.clone()); return nil }); err != nil {
			return err
		}
	}
	possible := append(slices.Clone(w.kept), w.saveTried...)
	if len(got) < len(w.kept) || len(got) > len(possible) {
		return w.broken("there are %d images under %q: %d were saved, %d perhaps", len(got), w.anchor, len(w.kept), len(w.saveTried))
	}
	for k, i := range got {
		if !same(i, possible[k]) {
			return w.broken("image %d of %q is of region %d, number %d; not region %d, number %d", k, w.anchor, i.Region, i.Number, possible[k].Region, possible[k].Number)
		}
	}
	has := map[int64]bool{}
	for _, i := range got {
		has[i.Region] = true
	}
	for r := range int64(worldRegions) {
		if w.log.Has(r) != has[r] {
			return w.broken("Has(%d) is %v", r, w.log.Has(r))
		}
	}
	if w.log.Regions() != int64(len(got)) {
		return w.broken("Regions is %d, not %d", w.log.Regions(), len(got))
	}
	w.kept = got
	return nil
}

func anchorOf(id string) Anchor {
	n := uint64(id[31])
	return Anchor{ID: id, Reason: "resync from b", Time: time.Unix(int64(n), 0).UTC(),
		History:  lineage.History{{ID: lineage.GenID{byte(n)}, Term: lineage.Term{N: n, Node: "a"}, Began: n}},
		Position: lineage.Position{Gen: lineage.GenID{byte(n)}, Number: n * 3},
		Record:   lineage.Record{Members: []string{"a", "b"}, Since: n}}
}

func (w *logWorld) step() error {
	switch n := w.rng.IntN(20); {
	case n < 11:
		return w.save()
	case n < 15:
		if w.rolling {
			return w.drop()
		}
		return w.beginAnchor()
	case n < 16:
		return w.roll()
	case n < 18:
		return w.drop()
	}
	if err := w.log.Close(); err != nil {
		return err
	}
	return w.open()
}

func (w *logWorld) beginAnchor() error {
	w.anchors++
	id := anchorID(w.anchors)
	w.beginTried = id
	if err := w.log.Begin(anchorOf(id)); err != nil {
		return err
	}
	w.anchor, w.rolling, w.kept, w.beginTried = id, false, nil, ""
	for r := range w.stage { // between two resyncs everything changes
		w.stage[r]++
	}
	return nil
}

func (w *logWorld) save() error {
	if w.anchor == "" || w.rolling {
		return nil
	}
	var batch []Image
	for _, r := range w.rng.Perm(worldRegions)[:1+w.rng.IntN(6)] {
		if !w.log.Has(int64(r)) {
			batch = append(batch, imageOf(int64(r), w.stage[r]))
		}
	}
	w.saveTried = batch
	if err := w.log.Save(batch); err != nil {
		return err
	}
	w.kept, w.saveTried = append(w.kept, batch...), nil
	for _, i := range batch { // now it may be overwritten
		w.stage[i.Region]++
	}
	return nil
}

func (w *logWorld) roll() error {
	if w.anchor == "" {
		return nil
	}
	w.rollTried = true
	if err := w.log.BeginRollback(); err != nil {
		return err
	}
	w.rolling, w.rollTried = true, false
	return nil
}

func (w *logWorld) drop() error {
	w.dropTried = true
	if err := w.log.Drop(); err != nil {
		return err
	}
	w.anchor, w.rolling, w.kept, w.dropTried = "", false, nil, false
	return nil
}

// storeWorld keeps and deletes salvages.
type storeWorld struct {
	crasher
	store *Store
	next  int

	kept        map[string][]Image // promised
	keepTried   map[string][]Image
	deleteTried string
}

func (w *storeWorld) live(steps int, plan crashPlan, script uint64, power bool) error {
	w.begin(plan, script)
	err := w.open()
	for i := 0; i < steps && err == nil && w.wrong == nil; i++ {
		err = w.step()
	}
	return w.end(err, power)
}

func (w *storeWorld) open() (err error) {
	if w.store, err = OpenStore(w.mem, "/salvage", StoreOptions{leftOut: w.left}); err != nil {
		return err
	}
	w.quiet = true
	defer func() { w.quiet = false }()
	return w.check()
}

func (w *storeWorld) check() error {
	there := map[string]bool{}
	for _, s := range w.store.List() {
		want, ok := w.kept[s.ID]
		if !ok {
			want, ok = w.keepTried[s.ID]
		}
		if !ok {
			return w.broken("salvage %s is there: %s", s.ID, s.Damaged)
		}
		if err := w.compare(s, want); err != nil {
			return err
		}
		there[s.ID] = true
		w.kept[s.ID] = want
	}
	for id := range w.kept {
		if !there[id] {
			if id != w.deleteTried {
				return w.broken("salvage %s is gone", id)
			}
			delete(w.kept, id)
		}
	}
	clear(w.keepTried)
	w.deleteTried = ""
	return nil
}

func (w *storeWorld) compare(s Salvage, want []Image) error {
	v, err := w.store.Open(s.ID)
	if err != nil {
		return err
	}
	defer v.Close()
	if s.Regions != int64(len(want)) || s.Node != "a" {
		return w.broken("salvage %s: %+v", s.ID, s)
	}
	for _, i := range want {
		data := make([]byte, worldRegion)
		if _, err := v.ReadAt(data, i.Region*worldRegion); err != nil {
			return err
		}
		if i.Zero != allZero(data) || !i.Zero && !bytes.Equal(data, i.Data) {
			return w.broken("salvage %s: region %d is not what was kept", s.ID, i.Region)
		}
	}
	return nil
}

func (w *storeWorld) step() error {
	switch n := w.rng.IntN(10); {
	case n < 5:
		return w.keep(false)
	case n < 6:
		return w.keep(true)
	case n < 8:
		return w.drop()
	}
	if err := w.store.Close(); err != nil {
		return err
	}
	return w.open()
}

// drop deletes the oldest salvage.
func (w *storeWorld) drop() error {
	if len(w.kept) == 0 {
		return nil
	}
	id := slices.Min(slices.Collect(maps.Keys(w.kept)))
	w.deleteTried = id
	if err := w.store.Delete(id); err != nil {
		return err
	}
	delete(w.kept, id)
	w.deleteTried = ""
	return nil
}

var errGivenUp = errors.New("given up")

func (w *storeWorld) keep(giveUp bool) error {
	w.next++
	id := anchorID(w.next)
	var images []Image
	for _, r := range w.rng.Perm(worldRegions)[:1+w.rng.IntN(6)] {
		images = append(images, imageOf(int64(r), w.next))
	}
	if !giveUp {
		w.keepTried[id] = images
	}
	got, err := w.store.Keep(salvageOf(id), func(yield func(Image) error) error {
		for _, i := range images {
			if err := yield(i); err != nil {
				return err
			}
		}
		if giveUp {
			return errGivenUp
		}
		return nil
	})
	if giveUp && errors.Is(err, errGivenUp) {
		return nil
	}
	if err != nil {
		return err
	}
	if got.ID != id || giveUp {
		return w.broken("kept as %q", got.ID)
	}
	w.kept[id] = images
	delete(w.keepTried, id)
	return nil
}

func salvageOf(id string) Salvage {
	return Salvage{ID: id, Volume: "data", Node: "a", Reason: "it came back", From: "3@a, number 17", Time: time.Unix(1000, 0).UTC(),
		RegionBytes: worldRegion, SizeBytes: worldRegions * worldRegion, Position: lineage.Position{Number: 17}}
}
