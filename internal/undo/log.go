// Package undo keeps what a target had before a resync changed it: the undo log, which can bring the copy back to a
// consistent state (the anchor), and salvages, which are what had to be given up, for people to read, export and apply.
//
// Life of a log: Open -> Begin (anchor durable) -> Save before the first change of each region -> at the end of the resync
// what is to be kept goes into a Store, then Drop; or BeginRollback -> Each, everything restored -> Drop. A crash anywhere
// leaves the anchor and every image whose Save returned.
//
// Order of durability, stated once: an image before the overwrite that needs it (the caller's part: Save first); an anchor,
// with history, position and record, before the images that name it and before any foreign content; the cut of a torn tail
// before the next image is written there; the rollback's note before anything is restored; a salvage before what it has is
// overwritten or its log dropped.
//
// Formats: docs/formats/undo-log.md and docs/formats/salvage.md.
package undo

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"keelson/internal/vfs"
)

// Log is one open undo log: the images of at most one anchor. All methods may be called concurrently.
//
// Locks, outermost first: readers, mu, saved.mu.
type Log struct {
	fs  vfs.FS
	dir string
	o   Options

	readers sync.RWMutex // read-held by Each: no image goes away while it runs
	mu      sync.Mutex   // over the files and what follows
	file    vfs.File     // images; its lock is the log's
	owner   ident        // the anchor's id
	ordinal uint64       // of the next image
	batch   []byte       // scratch of Save
	order   []int64      // scratch of Save
	failed  error

	anchor atomic.Pointer[anchorDoc] // nil: none
	tail   atomic.Int64              // end of the last image; also what the log takes, in bytes
	saved  regionSet
}

// Options of an open log.
type Options struct {
	BytesMax    int64 // of all images with their headers; 0: no limit but the disk's
	RegionBytes int64 // of the volume
	leftOut     protection
}

// protection is one of the steps that make logs and salvages safe. Tests leave one out and see that their crashes notice.
type protection uint

const (
	saveSynced    protection = 1 << iota // Save syncs before it returns
	imagesNamed                          // images name their anchor
	tailCut                              // what is not whole at the end is cut off, durably, before anything is written there
	anchorSynced                         // an anchor's content is durable before it has its name
	nameSynced                           // ... and its name when Begin and Drop return
	noteSynced                           // a rollback's note is durable when BeginRollback returns
	syncAtOpen                           // what a killed process wrote is synced before it is believed
	writeAtOpen                          // ... and the newest batch written once more: a sync that failed has left it in memory alone
	salvageSynced                        // a salvage's content is durable before it has its name
	salvageNamed                         // ... and its name when Commit and Delete return
	salvageApart                         // a salvage gets its name only when it is whole
)

func (l *Log) leftOut(p protection) bool { return l.o.leftOut&p != 0 }

// Files of a log's directory.
const (
	anchorFile = "anchor"
	imagesFile = "images"
	newSuffix  = ".new" // of a file that is to replace another one
)

// Open opens the log in dir, or makes an empty one. Images that were not durable for sure and are not whole are cut off;
// any other damage is a *CorruptError, and so is a newer format. It is locked: vfs.ErrInUse for a second one.
//
// The data of images is read here only as far as a crash can have torn it; Each, and Verify, check all of it.
func Open(fsys vfs.FS, dir string, o Options) (*Log, error) {
	l := &Log{fs: fsys, dir: dir, o: o}
	if err := checkRegionBytes(o.RegionBytes); err != nil {
		return nil, l.say("open", err)
	}
	err := l.open()
	if err != nil && l.file != nil {
		l.file.Close()
	}
	if err != nil {
		return nil, l.say("open", err)
	}
	return l, nil
}

func (l *Log) open() error {
	if err := l.fs.MkdirAll(l.dir); err != nil {
		return err
	}
	_, statErr := l.fs.Stat(l.path(imagesFile))
	var err error
	if l.file, err = l.fs.Open(l.path(imagesFile), vfs.Create|vfs.Lock); err != nil {
		return err
	}
	if !l.leftOut(syncAtOpen) {
		if err := l.fs.SyncDir(l.dir); err != nil {
			return err
		}
		if err := l.file.Datasync(); err != nil {
			return err
		}
	}
	if err := l.fs.Remove(l.path(anchorFile + newSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := readWhole(l.fs, l.path(anchorFile), anchorHeadBytes+anchorBytesMax)
	switch {
	case err != nil:
		return err
	case b == nil:
		return l.cut(0)
	case errors.Is(statErr, fs.ErrNotExist):
		return corrupt(l.path(imagesFile), 0, "it is gone, and there is an anchor")
	}
	d, id, err := decodeAnchor(l.path(anchorFile), b)
	if err != nil {
		return err
	}
	if d.RegionBytes != l.o.RegionBytes {
		return fmt.Errorf("its regions have %d bytes, the volume's %d: it belongs to another volume", d.RegionBytes, l.o.RegionBytes)
	}
	if d.rolling && !l.leftOut(syncAtOpen) {
		if err := overwrite(l.fs, l.path(anchorFile), b[:anchorHeadBytes], true); err != nil {
			return err
		}
	}
	l.owner = id
	if err := l.scan(); err != nil {
		return err
	}
	l.anchor.Store(&d)
	return nil
}

func (l *Log) path(name string) string { return filepath.Join(l.dir, name) }

// say puts the log and what it was doing before an error.
func (l *Log) say(doing string, err error) error {
	return fmt.Errorf("undo log %s: %s: %w", l.dir, doing, err)
}

// usable returns the log's first failure. Under mu.
func (l *Log) usable(doing string) error {
	if l.failed != nil {
		return l.say(doing, l.failed)
	}
	return nil
}

// fail ends the log: after an error the kernel forgets what it could not write. Under mu.
func (l *Log) fail(doing string, err error) error {
	if l.failed == nil {
		l.failed = fmt.Errorf("%w: %w", ErrFailed, err)
	}
	return l.say(doing, l.failed)
}

// Anchor is what the log can bring back; nil if there is none.
func (l *Log) Anchor() *Anchor {
	d := l.anchor.Load()
	if d == nil {
		return nil
	}
	a := d.Anchor
	a.History, a.Record.Members = slices.Clone(a.History), slices.Clone(a.Record.Members)
	return &a
}

// Rolling reports whether a rollback has begun that Drop has not ended.
func (l *Log) Rolling() bool {
	d := l.anchor.Load()
	return d != nil && d.rolling
}

// Has reports whether the region is saved, durably, since the anchor. It never waits for a disk.
func (l *Log) Has(region int64) bool { return l.saved.has(region) }

// Regions is how many regions are saved.
func (l *Log) Regions() int64 { return l.saved.len() }

// Bytes is what the images take on the disk.
func (l *Log) Bytes() int64 { return l.tail.Load() }

// Close gives up the files and the lock. It changes nothing.
func (l *Log) Close() error {
	l.readers.Lock()
	defer l.readers.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.failed, errClosed) {
		return nil
	}
	l.failed, l.batch = errClosed, nil
	return l.file.Close()
}
