package intentlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// Create makes a log in dir, durably, and opens it. Every region gets the initial version: Unknown, or ZeroVersion if
// the caller itself made the content zero (rule 3). h.Volume and the sizes are needed; Generations and Checkpoint are set
// here. It refuses if dir has a log (fs.ErrExist) or is in use (vfs.ErrInUse); what an unfinished Create left is overwritten.
func Create(fsys vfs.FS, dir string, h Header, initial lineage.Version, o Options) (*Log, error) {
	l := &Log{dir: dir, options: o.withDefaults()}
	err := l.create(fsys, h.clone(), initial)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("create intent log %s: %w", dir, err)
	}
	return l, nil
}

func (l *Log) create(fsys vfs.FS, h Header, initial lineage.Version) error {
	if initial != lineage.Unknown && initial != lineage.ZeroVersion {
		return fmt.Errorf("the initial version %x is neither unknown nor zero", uint64(initial))
	}
	volume, err := parseVolume(h.Volume)
	if err != nil {
		return err
	}
	l.geometry = geometry{volume: volume, size: h.SizeBytes, region: h.RegionBytes, extent: h.ExtentBytes}
	if err := l.geometry.check(); err != nil {
		return err
	}
	if err := l.seed(); err != nil {
		return err
	}
	if _, err := io.ReadFull(l.options.Random, l.geometry.id[:]); err != nil {
		return err
	}
	if err := fsys.MkdirAll(l.dir); err != nil {
		return err
	}
	if l.floor.file, err = fsys.Open(l.path(floorFile), vfs.Create|vfs.Lock); err != nil {
		return err
	}
	if _, err := fsys.Stat(l.path(headerFile)); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("there is one already: open it, or name another directory: %w", fs.ErrExist)
		}
		return err
	}
	h.Generations = []lineage.GenID{{}, lineage.ZeroGen}
	h.Checkpoint = 0
	l.header.doc = headerDoc{Header: h, Base: initial}
	l.prepare()
	l.versions.init(l.geometry, initial)
	l.committed = make([]uint64, l.geometry.pages())
	return l.createFiles(fsys)
}

// prepare sets up what is the same for a new and an old log.
func (l *Log) prepare() {
	l.header.id, l.floor.id, l.hot.id = l.geometry.id, l.geometry.id, l.geometry.id
	l.hot.init(l.geometry)
	l.table.set(l.header.doc.Generations)
	l.clean.Store(l.header.doc.Backing.Clean)
}

// createFiles makes all files durable; the header gets its name last, and that is when the log exists.
func (l *Log) createFiles(fsys vfs.FS) error {
	for _, f := range []struct {
		name string
		open *vfs.File
		fill func() error
	}{
		{floorFile, &l.floor.file, l.createFloor},
		{mapFile, &l.mapFile, func() error { return nil }},
		{hotFile, &l.hot.file, func() error { return l.hot.create(l.geometry) }},
		{headerNew, &l.header.file, l.createHeader},
	} {
		if err := l.createFile(fsys, f.name, f.open, f.fill); err != nil {
			return err
		}
	}
	if err := fsys.SyncDir(l.dir); err != nil {
		return err
	}
	if err := fsys.Rename(l.path(headerNew), l.path(headerFile)); err != nil {
		return err
	}
	if err := fsys.SyncDir(l.dir); err != nil {
		return err
	}
	l.header.file.Close() // it was opened under its other name
	var err error
	l.header.file, err = fsys.Open(l.path(headerFile), 0)
	return err
}

func (l *Log) createFile(fsys vfs.FS, name string, f *vfs.File, fill func() error) (err error) {
	kindOf := name
	if name == headerNew {
		kindOf = headerFile
	}
	if *f == nil {
		if *f, err = fsys.Open(l.path(name), vfs.Create); err != nil {
			return err
		}
	}
	if err := (*f).Truncate(0); err != nil {
		return err
	}
	if err := (*f).Truncate(fileBytes(kindOf, l.geometry)); err != nil {
		return err
	}
	if _, err := (*f).WriteAt(encodePreamble(kindOf, l.geometry), 0); err != nil {
		return err
	}
	if err := fill(); err != nil {
		return err
	}
	return (*f).Datasync()
}

func (l *Log) createFloor() error {
	for slot := range 2 {
		l.floor.record = floorRecord{sequence: uint64(slot + 1), position: l.header.doc.Position}
		encodeFloor(l.floor.sector[:], l.floor.record, &l.geometry.id)
		if _, err := l.floor.file.WriteAt(l.floor.sector[:], floorAt(slot)); err != nil {
			return err
		}
		l.floor.slot, l.floor.tried = slot, uint64(slot+1)
	}
	l.floor.show()
	return nil
}

// createHeader writes both slots, so that an empty one is never anything but damage.
func (l *Log) createHeader() error {
	for range 2 {
		if err := l.header.save(l.header.doc, l.stamp.Add(1), false); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes a log that nobody has open, durably. It succeeds if there is none.
func Remove(fsys vfs.FS, dir string) error {
	l := &Log{dir: dir}
	f, err := fsys.Open(l.path(floorFile), vfs.Lock)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove intent log: %w", err)
	}
	defer f.Close()
	// The header first: what is left then is an unfinished Create.
	for _, name := range []string{headerFile, headerNew, hotFile, mapFile, floorFile} {
		if err := fsys.Remove(l.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove intent log: %w", err)
		}
		if err := fsys.SyncDir(dir); err != nil {
			return fmt.Errorf("remove intent log: %w", err)
		}
	}
	return nil
}
