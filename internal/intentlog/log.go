// Package intentlog is what one server remembers of one replica of a volume: header (identity, role, history, position),
// version map, hot set and floor, in a directory of its own.
//
// Life of an extent: cool -> MarkHot (durable) -> writes, each Hot and then SetVersions -> Checkpoint (data durable, map
// durable, header names the checkpoint) -> cool. After a stop that was not clean, what is hot on the disk is unknown.
//
// Order of durability, stated once: hot mark before a write is issued; data before the map pages that describe it; map
// pages before the header that commits them; that header before any extent cools; a generation in the header's table
// before a map page names its index.
//
// Rule of use: a write is registered with whatever CheckpointOptions.Drain waits for before Hot or MarkHot is called for it.
package intentlog

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// Log is one open intent log. All methods may be called concurrently.
//
// Locks, outermost first: checkpoint, header.saving, hot.flush, hot.mu, floor.mu, header.mu, table.mu, versions.mu. Hot takes none.
// What only reads (Header, Floor, Reserved, Hot, IsHot, Version, digests) never waits for the disk.
type Log struct {
	dir      string
	geometry geometry
	options  Options

	checkpoint sync.Mutex // one Checkpoint, ForgetAll, MarkClean at a time
	header     headerStore
	floor      floorStore
	hot        hotSet
	table      genTable
	versions   versionMap
	mapFile    vfs.File
	mapCheck   uint64   // of the committed map pages; under checkpoint
	committed  []uint64 // by page: label<<1 | slot of its committed content; 0: none. Under checkpoint

	stamp   atomic.Uint64 // of the next unit written: random start, so that no two writes share one
	nonce   [16]byte      // what an unknown region contributes to digests of this open log
	clean   atomic.Bool   // the header says clean
	wasMark vfs.Identity  // what MarkClean had noted when this log was opened
	was     bool
	failed  atomic.Pointer[error]
}

// Options of an open log.
type Options struct {
	HotExtentsMax int       // above it a checkpoint is due (HotMax); a log never refuses to mark more. Default 4096
	Random        io.Reader // ids, stamps and nonces; default crypto/rand
	leftOut       protection
}

func (o Options) withDefaults() Options {
	if o.HotExtentsMax <= 0 {
		o.HotExtentsMax = 4096
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	return o
}

// protection is one of the steps that make the log safe. Tests leave one out and see that their crashes notice.
type protection uint

const (
	hotBeforeWrite    protection = 1 << iota // MarkHot syncs
	coolAfterCommit                          // extents cool after the header's save only
	twoHeaderSlots                           // a save never overwrites the newest header
	twoMapSlots                              // a map page never overwrites its committed content
	touchedStayHot                           // what was touched since the switch does not cool
	mapBeforeHeader                          // map pages are synced before the header names them
	dataBeforeMap                            // data is synced before the map
	cleanHotIsDurable                        // MarkClean syncs the hot set
	syncAtOpen                               // what a killed process wrote is synced before it is believed
	writeAtOpen                              // ... and written once more: a sync that failed earlier has left it in memory alone
	floorNeverLower                          // a flush's floor is above the position of an older checkpoint
	hotIsAsserted                            // SetVersions stops at once if an extent is not hot; without it the damage is for others to find
)

func (l *Log) leftOut(p protection) bool { return l.options.leftOut&p != 0 }

// Files of a log's directory.
const (
	headerFile = "header"
	headerNew  = "header.new"
	mapFile    = "map"
	hotFile    = "hot"
	floorFile  = "floor" // its lock is the directory's
)

// Dir is the log's directory.
func (l *Log) Dir() string { return l.dir }

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }

// Close gives up the files and the lock. It notes nothing: that is MarkClean's part. Later durable calls fail.
func (l *Log) Close() error {
	l.fail(fmt.Errorf("intent log %s: %w", l.dir, errClosed))
	var first error
	for _, f := range []vfs.File{l.header.file, l.mapFile, l.hot.file, l.floor.file} {
		if f == nil {
			continue
		}
		if err := f.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// seed draws what is random about this open log.
func (l *Log) seed() error {
	var b [24]byte
	if _, err := io.ReadFull(l.options.Random, b[:]); err != nil {
		return fmt.Errorf("intent log %s: random numbers: %w", l.dir, err)
	}
	copy(l.nonce[:], b[:16])
	l.stamp.Store(binary.LittleEndian.Uint64(b[16:]))
	return nil
}

// Regions is how many regions the volume has; the last one may be short.
func (l *Log) Regions() int64 { return l.geometry.regions() }

// Extents is how many extents the hot set has; the last one may be short.
func (l *Log) Extents() int64 { return l.geometry.extents() }

// ExtentOf is the extent that has the region.
func (l *Log) ExtentOf(region int64) int64 { return region / l.geometry.regionsPerExtent() }

// Floor is the newest position that is surely durable here (rule 10): the floor record or the header's position,
// whichever the history has later.
func (l *Log) Floor() lineage.Position {
	l.header.mu.Lock()
	position, history := l.header.doc.Position, l.header.doc.History
	l.header.mu.Unlock()
	if l.leftOut(floorNeverLower) {
		return position
	}
	return later(l.floor.shown.Load().position, position, history)
}

// later is the later of a floor record and a header's position. A record of a generation that the history does not
// have was given up with it (rule 12).
func later(record, position lineage.Position, history lineage.History) lineage.Position {
	switch {
	case record.Gen == position.Gen && record.Number > position.Number:
		return record
	case record.Gen == position.Gen:
		return position
	case history.Find(record.Gen) > history.Find(position.Gen):
		return record
	case history.Find(position.Gen) < 0 && record.Gen != (lineage.GenID{}):
		return record
	}
	return position
}
