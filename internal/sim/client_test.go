package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/vfs"
	"keelson/internal/volume"
)

// Sizes of the volume, and where clients write: around the edges of some regions and extents, so that histories meet.
const (
	volumeName  = "data"
	volumeBytes = 6 << 20
	regionBytes = 64 << 10
	sector      = vfs.SectorBytes
)

// spots are the sectors that clients write: four on each side of some regions' edges.
var spots = func() (list []int64) {
	for _, region := range []int64{1, 2, 3, 16, 17, 32, 47, 64, 95} {
		edge := region * regionBytes / sector
		for s := edge - 4; s < edge+4; s++ {
			list = append(list, s)
		}
	}
	return list
}()

// spotAt is the index of each of them in spots.
var spotAt = func() map[int64]int {
	index := map[int64]int{}
	for i, at := range spots {
		index[at] = i
	}
	return index
}()

// tenure is a time in which a server serves, as clients see it.
type tenure struct {
	p       *process
	v       *volume.Volume
	term    lineage.Term
	base    map[int64]int  // by sector: what was there when it began
	last    map[int64]int  // by sector: the newest write that was answered in it
	busy    map[int64]bool // sectors of requests under way
	flying  int            // requests under way
	writes  []*write
	flushed []*write             // of them, those that a flush made safe, in that order
	below   []*write             // what was safe before it began
	epoch   lineage.Epoch        // of the record that checkMembers saw
	older   map[string]time.Time // since when somebody whose promise is older is seen to have a session
	over    bool
	via     *process // the target that it is served from, since the source's disk failed
	spoiled bool     // a write failed: what it left cannot be told from its number
}

// write is something that a client wrote. Its id is in every sector of it.
type write struct {
	id       int
	zero     bool
	fua      bool
	sectors  []int64
	parents  map[int64]int // what was in each sector before
	r        *block.Request
	t        *tenure
	answered bool
	safe     bool     // a flush that covers it was answered
	waived   bool     // an administrator took over although it was at risk
	members  []string // of the source's record when it was answered: the copies that have it
	when     time.Time
	after    int // how many of the tenure's flushed were so when it was submitted
}

// fill makes the content of a sector.
func fill(p []byte, id int, at int64) {
	for i := 0; i < sector; i += 16 {
		binary.LittleEndian.PutUint64(p[i:], uint64(id))
		binary.LittleEndian.PutUint64(p[i+8:], uint64(at)^uint64(i)<<40)
	}
}

// contentOf says which write a sector holds: 0 is zeroes.
func contentOf(p []byte, at int64) (int, error) {
	id := int(binary.LittleEndian.Uint64(p))
	if id == 0 {
		if slices.ContainsFunc(p, func(b byte) bool { return b != 0 }) {
			return 0, fmt.Errorf("sector %d holds neither zeroes nor a write", at)
		}
		return 0, nil
	}
	if tail := sector - 16; binary.LittleEndian.Uint64(p[8:]) != uint64(at) || int(binary.LittleEndian.Uint64(p[tail:])) != id ||
		binary.LittleEndian.Uint64(p[tail+8:]) != uint64(at)^uint64(tail)<<40 { // a sector is written whole or not at all
		return 0, fmt.Errorf("sector %d holds garbage (of write %d?)", at, id)
	}
	return id, nil
}

// ask is one request under way.
type ask struct {
	w       *world
	t       *tenure
	wr      *write   // of a write
	covers  []*write // of a flush: what was answered before
	sectors []int64
	expect  map[int64]int // of a read
	began   time.Time
}

// Flush implements block.Completer.
func (a *ask) Flush() {}

// Complete judges the answer at the moment at which the application would get it.
func (a *ask) Complete(r *block.Request) {
	w := a.w
	w.mu.Lock()
	defer w.mu.Unlock()
	defer r.Buf.Release()
	a.t.flying--
	for _, s := range a.sectors {
		delete(a.t.busy, s)
	}
	if a.t.p.isDead() {
		return
	}
	if r.Err != nil {
		w.tally("requests refused")
		if a.wr != nil && !errors.Is(r.Err, block.ErrShutdown) {
			a.t.spoiled = true
		}
		return
	}
	w.tally("answers")
	if late := time.Since(a.began); late > answerMax {
		w.failLocked("G7", "a request of %s at %s was answered after %s", r.Op, a.t.p.s.name, late)
	}
	switch {
	case a.wr != nil:
		a.wr.answered = true
		for _, s := range a.wr.sectors {
			a.t.last[s] = a.wr.id
		}
		w.judgeAnswer(a.t, a.wr)
		w.judgeServed(a)
		if a.wr.fua {
			w.judgeSafe(a.t, a.wr)
		}
	case r.Op == block.Flush:
		flushed := lineage.Position{Gen: a.t.v.Header().History.Last().ID}
		for _, wr := range a.covers {
			flushed.Number = max(flushed.Number, wr.r.Number)
			w.judgeSafe(a.t, wr)
			a.t.flushed = append(a.t.flushed, wr)
		}
		if len(a.covers) > 0 && !a.t.p.s.hasFailed() { // else the number may be none of a write, or it was made durable elsewhere
			a.t.p.s.flushed = flushed
		}
	default:
		w.judgeRead(a, r.Buf.Bytes)
		w.judgeServed(a)
	}
}

// answerMax is how long any request may take: all limits together.
const answerMax = 60 * time.Second

// request submits one random request at the tenure's server.
func (w *world) request(t *tenure) {
	dice := w.rng.IntN(100)
	switch {
	case dice < 18:
		w.flush(t)
	case dice < 30:
		w.read(t)
	default:
		w.write(t, dice)
	}
}

func (w *world) submit(t *tenure, r *block.Request) {
	w.tally("requests")
	t.flying++
	go t.v.Submit([]*block.Request{r})
}

func (w *world) flush(t *tenure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := &ask{w: w, t: t, began: time.Now()}
	for _, wr := range t.writes {
		if wr.answered && !wr.safe {
			a.covers = append(a.covers, wr)
		}
	}
	w.story("%s client: flush of %d writes", t.p.s.name, len(a.covers))
	w.submit(t, &block.Request{Op: block.Flush, By: a})
}

// place chooses sectors that nothing under way touches.
func (w *world) place(t *tenure) (first, n int64, ok bool) {
	among := spots
	if w.among != nil {
		among = w.among
	}
	first = among[w.rng.IntN(len(among))]
	n = 1 + w.rng.Int64N(4)
	dice := w.rng.IntN(16)
	if w.among != nil {
		dice, n = 2, 1
	}
	switch dice {
	case 0: // far beyond the spots
		n = 1 + w.rng.Int64N(300)
	case 1: // anywhere
		first = w.rng.Int64N(volumeBytes / sector)
	}
	n = min(n, volumeBytes/sector-first)
	for s := first; s < first+n; s++ {
		if t.busy[s] {
			return 0, 0, false
		}
	}
	return first, n, true
}

func (w *world) write(t *tenure, dice int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first, n, ok := w.place(t)
	holder := t.p.s
	if t.v.Failed() != nil {
		if holder = holder.via(); holder != nil && holder.proc != t.via { // the source has not noticed yet that this life of it is over
			if t.via != nil && t.via.s == holder || holder.up() == nil {
				return
			}
			t.via = holder.proc
		}
	}
	if !ok || holder == nil || holder.up() == nil {
		return
	}
	w.ids++
	wr := &write{id: w.ids, t: t, after: len(t.flushed), parents: map[int64]int{}, fua: w.rng.IntN(8) == 0, zero: dice < 38, when: time.Now()}
	r := &block.Request{Op: block.Write, Off: first * sector, Len: n * sector}
	if wr.fua {
		r.Flags |= block.FUA
	}
	for s := first; s < first+n; s++ {
		id, err := w.below(t, holder, s)
		if err != nil {
			w.failLocked("content", "%s: %v", t.p.s.name, err)
			return
		}
		wr.sectors = append(wr.sectors, s)
		wr.parents[s] = id
		t.busy[s] = true
	}
	switch {
	case wr.zero && w.rng.IntN(2) == 0:
		r.Op = block.Trim
	case wr.zero:
		r.Op = block.Zero
		if w.rng.IntN(2) == 0 {
			r.Flags |= block.NoHole
		}
	default:
		r.Buf = block.NewBuffer(int(r.Len))
		for i, s := range wr.sectors {
			fill(r.Buf.Bytes[i*sector:][:sector], wr.id, s)
		}
	}
	if wr.zero {
		for _, s := range wr.sectors {
			w.zeroes[s] = append(w.zeroes[s], wr)
		}
	}
	w.writes, t.writes, wr.r = append(w.writes, wr), append(t.writes, wr), r
	w.byID[wr.id] = wr
	r.By = &ask{w: w, t: t, wr: wr, sectors: wr.sectors, began: time.Now()}
	w.story("%s client: %s %d of %d sectors at %d%s", t.p.s.name, r.Op, wr.id, n, first, map[bool]string{true: ", FUA"}[wr.fua])
	w.submit(t, r)
}

// below is what the source has in a sector in which nothing is under way. If its disk failed that is what was answered last: nothing
// fails then, and the copy that it serves from may be lost without it knowing yet.
func (w *world) below(t *tenure, holder *server, at int64) (id int, err error) {
	if last, ok := t.last[at]; ok && t.v.Failed() != nil {
		return w.byID[last].content(), nil
	}
	now, _ := holder.mem.Peek(holder.path, at)
	return contentOf(now[:], at)
}

func (w *world) read(t *tenure) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first, n, ok := w.place(t)
	if !ok {
		return
	}
	a := &ask{w: w, t: t, expect: map[int64]int{}, began: time.Now()}
	for s := first; s < first+n; s++ {
		a.sectors = append(a.sectors, s) // nobody writes there meanwhile
		t.busy[s] = true
		a.expect[s] = t.last[s]
	}
	r := &block.Request{Op: block.Read, Off: first * sector, Len: n * sector, Buf: block.NewBuffer(int(n * sector)), By: a}
	w.submit(t, r)
}

// stranger writes at a server that does not serve: it must be refused (guarantee 4).
func (w *world) stranger(s *server) {
	v := s.volume()
	if v == nil || s.shown().Open { // also one that waits for a target to be served from: it keeps what it is given
		return
	}
	buf := block.NewBuffer(sector)
	clear(buf.Bytes)
	refused := &refusal{}
	v.Submit([]*block.Request{{Op: block.Write, Off: spots[w.rng.IntN(len(spots))] * sector, Len: sector, Buf: buf, By: refused}})
	if refused.err == nil && refused.done {
		w.fail("G4", "%s does not serve and took a write", s.name)
	}
	w.tally("writes at targets")
}

type refusal struct {
	done bool
	err  error
}

func (r *refusal) Complete(q *block.Request) {
	r.done, r.err = true, errors.Join(q.Err)
	q.Buf.Release()
}
func (r *refusal) Flush() {}
