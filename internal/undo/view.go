package undo

import (
	"errors"
	"fmt"
	"iter"
	"sort"
	"sync"

	"keelson/internal/block"
	"keelson/internal/vfs"
)

// View reads one salvage. All methods may be called concurrently; Close ends it.
type View struct {
	store   *Store
	n       int
	name    string
	meta    Salvage
	id      ident
	entries []entry // by region; 16 bytes each
	file    vfs.File
	once    sync.Once
}

// Extent is a stretch of the volume that a salvage has, or has not.
type Extent struct {
	Off, Len int64 // bytes of the volume
	Saved    bool
	Zero     bool // saved as zero
}

// Open opens a salvage for reading. It cannot be deleted before the view is closed.
func (s *Store) Open(id string) (*View, error) {
	s.mu.Lock()
	n, err := s.find(id)
	if err == nil && s.slots[n].meta.Damaged != "" {
		err = errors.New(s.slots[n].meta.Damaged)
	}
	if err != nil {
		s.mu.Unlock()
		return nil, s.say("open", err)
	}
	s.slots[n].views++
	s.mu.Unlock()
	v := &View{store: s, n: n, name: s.path(n, salvageSuffix)}
	if err := v.open(); err != nil {
		v.Close()
		return nil, s.say("open salvage "+id, err)
	}
	return v, nil
}

func (v *View) open() (err error) {
	if v.file, err = v.store.fs.Open(v.name, vfs.ReadOnly); err != nil {
		return err
	}
	var foot footer
	if foot, v.meta, err = readFooter(v.file, v.name); err != nil {
		return err
	}
	v.id = foot.id
	v.entries, err = readIndex(v.file, v.name, foot, &v.meta)
	return err
}

// Close ends the view.
func (v *View) Close() error {
	var err error
	v.once.Do(func() {
		if v.file != nil {
			err = v.file.Close()
		}
		v.store.mu.Lock()
		defer v.store.mu.Unlock()
		v.store.slots[v.n].views--
	})
	return err
}

// Salvage says what it is.
func (v *View) Salvage() Salvage { return v.meta.clone() }

// Regions yields the numbers of the regions that it has, ascending.
func (v *View) Regions() iter.Seq[int64] {
	return func(yield func(int64) bool) {
		for _, e := range v.entries {
			if !yield(e.region) {
				return
			}
		}
	}
}

// find returns the index of the region's entry, or of the next one.
func (v *View) find(region int64) (int, bool) {
	return sort.Find(len(v.entries), func(i int) int {
		switch e := v.entries[i].region; {
		case region < e:
			return -1
		case region > e:
			return 1
		}
		return 0
	})
}

// Extents divides a range of the volume into what the salvage has and what it has not, in order and without gaps; at most
// that many of them, so that it may stop early.
func (v *View) Extents(off, n int64, most int) []Extent {
	var list []Extent
	for end := min(off+n, v.meta.SizeBytes); off < end; {
		e := v.extentAt(off, end)
		if k := len(list) - 1; k >= 0 && list[k].Saved == e.Saved && list[k].Zero == e.Zero {
			list[k].Len += e.Len
		} else if len(list) == most {
			break
		} else {
			list = append(list, e)
		}
		off += e.Len
	}
	return list
}

// extentAt is the extent that begins at off: the rest of a saved region, or everything up to the next one.
func (v *View) extentAt(off, end int64) Extent {
	region := off / v.meta.RegionBytes
	i, ok := v.find(region)
	if ok {
		return Extent{off, min(end, (region+1)*v.meta.RegionBytes) - off, true, v.entries[i].zero()}
	}
	if i < len(v.entries) {
		end = min(end, v.entries[i].region*v.meta.RegionBytes)
	}
	return Extent{off, end - off, false, false}
}

// ReadAt reads a range of the volume, all of which must be in the salvage: otherwise ErrNotSaved. Every sector is verified.
func (v *View) ReadAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		region, within := at/v.meta.RegionBytes, at%v.meta.RegionBytes
		i, ok := v.find(region)
		length := v.meta.lengthOf(region)
		if at < 0 || !ok || within >= length {
			return done, fmt.Errorf("salvage %s: %d bytes at %d: %w", v.meta.ID, len(p)-done, at, ErrNotSaved)
		}
		piece := p[done:min(len(p), done+int(length-within))]
		if err := v.read(v.entries[i], piece, within); err != nil {
			return done, v.store.say("read salvage "+v.meta.ID, err)
		}
		done += len(piece)
	}
	return len(p), nil
}

// head reads the header of a saved region, and its table if it has one.
func (v *View) head(e entry) (h recordHead, table []byte, err error) {
	length := v.meta.lengthOf(e.region)
	if e.zero() {
		length = 0
	}
	w := window{file: v.file}
	b, err := w.get(e.at(), int(sectorBytes+tableBytes(length)))
	if err != nil {
		return h, nil, err
	}
	h, c := decodeHead(b, v.id)
	if c != whole || h.region != e.region || h.length != length {
		return h, nil, corrupt(v.name, e.at(), "the image of region %d is not there", e.region)
	}
	table = b[sectorBytes:]
	if c, at := h.checkTable(table); length > 0 && c != whole {
		return h, nil, corrupt(v.name, e.at()+sectorBytes+at, "the checksums of region %d are wrong", e.region)
	}
	return h, table, nil
}

// read reads a part of one saved region: its sectors are read whole, and checked.
func (v *View) read(e entry, p []byte, within int64) error {
	if e.zero() {
		clear(p)
		return nil
	}
	h, table, err := v.head(e)
	if err != nil {
		return err
	}
	first := within / sectorBytes
	end := (within + int64(len(p)) + sectorBytes - 1) / sectorBytes
	buf := block.NewBuffer(int((end - first) * sectorBytes))
	defer buf.Release()
	at := e.at() + h.dataAt() + first*sectorBytes
	if _, err := v.file.ReadAt(buf.Bytes, at); err != nil {
		return err
	}
	if c, bad := checkData(table, buf.Bytes, first); c != whole {
		return corrupt(v.name, at+bad, "the content of region %d is wrong", e.region)
	}
	copy(p, buf.Bytes[within-first*sectorBytes:])
	return nil
}
