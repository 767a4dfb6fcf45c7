package intentlog

var protections = map[string]protection{
	"hot-before-write": hotBeforeWrite, "cool-after-commit": coolAfterCommit, "touched-stays-hot": touchedStayHot | hotIsAsserted, "checkpoint-drains": hotIsAsserted, "two-header-slots": twoHeaderSlots,
	"two-map-slots": twoMapSlots, "map-before-header": mapBeforeHeader, "data-before-map": dataBeforeMap, "clean-hot-is-durable": cleanHotIsDurable,
	"sync-at-open": syncAtOpen, "write-at-open": writeAtOpen, "floor-never-lower": floorNeverLower,
}

// Omit leaves out the protection of that name, if there is one: for tests, which show that their checks notice.
func (o *Options) Omit(name string) { o.leftOut |= protections[name] }
