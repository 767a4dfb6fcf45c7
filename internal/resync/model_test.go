package resync_test

import (
	"flag"
	"fmt"
	"math/rand/v2"

	"keelson/internal/lineage"
	"keelson/internal/resync"
)

// Equal version, equal content: two replicas can differ only in regions whose versions differ, or are unknown on one of
// them. Here over random histories of writes, resyncs that stop half-way, checkpoints, crashes that tear what was not durable,
// and take-overs while another source still runs. A region has two blocks, so that it can be half new.

var seeds = flag.Int("seeds", 0, "how many random histories (0: 20000, with the race detector 1500)")

const (
	regions      = 5
	historySteps = 250
)

// block contents are the numbers of the writes that made them; 0 is zero.
type content [2]int

// replica is one copy. Everything but hot's contents is what it says; a crash leaves what was durable.
type replica struct {
	data     [regions]content
	version  [regions]lineage.Version
	history  lineage.History
	position uint64
	durable  struct { // of the last checkpoint, or of the last saved header
		version  [regions]lineage.Version
		history  lineage.History
		position uint64
	}
	hot          map[int64][]content // region -> contents that it may have after a crash
	up, isSource bool
	inResync     bool
}

// stream is one session, FIFO.
type stream struct {
	s, t    *replica
	frames  []frame
	ahead   *resync.Set // regions the cursor has not reached
	hash    *resync.Set // those of them whose content is hashed first
	asked   bool        // a probe is on its way
	ended   bool
	kind    resync.Kind
	sent    int
	skipped int
}

type frame struct {
	kind    string // write | copy | probe | end
	region  int64
	block   int
	value   int
	content content
	version lineage.Version
	history lineage.History
	number  uint64
}

type world struct {
	rng      *rand.Rand
	omit     string
	replicas []*replica
	streams  []*stream
	gens     uint16                   // index of the newest generation; one table for all, so versions compare directly
	began    map[uint16]uint64        // by index
	index    map[lineage.GenID]uint16 // by id
	writes   int
	kinds    map[resync.Kind]int
	broken   string
}

func newWorld(seed uint64, omit string) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 3)), omit: omit, gens: 1, began: map[uint16]uint64{}, index: map[lineage.GenID]uint16{}, kinds: map[resync.Kind]int{}}
	foreign := w.rng.IntN(4) == 0 // a target's disk holds something else
	for i := range 3 {
		r := &replica{up: true, hot: map[int64][]content{}}
		for region := range r.version {
			r.version[region] = lineage.ZeroVersion
			if foreign && i > 0 {
				r.version[region], r.data[region] = lineage.Unknown, content{-i, -i}
			}
		}
		r.checkpoint()
		w.replicas = append(w.replicas, r)
	}
	w.becomeSource(w.replicas[0])
	return w
}

func (w *world) fail(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
	}
}

// checkpoint: data durable, then map, position and history, then all cool.
func (r *replica) checkpoint() {
	r.durable.version = r.version
	r.saveHeader()
	clear(r.hot)
}

func (r *replica) saveHeader() {
	r.durable.history, r.durable.position = r.history, r.position
}

// heat notes, durably, that the region is about to change.
func (r *replica) heat(region int64) {
	if r.hot[region] == nil {
		r.hot[region] = []content{r.data[region]}
	}
}

func (r *replica) put(region int64, c content, v lineage.Version) {
	r.heat(region)
	r.hot[region] = append(r.hot[region], c)
	r.data[region], r.version[region] = c, v
}

func (w *world) crash(r *replica) {
	for region := range int64(regions) { // each block as before, as after, or in between; in order, so that a seed is a history
		seen := r.hot[region]
		if seen == nil {
			continue
		}
		r.data[region] = content{seen[w.rng.IntN(len(seen))][0], seen[w.rng.IntN(len(seen))][1]}
	}
	r.version, r.history, r.position = r.durable.version, r.durable.history, r.durable.position
	for region := range r.hot {
		if w.omit != "hot" {
			r.version[region] = lineage.Unknown
		}
		r.hot[region] = []content{r.data[region]}
	}
	r.up, r.isSource = false, false
	w.hangup(r)
}

func (w *world) hangup(r *replica) {
	rest := w.streams[:0]
	for _, x := range w.streams {
		if x.s != r && x.t != r {
			rest = append(rest, x)
		}
	}
	w.streams = rest
}

// becomeSource begins a generation, durably. What is unknown gets its adoption number, which no write ever gets, and stays hot.
func (w *world) becomeSource(r *replica) {
	w.hangup(r)
	r.isSource, r.inResync = true, false
	if w.omit == "number" && len(r.history) > 0 {
		return // goes on in the old generation
	}
	w.gens++
	g := lineage.Generation{ID: lineage.GenID{byte(w.gens >> 8), byte(w.gens)}, Began: r.position}
	w.began[w.gens], w.index[g.ID] = r.position, w.gens
	r.history = append(r.history[:len(r.history):len(r.history)], g)
	for region := range int64(regions) {
		if r.version[region] != lineage.Unknown {
			continue
		}
		if w.omit != "adopt-hot" {
			r.heat(region)
		} else {
			delete(r.hot, region)
		}
		r.version[region] = lineage.MakeVersion(w.gens, g.Began+1)
	}
	if w.omit != "adopt-number" {
		r.position = g.Began + 1
	}
	r.saveHeader()
}

func (w *world) adopted(v lineage.Version) bool {
	return v.Index() > 1 && v.Number() == w.began[v.Index()]+1
}

func (w *world) write(s *replica) {
	w.writes++
	region, block := w.rng.Int64N(regions), w.rng.IntN(2)
	c := s.data[region]
	c[block] = w.writes
	s.position++
	v := lineage.MakeVersion(w.index[s.history.Last().ID], s.position)
	s.put(region, c, v)
	for _, x := range w.streams {
		if x.s == s && (w.omit == "cursor" || !x.ahead.Has(region)) {
			x.frames = append(x.frames, frame{kind: "write", region: region, block: block, value: w.writes, version: v})
		}
	}
}

func (w *world) connect(s, t *replica) {
	w.compare()
	t.isSource, t.inResync = false, true // the position stays where it is until the end
	x := &stream{s: s, t: t, ahead: resync.NewSet(regions), hash: resync.NewSet(regions)}
	common := false
	for _, g := range s.history {
		common = common || t.history.Find(g.ID) >= 0
	}
	for region := range int64(regions) {
		mine, theirs := s.version[region], t.version[region]
		if mine != lineage.Unknown && mine == theirs {
			continue
		}
		x.ahead.Add(region)
		if theirs != lineage.ZeroVersion && (mine == lineage.Unknown || theirs == lineage.Unknown || !common || w.adopted(mine)) {
			x.hash.Add(region)
		}
	}
	x.kind, _ = resync.Decide(resync.Facts{Common: common, Differ: x.ahead.Len(), OnlyZeroes: x.hash.Len() == 0})
	w.kinds[x.kind]++
	w.streams = append(w.streams, x)
}

// copyNext moves the cursor.
func (w *world) copyNext(x *stream) {
	region, ok := x.ahead.Next(0)
	switch {
	case x.asked || x.ended:
	case !ok:
		x.ended = true
		x.frames = append(x.frames, frame{kind: "end", history: x.s.history, number: x.s.position})
	case x.hash.Has(region):
		x.hash.Remove(region)
		x.asked = true
		x.frames = append(x.frames, frame{kind: "probe", region: region, content: x.s.data[region], version: x.s.version[region]})
	default:
		x.ahead.Remove(region)
		x.sent++
		x.frames = append(x.frames, frame{kind: "copy", region: region, content: x.s.data[region], version: x.s.version[region]})
	}
}

func (w *world) deliver(x *stream) {
	if len(x.frames) == 0 {
		return
	}
	f, t := x.frames[0], x.t
	x.frames = x.frames[1:]
	switch f.kind {
	case "end":
		t.checkpoint()
		t.history, t.position, t.inResync = f.history, f.number, false
		t.checkpoint()
	case "probe":
		same := f.content == t.data[f.region] || w.omit == "hash"
		if same {
			t.put(f.region, t.data[f.region], f.version)
		}
		if x.asked = false; same && x.s.version[f.region] == f.version {
			x.ahead.Remove(f.region)
			x.skipped++
		}
	case "copy":
		t.put(f.region, f.content, f.version)
	case "write":
		c := t.data[f.region]
		c[f.block] = f.value
		t.put(f.region, c, f.version)
		if !t.inResync {
			t.position = f.version.Number()
		}
	}
}

// finish lets the resync end: the two volumes are equal then.
func (w *world) finish(x *stream) {
	for !x.ended || len(x.frames) > 0 {
		w.copyNext(x)
		w.deliver(x)
	}
	if x.s.data != x.t.data {
		w.fail("after a resync: %v and %v", x.s.data, x.t.data)
	}
}

// compare is the claim.
func (w *world) compare() {
	for i, a := range w.replicas {
		for _, b := range w.replicas[i+1:] {
			for r := range a.version {
				if a.version[r] != lineage.Unknown && a.version[r] == b.version[r] && a.data[r] != b.data[r] {
					w.fail("region %d: version %d.%d, contents %v and %v", r, a.version[r].Index(), a.version[r].Number(), a.data[r], b.data[r])
				}
			}
		}
	}
}
