package intentlog

import (
	"errors"
	"fmt"
	"io/fs"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// Open opens the log in dir and locks it: vfs.ErrInUse if somebody has it open, fs.ErrNotExist if there is none,
// *CorruptError if a file is damaged, from elsewhere or of a newer format. Hot extents are what was hot when the log was
// last used: their regions are unknown, and stay durably hot until the next checkpoint.
func Open(fsys vfs.FS, dir string, o Options) (*Log, error) {
	l := &Log{dir: dir, options: o.withDefaults()}
	err := l.open(fsys)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("open intent log %s: %w", dir, err)
	}
	return l, nil
}

func (l *Log) open(fsys vfs.FS) error {
	if err := l.openFiles(fsys); err != nil {
		return err
	}
	if err := l.seed(); err != nil {
		return err
	}
	l.header.id = l.geometry.id
	if err := l.header.load(l.path(headerFile)); err != nil {
		return err
	}
	if err := l.checkHeader(); err != nil {
		return err
	}
	l.prepare()
	if err := l.floor.load(l.path(floorFile)); err != nil {
		return err
	}
	if l.floor.record.header > l.header.saved {
		return &CorruptError{File: l.path(headerFile), Offset: headerSlotAt(l.header.slot),
			Why: fmt.Sprintf("its newest save is number %d, and the floor was recorded after number %d: it is an older copy", l.header.saved, l.floor.record.header)}
	}
	if err := l.loadMap(); err != nil {
		return err
	}
	hot, err := l.hot.load(l.path(hotFile), l.geometry)
	if err != nil {
		return err
	}
	if err := l.prove(); err != nil {
		return err
	}
	if err := l.compactTable(); err != nil {
		return err
	}
	if l.clean.Load() {
		l.wasMark, l.was = l.header.doc.Backing.Identity, true
	}
	for _, e := range hot {
		first := e * l.geometry.regionsPerExtent()
		l.versions.set(first, min(first+l.geometry.regionsPerExtent(), l.Regions())-1, lineage.Unknown)
	}
	return nil
}

// prove makes durable what is believed here and that no later save proves to be: the newest header, the newest floor, what
// is hot. A sync that failed in an earlier life left it in memory, where it reads as if it were on the disk, and no sync
// writes it again (vfs.File.Datasync). The same bytes in the same place: whenever the power goes, nothing that was durable is
// lost. The map needs none of it: the header names no page before it was synced. It comes before anything else is written.
func (l *Log) prove() error {
	if l.leftOut(writeAtOpen) {
		return nil
	}
	if err := l.header.prove(); err != nil {
		return err
	}
	if err := l.floor.prove(); err != nil {
		return err
	}
	return l.hot.prove()
}

// openFiles opens and locks the files and sees that they belong together. What a process that was killed had written but
// not synced is made durable first: nothing may be believed that a power cut could still take back.
func (l *Log) openFiles(fsys vfs.FS) error {
	for _, f := range []struct {
		name  string
		open  *vfs.File
		flags vfs.Flag
	}{
		{floorFile, &l.floor.file, vfs.Lock}, {headerFile, &l.header.file, 0}, {mapFile, &l.mapFile, 0}, {hotFile, &l.hot.file, 0},
	} {
		var err error
		*f.open, err = fsys.Open(l.path(f.name), f.flags)
		if _, log := fsys.Stat(l.path(headerFile)); log != nil {
			return log // an unfinished Create is no log
		}
		if errors.Is(err, fs.ErrNotExist) {
			return &CorruptError{File: l.path(f.name), Why: "it is missing"}
		}
		if err == nil {
			err = l.admit(f.name, *f.open)
		}
		if err != nil {
			return err
		}
	}
	if l.leftOut(syncAtOpen) {
		return nil
	}
	return fsys.SyncDir(l.dir)
}

// admit syncs a file and checks that it is of this log.
func (l *Log) admit(name string, f vfs.File) error {
	if !l.leftOut(syncAtOpen) {
		if err := f.Datasync(); err != nil {
			return err
		}
	}
	g, err := readPreamble(name, l.path(name), f)
	if err != nil {
		return err
	}
	if l.geometry != (geometry{}) && g != l.geometry {
		return &CorruptError{File: l.path(name), Offset: 16, Why: fmt.Sprintf("it belongs to another log than %s does", l.path(floorFile))}
	}
	l.geometry = g
	return nil
}

// checkHeader holds the header's document against the preambles.
func (l *Log) checkHeader() error {
	doc, g := &l.header.doc, l.geometry
	volume, err := parseVolume(doc.Volume)
	if err == nil && (volume != g.volume || doc.SizeBytes != g.size || doc.RegionBytes != g.region || doc.ExtentBytes != g.extent) {
		err = errors.New("its volume and sizes are not those of the preamble")
	}
	if err == nil {
		err = checkTable(doc.Generations)
	}
	if err == nil && (doc.Base != lineage.Unknown && doc.Base != lineage.ZeroVersion || doc.BaseCheckpoint > doc.Checkpoint) {
		err = errors.New("its base is neither unknown nor zero")
	}
	if err != nil {
		return &CorruptError{File: l.path(headerFile), Offset: headerSlotAt(l.header.slot), Why: err.Error()}
	}
	return nil
}
