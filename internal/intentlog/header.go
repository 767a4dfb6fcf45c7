package intentlog

import (
	"encoding/json"
	"maps"
	"slices"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// Header is everything cold that a replica remembers. It is saved as a whole, atomically. Whoever owns a field changes
// it in Save; Volume, the sizes, Generations and Checkpoint are the log's own.
type Header struct {
	Cluster     string `json:"cluster"`
	Volume      string `json:"volume"` // 32 hexadecimal digits
	Name        string `json:"name"`   // what people call the volume
	Node        string `json:"node"`
	SizeBytes   int64  `json:"size_bytes"`
	RegionBytes int64  `json:"region_bytes"`
	ExtentBytes int64  `json:"extent_bytes"`

	Backing          Backing `json:"backing"`
	lineage.Standing         // role, terms, membership, in-sync record

	History    lineage.History            `json:"history"`
	Position   lineage.Position           `json:"position"`
	Consistent string                     `json:"consistent"` // "yes" | "rolling" | "no" (rule 11)
	Anchor     json.RawMessage            `json:"anchor,omitempty"`
	Failed     string                     `json:"failed,omitempty"` // the first error of the disk
	Extra      map[string]json.RawMessage `json:"extra,omitempty"`

	// Generations is what Version.Index refers to: [0] unused, [1] ZeroGen; a zero id elsewhere is free.
	Generations []lineage.GenID `json:"generations"`
	Checkpoint  uint64          `json:"checkpoint"` // number of the last whole checkpoint
}

// Backing is the file or device that holds the replica's content.
type Backing struct {
	Path     string       `json:"path"`
	Identity vfs.Identity `json:"identity"`
	Clean    bool         `json:"clean"` // it is exactly what the map says, if it still has this Identity (rule 9)
}

// clone is a copy that shares nothing that is ever changed in place.
func (h Header) clone() Header {
	h.Standing = h.Standing.Clone()
	h.History = slices.Clone(h.History)
	h.Anchor = slices.Clone(h.Anchor)
	h.Extra = maps.Clone(h.Extra)
	for k, v := range h.Extra {
		h.Extra[k] = slices.Clone(v)
	}
	h.Generations = slices.Clone(h.Generations)
	return h
}

// headerDoc is the header as it is on the disk.
type headerDoc struct {
	Header
	Base           lineage.Version `json:"base"`            // of every page that no checkpoint after BaseCheckpoint wrote
	BaseCheckpoint uint64          `json:"base_checkpoint"` // map pages of this checkpoint and older ones are void
	MapCheck       uint64          `json:"map_check"`       // sum over the committed pages: which checkpoint wrote each
}

// Header returns a copy of the header as it is durably. It never waits for the disk.
func (l *Log) Header() Header {
	l.header.mu.Lock()
	defer l.header.mu.Unlock()
	return l.header.doc.Header.clone()
}

// Save changes the header durably and as a whole: after a crash all of the change is there, or none. The function gets
// the header as it is; saves come one after the other. If there is no room the header stays as it was, and a later save
// may succeed; after any other error the log is failed.
func (l *Log) Save(change func(*Header)) error {
	return l.saveDoc("save the header", func(d *headerDoc) { change(&d.Header) })
}

// saveDoc saves what change makes of the header; what is the log's own is put back, since it knows better.
func (l *Log) saveDoc(doing string, change func(*headerDoc)) error {
	l.header.saving.Lock()
	defer l.header.saving.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	doc := l.header.doc // only a save changes it
	old := doc.Header
	doc.Header = doc.Header.clone()
	change(&doc)
	doc.Volume, doc.SizeBytes, doc.RegionBytes, doc.ExtentBytes = old.Volume, old.SizeBytes, old.RegionBytes, old.ExtentBytes
	if err := l.durable(doing, l.header.save(doc, l.stamp.Add(1), l.leftOut(twoHeaderSlots))); err != nil {
		return err
	}
	l.clean.Store(doc.Backing.Clean)
	return nil
}
