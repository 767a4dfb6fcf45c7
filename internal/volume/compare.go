package volume

import (
	"encoding/binary"
	"fmt"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/resync"
	"keelson/internal/wire"
)

// compare is the state of a comparison of maps, owned by the link's reader. The target sends the digests of all pages
// of its map; the source asks for the versions of those that differ from its own, and decides region by region.
// A write meanwhile puts its regions into the set (rule 13), so the source's map need not stand still.
type compare struct {
	common  bool              // the histories share a generation
	related bool              // some region of the target has a version that this log knows: an interrupted resync left it
	theirs  []lineage.GenID   // the target's table of generations
	mine    []uint16          // ... as indexes of this log's table; 0: not in it
	seen    int64             // pages whose digests have come
	wanted  int64             // pages asked for whose versions have not come
	adopted []uint64          // by index of this log's table: adoption numbers
	page    []lineage.Version // scratch
}

// comparison takes the target's table, digests and versions.
func (l *link) comparison(h wire.Header, body *block.Buffer) error {
	var bytes []byte
	if body != nil {
		bytes = body.Bytes
	}
	switch h.Type {
	case wire.TypeGens:
		l.learn(bytes)
		return nil
	case wire.TypeDigests:
		if err := l.digests(int64(h.Number), bytes); err != nil {
			return err
		}
	case wire.TypePages:
		if err := l.versions(int64(h.Number), bytes); err != nil {
			return err
		}
	}
	if l.compare.seen == l.pages && l.compare.wanted == 0 {
		return l.decide()
	}
	return nil
}

// learn takes (more of) the target's table of generations.
func (l *link) learn(table []byte) {
	header := l.v.log.Header()
	known := map[lineage.GenID]uint16{}
	for i, id := range header.Generations {
		if i > 0 {
			known[id] = uint16(i)
		}
	}
	for ; len(table) >= 16; table = table[16:] {
		id := lineage.GenID(table[:16])
		l.compare.theirs = append(l.compare.theirs, id)
		l.compare.mine = append(l.compare.mine, known[id])
	}
}

// digests compares pages from first on and asks for the versions of those that differ.
func (l *link) digests(first int64, digests []byte) error {
	if first != l.compare.seen || first+int64(len(digests)/16) > l.pages {
		return fmt.Errorf("mirror %s->%s: digests of pages from %d on, %d were expected next (wire-order)", l.v.self, l.target, first, l.compare.seen)
	}
	var want []byte
	for page := first; len(digests) > 0; page, digests = page+1, digests[16:] {
		l.compare.seen++
		if l.full {
			continue
		}
		if mine := l.v.log.PageDigest(page); mine != [16]byte(digests[:16]) {
			want = appendU32(want, uint32(page))
			l.compare.wanted++
		} else {
			l.compare.related = true
		}
	}
	if len(want) > 0 {
		l.stream.Queue(wire.Header{Type: wire.TypeWantPages}, nil, want)
		l.stream.TryFlush()
	}
	return nil
}

// versions decides the regions of one page.
func (l *link) versions(page int64, body []byte) error {
	if l.compare.wanted == 0 || page >= l.pages {
		return fmt.Errorf("mirror %s->%s: versions of page %d were not asked for (wire-order)", l.v.self, l.target, page)
	}
	l.compare.wanted--
	v := l.v
	v.mu.Lock()
	defer v.mu.Unlock()
	l.compare.page = v.log.PageVersions(page, l.compare.page[:0])
	if len(body) != 8*len(l.compare.page) {
		return fmt.Errorf("mirror %s->%s: page %d has %d regions here, the target sent %d (wire-order)", v.self, l.target, page, len(l.compare.page), len(body)/8)
	}
	first := page * pageRegions
	for i, mine := range l.compare.page {
		theirs := lineage.Version(binary.LittleEndian.Uint64(body[8*i:]))
		same, hash := l.stands(mine, theirs)
		if !same {
			l.set.Add(first + int64(i))
		}
		if hash {
			l.hash.Add(first + int64(i))
		}
	}
	return nil
}

// pageRegions is how many regions a page of the map has (intentlog).
const pageRegions = 512

// stands says of one region whether it is the same on both sides, and if not, whether to hash it before it is sent:
// where a version is unknown, was adopted (rule 8), or is of a generation that this log never met. What the target knows to be zero
// needs no hash.
func (l *link) stands(mine, theirs lineage.Version) (same, hash bool) {
	if theirs == lineage.Unknown {
		return false, true
	}
	known := uint16(0) // the target's generation in this log's table
	if i := int(theirs.Index()); i < len(l.compare.mine) {
		known = l.compare.mine[i]
	}
	if known != 0 {
		l.compare.related = true
		if mine != lineage.Unknown && known == mine.Index() && theirs.Number() == mine.Number() {
			return true, false
		}
	}
	if theirs == lineage.ZeroVersion {
		return false, false
	}
	return false, mine == lineage.Unknown || known == 0 || l.adopted(mine)
}

// adoptions returns, by index of this log's table, the adoption number of each generation of the history; 0: none.
func adoptions(generations []lineage.GenID, history lineage.History) []uint64 {
	numbers := make([]uint64, len(generations))
	for i, id := range generations {
		if at := history.Find(id); at >= 0 {
			numbers[i] = history[at].Began + 1
		}
	}
	return numbers
}

// adopted reports that the version is the adoption number of its generation (the current one may be younger than the link).
func (l *link) adopted(version lineage.Version) bool {
	index, v := version.Index(), l.v
	if index == v.index && v.index != 0 {
		return version.Number() == v.gen.Began+1
	}
	return int(index) < len(l.compare.adopted) && l.compare.adopted[index] == version.Number()
}

// decide ends the comparison: what is in the set is left to the copier, everything else is in step.
func (l *link) decide() error {
	v := l.v
	v.mu.Lock()
	if !l.comparing {
		v.mu.Unlock()
		return fmt.Errorf("mirror %s->%s: the comparison was over already (wire-order)", v.self, l.target)
	}
	if l.full {
		l.set.AddAll()
	}
	kind, rule := resync.Decide(resync.Facts{Full: l.full, Common: l.compare.common || l.compare.related, Differ: l.set.Len(), OnlyZeroes: l.hash.Len() == 0})
	l.kind, l.rule = kind, rule
	l.comparing = false
	bytes := min(l.set.Len()<<v.region, v.size)
	begin := wire.Begin{Kind: string(kind), Rule: rule, Regions: l.set.Len(), Bytes: bytes}
	l.moved = kind != resync.None
	text, err := wire.Marshal(wire.TypeBegin, begin)
	if err == nil {
		l.stream.Queue(wire.Header{Type: wire.TypeBegin}, nil, text) // before any write that is in step
	}
	v.mu.Unlock()
	if err != nil {
		return err
	}
	l.stream.TryFlush()
	close(l.decided)
	v.post(mirror.Compared{Target: l.target, Session: l.session, Kind: string(kind), Bytes: bytes})
	return nil
}
