package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// ErrCrashed is what every handle from before a crash of a Mem answers, and what a hook returns to crash there.
var ErrCrashed = errors.New("crashed")

// ErrTorn, in the error that a hook returns for a write, zero or sync, carries it out for some of the sectors, chosen at
// random, before the call fails with that error.
var ErrTorn = errors.New("torn")

// Mem is a file system in memory that can crash: CrashProcess forgets handles and locks, CrashPower besides everything
// that was not made durable. Its randomness comes from the seed alone.
//
// Directories are durable when made. Names that were made, changed or removed without SyncDir, and sizes and sectors
// without Datasync, are each kept or lost by a power crash at random; a sector also keeps any of the last few contents
// it had since it was durable. A Datasync that fails loses what it should have written: see its comment.
type Mem struct {
	mu      sync.Mutex // over everything below, and what is in files
	rand    *rand.Rand
	epoch   int // of handles; a crash begins the next
	dirs    map[string]bool
	names   map[string]*memFile // as the running system sees them
	durable map[string]*memFile // as they are on the disk for sure
	pending []change            // of names, not durable yet, in order
	inodes  uint64
	clock   int64
	free    int64 // bytes left; < 0: no limit
	hook    func(op, path string, off int64, n int) error
}

// change of one name or two.
type change struct {
	dirs     [2]string
	from, to string   // from: gone; to: leads to file
	file     *memFile // of to
}

// NewMem returns an empty file system with the directory "/" and ".".
func NewMem(seed int64) *Mem {
	return &Mem{
		rand: rand.New(rand.NewPCG(uint64(seed), 0x6d656d)), dirs: map[string]bool{"/": true, ".": true},
		names: map[string]*memFile{}, durable: map[string]*memFile{}, free: -1, clock: 1,
	}
}

// Inject sets what is called before each operation: open, read, write, sync, zero, truncate, remove, rename, syncdir.
// A non-nil error is returned instead of doing it (but see ErrTorn). nil takes the hook away. The hook may use the Mem.
func (m *Mem) Inject(hook func(op, path string, off int64, n int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hook = hook
}

// SetFree limits what may still be allocated, in bytes; negative: no limit. Overwriting costs nothing.
func (m *Mem) SetFree(bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = bytes
}

// ask calls the hook, outside of the lock.
func (m *Mem) ask(op, path string, off int64, n int) error {
	m.mu.Lock()
	hook := m.hook
	m.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op, path, off, n)
}

// Open implements FS.
func (m *Mem) Open(path string, flags Flag) (File, error) {
	path = filepath.Clean(path)
	if err := m.ask("open", path, 0, 0); err != nil {
		return nil, fail("open", path, 0, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.names[path]
	switch {
	case m.dirs[path]:
		return nil, fail("open", path, 0, errors.New("is neither a file nor a block device: name one"))
	case f == nil && (flags&Create == 0 || !m.dirs[filepath.Dir(path)]):
		return nil, fail("open", path, 0, fs.ErrNotExist)
	case f != nil && flags&Create != 0 && flags&Exclusive != 0:
		return nil, fail("open", path, 0, fs.ErrExist)
	case f != nil && flags&Lock != 0 && f.locked:
		return nil, fail("lock", path, 0, ErrInUse)
	case f == nil:
		f = newMemFile(m)
		m.rename(change{dirs: [2]string{filepath.Dir(path)}, to: path, file: f})
	}
	if flags&Lock != 0 {
		f.locked = true
	}
	return &memHandle{file: f, path: path, flags: flags, epoch: m.epoch}, nil
}

// rename makes a change of names visible; it is not durable yet.
func (m *Mem) rename(c change) {
	c.apply(m.names)
	m.pending = append(m.pending, c)
}

func (c change) apply(names map[string]*memFile) {
	if c.from != "" {
		delete(names, c.from)
	}
	if c.to != "" {
		names[c.to] = c.file
	}
}

// Remove implements FS.
func (m *Mem) Remove(path string) error {
	path = filepath.Clean(path)
	if err := m.ask("remove", path, 0, 0); err != nil {
		return fail("remove", path, 0, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.names[path] == nil {
		return fail("remove", path, 0, fs.ErrNotExist)
	}
	m.rename(change{dirs: [2]string{filepath.Dir(path)}, from: path})
	return nil
}

// Rename implements FS.
func (m *Mem) Rename(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	if err := m.ask("rename", from, 0, 0); err != nil {
		return fail("rename", from, 0, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.names[from]
	if f == nil && !m.dirs[from] || !m.dirs[filepath.Dir(to)] {
		return fail("rename", from, 0, fs.ErrNotExist)
	}
	if f == nil {
		m.renameDir(from, to)
		return nil
	}
	m.rename(change{dirs: [2]string{filepath.Dir(from), filepath.Dir(to)}, from: from, to: to, file: f})
	return nil
}

// renameDir moves a directory with all that is below it. A power crash may leave parts of it on either side, which is worse than any
// file system does.
func (m *Mem) renameDir(from, to string) {
	moved := func(path string) (string, bool) {
		return to + strings.TrimPrefix(path, from), path == from || strings.HasPrefix(path, from+"/")
	}
	for _, path := range slices.Sorted(maps.Keys(m.names)) {
		if there, below := moved(path); below {
			m.rename(change{dirs: [2]string{filepath.Dir(from), filepath.Dir(to)}, from: path, to: there, file: m.names[path]})
		}
	}
	for _, path := range slices.Sorted(maps.Keys(m.dirs)) {
		if there, below := moved(path); below {
			delete(m.dirs, path)
			m.dirs[there] = true
		}
	}
}

// SyncDir implements FS.
func (m *Mem) SyncDir(dir string) error {
	dir = filepath.Clean(dir)
	if err := m.ask("syncdir", dir, 0, 0); err != nil {
		return fail("syncdir", dir, 0, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return fail("syncdir", dir, 0, fs.ErrNotExist)
	}
	rest := m.pending[:0]
	for _, c := range m.pending {
		if c.dirs[0] == dir || c.dirs[1] == dir {
			c.apply(m.durable)
		} else {
			rest = append(rest, c)
		}
	}
	m.pending = rest
	return nil
}

// MkdirAll implements FS.
func (m *Mem) MkdirAll(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for d := filepath.Clean(dir); !m.dirs[d]; d = filepath.Dir(d) {
		if m.names[d] != nil {
			return fail("mkdir", dir, 0, fmt.Errorf("a file is in the way: %w", fs.ErrExist))
		}
		m.dirs[d] = true
	}
	return nil
}

// List implements FS.
func (m *Mem) List(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirs[dir] {
		return nil, fail("list", dir, 0, fs.ErrNotExist)
	}
	var names []string
	for path := range m.names {
		if filepath.Dir(path) == dir {
			names = append(names, filepath.Base(path))
		}
	}
	for path := range m.dirs {
		if path != dir && filepath.Dir(path) == dir {
			names = append(names, filepath.Base(path))
		}
	}
	slices.Sort(names)
	return names, nil
}

// RemoveAll implements FS. The directory itself is there again if a power crash brings a file of it back.
func (m *Mem) RemoveAll(dir string) error {
	dir = filepath.Clean(dir)
	if err := m.ask("remove", dir, 0, 0); err != nil {
		return fail("remove", dir, 0, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	below := func(path string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
	for _, path := range slices.Sorted(maps.Keys(m.names)) {
		if below(path) {
			m.rename(change{dirs: [2]string{filepath.Dir(path), filepath.Dir(dir)}, from: path})
		}
	}
	for path := range m.dirs {
		if below(path) {
			delete(m.dirs, path)
		}
	}
	return nil
}

// Stat implements FS.
func (m *Mem) Stat(path string) (Identity, error) {
	path = filepath.Clean(path)
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.names[path]
	if f == nil {
		return Identity{}, fail("stat", path, 0, fs.ErrNotExist)
	}
	return f.identity(), nil
}
