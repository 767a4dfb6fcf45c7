package volume

import "keelson/internal/lineage"

// Fork is what a replica has besides a history up to a position.
type Fork struct {
	Regions int64   // whose content is not surely that of the history
	Unknown int64   // of them: nobody knows who wrote them last, perhaps nobody did since (the extent was hot at a crash)
	Runs    []Range // the first ranges of bytes that they form
}

// ChangedSince finds the regions whose content is not surely that of the history up to the position: their versions are
// unknown, or of other or later writes.
func (v *Volume) ChangedSince(history lineage.History, at lineage.Position, most int) (f Fork) {
	h := v.log.Header()
	var versions []lineage.Version
	for page := range v.log.Pages() {
		versions = v.log.PageVersions(page, versions[:0])
		for i, version := range versions {
			known := int(version.Index()) < len(h.Generations) && version != lineage.Unknown
			if known && lineage.InLineage(h.Generations[version.Index()], version.Number(), history, at) {
				continue
			}
			f.Regions++
			if !known || adopted(h.History, h.Generations[version.Index()], version.Number()) {
				f.Unknown++
			}
			off := (page*pageRegions + int64(i)) << v.region
			length := min(int64(1)<<v.region, v.size-off)
			if n := len(f.Runs); n > 0 && f.Runs[n-1].Off+f.Runs[n-1].Len == off {
				f.Runs[n-1].Len += length
			} else if n < most {
				f.Runs = append(f.Runs, Range{off, length})
			}
		}
	}
	return f
}

// adopted reports the number that a generation gave to what was unknown when it began.
func adopted(h lineage.History, gen lineage.GenID, number uint64) bool {
	i := h.Find(gen)
	return i >= 0 && number == h[i].Began+1
}
