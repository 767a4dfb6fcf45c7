package sim

import (
	"fmt"
	"hash/maphash"
	"slices"
	"time"

	"keelson/internal/lineage"
)

// covers reports whether the content of a sector (a write's id, 0: zeroes) is the write v or came to be on top of it. Which
// write made zeroes cannot be seen: any that did will do.
func (w *world) covers(at int64, content, v int) bool {
	zeroesSeen := false
	var look func(content int) bool
	look = func(content int) bool {
		for content != v {
			if content == 0 {
				if zeroesSeen {
					return false
				}
				zeroesSeen = true
				return slices.ContainsFunc(w.zeroes[at], func(z *write) bool { return z.id == v || look(z.parents[at]) })
			}
			wr := w.byID[content]
			if wr == nil {
				return false
			}
			content = wr.parents[at]
		}
		return true
	}
	return v == 0 || look(content)
}

// at is what a server's copy has in a sector: as its system sees it, and surely on the disk.
func (w *world) at(s *server, sectorNo int64) (now, durable int) {
	a, b := s.mem.Peek(s.path, sectorNo)
	now, err := contentOf(a[:], sectorNo)
	if err == nil {
		durable, err = contentOf(b[:], sectorNo)
	}
	if err != nil {
		w.failLocked("content", "%s: %v", s.name, err)
	}
	return now, durable
}

// newestPromise is the newest term that anybody has promised.
func (w *world) newestPromise() (t lineage.Term) {
	for _, s := range w.servers {
		promised := s.promised
		if v := s.volume(); v != nil {
			promised = v.Header().Promised
		}
		if t.Less(promised) {
			t = promised
		}
	}
	return t
}

// members are the servers whose copies have to have what the source answers: itself and its record's sync members. ok is false if somebody
// is taking over meanwhile: then the source's record says nothing.
func (w *world) members(t *tenure) (list []*server, ok bool) {
	h := t.v.Header()
	if h.Served.Less(w.newestPromise()) {
		return nil, false
	}
	for _, name := range h.Record.Members {
		m := h.Settings.Find(name)
		if name == t.p.s.name || m != nil && m.Mode == lineage.Sync || t.p.s.hasFailed() && w.byName(name) == t.p.s.via() {
			list = append(list, w.byName(name))
		}
	}
	return list, true
}

// judgeAnswer is guarantee 1 for a write, at the moment of its answer.
func (w *world) judgeAnswer(t *tenure, wr *write) {
	list, ok := w.members(t)
	if !ok {
		return
	}
	for _, s := range list {
		if s.hasFailed() {
			continue
		}
		wr.members = append(wr.members, s.name)
		if s.lostPower().After(wr.when) {
			continue
		}
		life := s.proc
		for _, at := range wr.sectors {
			if now, _ := w.at(s, at); !w.covers(at, now, wr.id) {
				if s.lostPower().After(wr.when) || s.proc != life || t.p.isDead() {
					return // it happened meanwhile
				}
				w.failLocked("G1", "%s answered write %d; %s is in its in-sync set and has %d in sector %d", t.p.s.name, wr.id, s.name, now, at)
				return
			}
		}
	}
	w.judgeRecords(t, wr.sectors, wr.id, list)
}

// judgeRecords: none of those who remain believes of a server that lacks an answered write that it is in sync (rule 17).
func (w *world) judgeRecords(t *tenure, sectors []int64, id int, list []*server) {
	settings := t.v.Header().Settings
	for _, m := range list {
		v := m.volume()
		if v == nil || m.hasFailed() {
			continue
		}
		for _, name := range v.Header().Record.Members {
			x := w.byName(name)
			if set := settings.Find(name); name != t.p.s.name && (set == nil || set.Mode != lineage.Sync) || x.hasFailed() || x.up() == nil {
				continue
			}
			for _, at := range sectors {
				if now, _ := w.at(x, at); !w.covers(at, now, id) && x.lostPower().IsZero() && !t.p.isDead() {
					w.failLocked("G1", "%s answered write %d; the record of its member %s names %s, which has %d in sector %d", t.p.s.name, id, m.name, name, now, at)
					return
				}
			}
		}
	}
}

// judgeSafe is guarantee 1 for what a flush or FUA covers, at the moment of its answer. The write is safe from then on.
func (w *world) judgeSafe(t *tenure, wr *write) {
	if wr.safe {
		return
	}
	wr.safe = true
	w.safe = append(w.safe, wr)
	w.tally("safe writes")
	list, ok := w.members(t)
	if !ok {
		wr.waived = true
		return
	}
	for _, s := range list {
		if s.hasFailed() {
			continue
		}
		for _, at := range wr.sectors {
			if _, durable := w.at(s, at); !w.covers(at, durable, wr.id) && !t.p.isDead() {
				w.failLocked("G1", "%s answered a flush; write %d is not durable on %s, which is in its in-sync set: sector %d has %d", t.p.s.name, wr.id, s.name, at, durable)
				return
			}
		}
	}
}

// judgeServed: a source whose disk had failed when the request came answers only after its own copy has left the in-sync set, on it and on
// the members that remain (guarantee 9).
func (w *world) judgeServed(a *ask) {
	s := a.t.p.s
	s.mu.Lock()
	before := s.failed && a.began.After(s.when)
	s.mu.Unlock()
	if !before {
		return
	}
	w.tally("answers of a source whose disk failed")
	list, ok := w.members(a.t)
	if !ok {
		return
	}
	if a.t.v.Header().Record.Has(s.name) {
		w.failLocked("G9", "%s answers although its disk failed, and its own copy is in the in-sync set", s.name)
	}
	for _, m := range list {
		if v := m.volume(); v != nil && v.Header().Record.Has(s.name) && !a.t.p.isDead() {
			w.failLocked("G9", "%s answers although its disk failed, and the record of %s names it", s.name, m.name)
		}
	}
}

// judgeRead: what is read has everything that was answered in this tenure.
func (w *world) judgeRead(a *ask, p []byte) {
	for i, at := range a.sectors {
		got, err := contentOf(p[i*sector:][:sector], at)
		if err != nil || !w.covers(at, got, a.expect[at]) {
			w.failLocked("G1", "%s answered a read of sector %d with %d, answered before was %d (%v)", a.t.p.s.name, at, got, a.expect[at], err)
			return
		}
	}
}

// -- digests of regions, kept while nothing changes them ----------------------------------------------------------------------

var hashSeed = maphash.MakeSeed()

// digests are of a server's copy: of its sectors, and of its regions the sum of theirs.
type digests struct {
	of      []uint64 // by sector
	regions []uint64
	stale   []bool  // by sector
	changed []int64 // the stale ones
	all     bool    // everything is stale
}

func newDigests() digests {
	const sectors = volumeBytes / sector
	return digests{of: make([]uint64, sectors), regions: make([]uint64, volumeBytes/regionBytes), stale: make([]bool, sectors), all: true}
}

// touched notes that a range of the copy may have changed.
func (s *server) touched(off, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &s.digests
	for at := off / sector; at <= (off+n-1)/sector && at < int64(len(d.stale)); at++ {
		if !d.stale[at] {
			d.stale[at] = true
			d.changed = append(d.changed, at)
		}
	}
}

// digest is of a region as the server's system sees it.
func (s *server) digest(region int64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &s.digests
	if d.all {
		d.all = false
		for at := range d.stale {
			d.stale[at] = true
			d.changed = append(d.changed, int64(at))
		}
	}
	for _, at := range d.changed {
		now, _ := s.mem.Peek(s.path, at)
		sum := maphash.Bytes(hashSeed, now[:]) * uint64(2*at+1)
		d.regions[at*sector/regionBytes] += sum - d.of[at]
		d.of[at], d.stale[at] = sum, false
	}
	d.changed = d.changed[:0]
	return d.regions[region]
}

func (s *server) lostPower() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// inSalvage reports whether a server keeps a write's sector in a salvage.
func (w *world) inSalvage(s *server, at int64, id int) bool {
	v := s.volume()
	if v == nil {
		return false
	}
	for _, m := range v.Salvages() {
		view, err := v.OpenSalvage(m.ID)
		if err != nil {
			continue
		}
		var p [sector]byte
		found := false
		if list := view.Extents(at*sector, sector, 1); len(list) == 1 && list[0].Saved {
			if _, err := view.ReadAt(p[:], at*sector); err == nil || list[0].Zero {
				kept, err := contentOf(p[:], at)
				found = err == nil && w.covers(at, kept, id)
			}
		}
		_ = view.Close()
		if found {
			return true
		}
	}
	return false
}

// whereIs says of a sector what everybody has, for people.
func (w *world) whereIs(at int64) string {
	text := ""
	for _, s := range w.servers {
		now, durable := w.at(s, at)
		text += fmt.Sprintf(" %s: %d (durable %d)", s.name, now, durable)
	}
	return text
}
