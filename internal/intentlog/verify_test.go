package intentlog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

type rawJSON = json.RawMessage

// verify opens the log after a crash and holds it against what was promised. before is the log that was cut off:
// its memory tells what the versions were.
func (w *world) verify(before *Log, flights []*flight) error {
	l, err := Open(w.mem, "/log", w.options())
	if err != nil {
		return fmt.Errorf("after life %d: %w", w.lives, err)
	}
	defer l.Close()
	data, err := w.mem.Open("/data", 0)
	if err != nil {
		return err
	}
	defer data.Close()
	if err := forgetHot(l, data); err != nil {
		return err
	}
	for _, check := range []func(*Log, vfs.File) error{w.checkHeader, w.checkContent, w.checkFloor,
		func(l *Log, _ vfs.File) error { return w.checkHot(l, before, flights) }} {
		if err := check(l, data); err != nil {
			return fmt.Errorf("after life %d: %w", w.lives, err)
		}
	}
	return nil
}

// checkHeader: all of one save or none, and nothing acknowledged is lost.
func (w *world) checkHeader(l *Log, _ vfs.File) error {
	h := l.Header()
	x, err := strconv.ParseUint(string(h.Extra["x"]), 10, 64)
	if err != nil {
		return err
	}
	if string(h.Extra["x"]) != string(h.Extra["y"]) || h.Promised.N != x {
		return fmt.Errorf("a save is there in part: %s, %s, %d", h.Extra["x"], h.Extra["y"], h.Promised.N)
	}
	if x < w.saved || x > w.savedTried {
		return fmt.Errorf("save %d is there; %d was acknowledged, %d tried", x, w.saved, w.savedTried)
	}
	w.saved = x
	if l.Reserved() < w.reserved {
		return fmt.Errorf("numbers up to %d are reserved, and %d was acknowledged", l.Reserved(), w.reserved)
	}
	w.reserved = l.Reserved()
	if _, clean := l.WasClean(); clean {
		if !w.markTried {
			return fmt.Errorf("clean, and nobody marked it so since it was used")
		}
		if n := l.UnknownRegions(); n != w.unknownAtMark {
			return fmt.Errorf("clean, and %d regions are unknown that were not", n-w.unknownAtMark)
		}
	}
	return nil
}

// checkContent: a region's version says what its content is.
func (w *world) checkContent(l *Log, data vfs.File) error {
	b := make([]byte, worldRegion)
	unknown := int64(0)
	for r := range l.Regions() {
		v := l.Version(r)
		if v == lineage.Unknown {
			unknown++
			continue
		}
		if _, err := data.ReadAt(b, r*worldRegion); err != nil {
			return err
		}
		at := lineage.Position{Gen: l.GenByIndex(v.Index()), Number: v.Number()}
		want := pattern(at, r)
		if v == lineage.ZeroVersion {
			want = make([]byte, worldRegion)
		} else if was := w.adopted[at]; was != nil {
			want = was[r]
		}
		if !bytes.Equal(b, want) {
			return fmt.Errorf("region %d has version %s:%d and other content", r, at.Gen, at.Number)
		}
	}
	if unknown != l.UnknownRegions() {
		return fmt.Errorf("%d regions are unknown, and it counts %d", unknown, l.UnknownRegions())
	}
	return nil
}

// checkFloor: the floor is not below what was acknowledged, and the disk holds every write up to it or a newer one.
func (w *world) checkFloor(l *Log, data vfs.File) error {
	floor := l.Floor()
	if floor.Number < w.floor.Number {
		return fmt.Errorf("the floor is %d, and %d was acknowledged", floor.Number, w.floor.Number)
	}
	w.floor = floor
	b := make([]byte, worldRegion)
	for r, writes := range w.history {
		last := -1
		for i, at := range writes {
			if at.Number <= floor.Number && !w.maybe[at] {
				last = i
			}
		}
		for _, at := range writes {
			if at.Number > floor.Number {
				w.maybe[at] = true // what the crash cut off: there or not, from now on
			}
		}
		if last < 0 {
			continue
		}
		if _, err := data.ReadAt(b, r*worldRegion); err != nil {
			return err
		}
		for at := 0; at < worldRegion; at += sectorBytes {
			if !hasAny(b[at:at+sectorBytes], writes[last:], r, at) {
				return fmt.Errorf("the floor is %d, and region %d at byte %d has not the content of write %d or a later one", floor.Number, r, at, writes[last].Number)
			}
		}
	}
	return nil
}

func hasAny(sector []byte, writes []lineage.Position, region int64, at int) bool {
	for _, p := range writes {
		if bytes.Equal(sector, pattern(p, region)[at:at+sectorBytes]) {
			return true
		}
	}
	return false
}

// checkHot: what was in flight is hot, so unknown; what is not hot has the version it had.
func (w *world) checkHot(l, before *Log, flights []*flight) error {
	for _, f := range flights {
		if !w.issued(f) {
			continue
		}
		for r := f.first; r <= f.last; r++ {
			if !l.IsHot(r/4) || l.Version(r) != lineage.Unknown {
				return fmt.Errorf("region %d was being written, and is not unknown", r)
			}
		}
	}
	for r := range l.Regions() {
		was, is := before.Version(r), l.Version(r)
		if l.IsHot(r/4) && is == lineage.Unknown || w.forgetTried {
			continue
		}
		if is.Number() != was.Number() || l.GenByIndex(is.Index()) != before.GenByIndex(was.Index()) {
			return fmt.Errorf("region %d is cool and has version %x, which was %x", r, uint64(is), uint64(was))
		}
	}
	return nil
}

// issued: its extents were hot, and it could begin.
func (w *world) issued(f *flight) bool {
	writes := w.history[f.first]
	return len(writes) > 0 && writes[len(writes)-1] == f.at
}
