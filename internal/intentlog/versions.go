package intentlog

import (
	"fmt"
	"math/bits"
	"sync"

	"keelson/internal/lineage"
)

// pageRegions is how many regions share a page of the map: 4 KiB in memory, or nothing where all have one version.
const pageRegions = 512

type mapPage struct {
	uniform lineage.Version
	each    *[pageRegions]lineage.Version // nil: all are uniform
}

// versionMap is the map in memory.
type versionMap struct {
	mu      sync.RWMutex
	regions int64
	pages   []mapPage
	dirty   []uint64 // bit per page: differs from what is committed, or may
	unknown int64    // regions
}

func (m *versionMap) init(g geometry, base lineage.Version) {
	m.regions = g.regions()
	m.pages = make([]mapPage, g.pages())
	m.dirty = make([]uint64, (len(m.pages)+63)/64)
	m.fill(base)
}

// fill gives every region one version; nothing gets dirty.
func (m *versionMap) fill(v lineage.Version) {
	for i := range m.pages {
		m.pages[i] = mapPage{uniform: v}
	}
	m.unknown = 0
	if v == lineage.Unknown {
		m.unknown = m.regions
	}
}

func (m *versionMap) markDirty(page int64) { m.dirty[page/64] |= 1 << (page % 64) }

// count is how many regions the page has.
func (m *versionMap) count(page int64) int {
	return int(min(pageRegions, m.regions-page*pageRegions))
}

func (m *versionMap) get(region int64) lineage.Version {
	p := &m.pages[region/pageRegions]
	if p.each == nil {
		return p.uniform
	}
	return p.each[region%pageRegions]
}

func (m *versionMap) set(first, last int64, v lineage.Version) {
	for first <= last {
		page := first / pageRegions
		end := min(last, page*pageRegions+int64(m.count(page))-1)
		m.setIn(page, int(first%pageRegions), int(end%pageRegions), v)
		first = end + 1
	}
}

// setIn sets regions a to b of one page.
func (m *versionMap) setIn(page int64, a, b int, v lineage.Version) {
	p, n := &m.pages[page], m.count(page)
	m.markDirty(page)
	if p.each == nil && p.uniform == v {
		return
	}
	if p.each == nil {
		if p.uniform == lineage.Unknown {
			m.unknown -= int64(b - a + 1)
		}
	} else {
		for _, old := range p.each[a : b+1] {
			if old == lineage.Unknown {
				m.unknown--
			}
		}
	}
	if v == lineage.Unknown {
		m.unknown += int64(b - a + 1)
	}
	if a == 0 && b == n-1 {
		*p = mapPage{uniform: v}
		return
	}
	if p.each == nil {
		p.each = new([pageRegions]lineage.Version)
		for i := range n {
			p.each[i] = p.uniform
		}
	}
	for i := a; i <= b; i++ {
		p.each[i] = v
	}
}

// shrink drops the array of a page whose regions have become alike.
func (m *versionMap) shrink(page int64) {
	p := &m.pages[page]
	if p.each == nil {
		return
	}
	for _, v := range p.each[1:m.count(page)] {
		if v != p.each[0] {
			return
		}
	}
	*p = mapPage{uniform: p.each[0]}
}

// takeDirty returns the numbers of the dirty pages and makes them clean.
func (m *versionMap) takeDirty() []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []int64
	for i, word := range m.dirty {
		for ; word != 0; word &= word - 1 {
			list = append(list, int64(i*64+bits.TrailingZeros64(word)))
		}
		m.dirty[i] = 0
	}
	return list
}

// giveBack makes pages dirty again that could not be written.
func (m *versionMap) giveBack(pages []int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range pages {
		m.markDirty(p)
	}
}

// indexesInUse tells for each index of the table whether some region has it.
func (m *versionMap) indexesInUse(table int) []bool {
	used := make([]bool, table)
	for i := range m.pages {
		if p := &m.pages[i]; p.each == nil {
			used[p.uniform.Index()] = true
		} else {
			for _, v := range p.each[:m.count(int64(i))] {
				used[v.Index()] = true
			}
		}
	}
	return used
}

// Version of a region.
func (l *Log) Version(region int64) lineage.Version {
	l.versions.mu.RLock()
	defer l.versions.mu.RUnlock()
	return l.versions.get(region)
}

// SetVersions gives the regions first to last, inclusive, a version whose index GenIndex gave out. Their extents must be
// hot: anything else would be forgotten by a crash, so it panics (rule 6).
func (l *Log) SetVersions(first, last int64, v lineage.Version) {
	if first < 0 || last < first || last >= l.versions.regions {
		panic(fmt.Sprintf("intentlog: regions %d to %d of %d", first, last, l.versions.regions))
	}
	for e := l.ExtentOf(first); e <= l.ExtentOf(last); e++ {
		if !l.IsHot(e) && !l.leftOut(hotIsAsserted) {
			panic(fmt.Sprintf("intentlog: a version for regions %d to %d, and extent %d is not hot", first, last, e))
		}
	}
	l.versions.mu.Lock()
	l.versions.set(first, last, v)
	l.versions.mu.Unlock()
}

// UnknownRegions is how many regions are unknown.
func (l *Log) UnknownRegions() int64 {
	l.versions.mu.RLock()
	defer l.versions.mu.RUnlock()
	return l.versions.unknown
}

// UnknownExtents are the extents that have unknown regions, ascending.
func (l *Log) UnknownExtents() []int64 {
	var list []int64
	l.eachUnknown(func(region int64) int64 {
		e := l.ExtentOf(region)
		list = append(list, e)
		return (e + 1) * l.geometry.regionsPerExtent()
	})
	return list
}

// eachUnknown calls do for unknown regions, ascending; it goes on at the region that do returns.
func (l *Log) eachUnknown(do func(region int64) (next int64)) {
	l.versions.mu.RLock()
	defer l.versions.mu.RUnlock()
	m := &l.versions
	for r := int64(0); r < m.regions && m.unknown > 0; {
		switch p := &m.pages[r/pageRegions]; {
		case p.each == nil && p.uniform != lineage.Unknown:
			r = (r/pageRegions + 1) * pageRegions
		case m.get(r) == lineage.Unknown:
			r = do(r)
		default:
			r++
		}
	}
}

// AdoptUnknown gives every unknown region the version (the adoption number of a generation, rule 8) and says how many
// there were. The caller has marked their extents hot before: see UnknownExtents.
func (l *Log) AdoptUnknown(v lineage.Version) (regions int64) {
	for _, e := range l.UnknownExtents() {
		if !l.IsHot(e) {
			panic(fmt.Sprintf("intentlog: unknown regions of extent %d are adopted, and it is not hot", e))
		}
	}
	l.versions.mu.Lock()
	defer l.versions.mu.Unlock()
	m := &l.versions
	for page := range m.pages {
		p, n := &m.pages[page], m.count(int64(page))
		if p.each == nil {
			if p.uniform == lineage.Unknown {
				regions += int64(n)
				m.setIn(int64(page), 0, n-1, v)
			}
			continue
		}
		for i, old := range p.each[:n] {
			if old == lineage.Unknown {
				regions++
				p.each[i] = v
				m.markDirty(int64(page))
			}
		}
	}
	m.unknown = 0
	if v == lineage.Unknown {
		m.unknown = regions
	}
	return regions
}

// Pages is how many pages the map has.
func (l *Log) Pages() int64 { return int64(len(l.versions.pages)) }

// PageVersions appends the versions of the page's regions to out[:0].
func (l *Log) PageVersions(page int64, out []lineage.Version) []lineage.Version {
	l.versions.mu.RLock()
	defer l.versions.mu.RUnlock()
	return l.versions.appendPage(page, out[:0])
}

func (m *versionMap) appendPage(page int64, out []lineage.Version) []lineage.Version {
	p, n := &m.pages[page], m.count(page)
	if p.each != nil {
		return append(out, p.each[:n]...)
	}
	for range n {
		out = append(out, p.uniform)
	}
	return out
}
