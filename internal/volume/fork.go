package volume

import "keelson/internal/lineage"

// ChangedSince finds the regions whose content is not surely that of the history up to the position: their versions are
// unknown, or of other or later writes. It returns how many there are, and the first most ranges of bytes they form.
func (v *Volume) ChangedSince(history lineage.History, at lineage.Position, most int) (regions int64, runs []Range) {
	table := v.log.Header().Generations
	var versions []lineage.Version
	for page := range v.log.Pages() {
		versions = v.log.PageVersions(page, versions[:0])
		for i, version := range versions {
			if int(version.Index()) < len(table) && version != lineage.Unknown &&
				lineage.InLineage(table[version.Index()], version.Number(), history, at) {
				continue
			}
			regions++
			off := (page*pageRegions + int64(i)) << v.region
			length := min(int64(1)<<v.region, v.size-off)
			if n := len(runs); n > 0 && runs[n-1].Off+runs[n-1].Len == off {
				runs[n-1].Len += length
			} else if n < most {
				runs = append(runs, Range{off, length})
			}
		}
	}
	return regions, runs
}
