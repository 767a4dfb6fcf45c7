package vfs

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"

	"keelson/internal/block"
)

// memFile is a file of a Mem: 4 KiB pages as the running system sees them, and of every sector that was written since
// the last Datasync what it was before.
type memFile struct {
	mem      *Mem
	inode    uint64
	size     int64
	pages    map[int64]*[memPageBytes]byte
	locked   bool
	changed  int64                          // ChangeTime
	unsynced map[int64][]*[SectorBytes]byte // by sector: the durable content first, then what it was later (nil: zero); not the newest
	sizes    []int64                        // the same of the size

	// What a failed Datasync left: clean, and not on the disk. No later one writes it, unless it is written anew.
	lost      map[int64][]*[SectorBytes]byte // like unsynced
	lostSizes []int64
}

const (
	memPageBytes = 4096
	memPast      = 4 // contents of a sector remembered besides the newest
)

func newMemFile(m *Mem) *memFile {
	m.inodes++
	f := &memFile{mem: m, inode: m.inodes, pages: map[int64]*[memPageBytes]byte{}, unsynced: map[int64][]*[SectorBytes]byte{}, lost: map[int64][]*[SectorBytes]byte{}}
	f.touch()
	return f
}

// touch moves the change time on.
func (f *memFile) touch() {
	f.mem.clock++
	f.changed = f.mem.clock
}

func (f *memFile) identity() Identity { return Identity{KindFile, 1, f.inode, f.size, f.changed, ""} }

// sector returns the content of one sector; nil: zero.
func (f *memFile) sector(n int64) *[SectorBytes]byte {
	page := f.pages[n*SectorBytes/memPageBytes]
	if page == nil {
		return nil
	}
	at := n * SectorBytes % memPageBytes
	s := [SectorBytes]byte(page[at : at+SectorBytes])
	return &s
}

// remember keeps what the sector is, before it changes.
func (f *memFile) remember(n int64) {
	past := append(f.unsynced[n], f.lost[n]...) // only one of them has any
	delete(f.lost, n)
	past = append(past, f.sector(n))
	if len(past) > memPast {
		past = append(past[:1], past[2:]...)
	}
	f.unsynced[n] = past
}

func (f *memFile) setSector(n int64, to *[SectorBytes]byte) {
	page := f.pages[n*SectorBytes/memPageBytes]
	if page == nil {
		if to == nil {
			return
		}
		page = new([memPageBytes]byte)
		f.pages[n*SectorBytes/memPageBytes] = page
	}
	at := n * SectorBytes % memPageBytes
	if to == nil {
		to = &[SectorBytes]byte{}
	}
	copy(page[at:], to[:])
}

func (f *memFile) setSize(size int64) {
	if size != f.size {
		f.regainSize()
		f.sizes = append(f.sizes, f.size)
		f.size = size
	}
}

// regainSize lets the next Datasync write the size that one before failed to.
func (f *memFile) regainSize() {
	f.sizes = append(f.lostSizes, f.sizes...)
	f.lostSizes = nil
}

// put writes one piece that lies within a sector; nil: zeroes.
func (f *memFile) put(p []byte, n int, off int64) {
	f.remember(off / SectorBytes)
	page := f.pages[off/memPageBytes]
	if page == nil {
		if p == nil {
			return
		}
		page = new([memPageBytes]byte)
		f.pages[off/memPageBytes] = page
	}
	at := page[off%memPageBytes:][:n]
	if p == nil {
		clear(at)
	} else {
		copy(at, p)
	}
}

// room takes what the range newly allocates from the free bytes.
func (f *memFile) room(off, n int64) error {
	if f.mem.free < 0 {
		return nil
	}
	need := int64(0)
	for page := off / memPageBytes; page*memPageBytes < off+n; page++ {
		if f.pages[page] == nil {
			need += memPageBytes
		}
	}
	if need > f.mem.free {
		return ErrNoSpace
	}
	f.mem.free -= need
	return nil
}

// write puts p (nil: n zeroes) at off, each sector if keep says so.
func (f *memFile) write(p []byte, n int, off int64, keep func() bool) {
	for done := 0; done < n; {
		piece := min(n-done, SectorBytes-int((off+int64(done))%SectorBytes))
		if keep() {
			var from []byte
			if p != nil {
				from = p[done:]
			}
			f.put(from, piece, off+int64(done))
			if end := off + int64(done+piece); p != nil {
				if len(f.lostSizes) > 0 && end > f.lostSizes[0] {
					f.regainSize()
				}
				f.setSize(max(f.size, end))
			}
		}
		done += piece
	}
	f.touch()
}

func (f *memFile) read(p []byte, off int64) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		piece := p[done:min(len(p), done+memPageBytes-int(at%memPageBytes))]
		if page := f.pages[at/memPageBytes]; page != nil {
			copy(piece, page[at%memPageBytes:])
		} else {
			clear(piece)
		}
		done += len(piece)
	}
}

// memHandle is an open memFile.
type memHandle struct {
	file   *memFile
	path   string
	flags  Flag
	epoch  int
	closed bool
}

func always() bool { return true }

// begin asks the hook and locks the Mem. With torn the call is to be carried out in part, and err returned after it.
func (h *memHandle) begin(op string, off int64, n int) (torn bool, err error) {
	m := h.file.mem
	err = m.ask(op, h.path, off, n)
	m.mu.Lock()
	torn = errors.Is(err, ErrTorn)
	switch {
	case h.epoch != m.epoch:
		torn, err = false, ErrCrashed
	case h.closed:
		torn, err = false, fs.ErrClosed
	case err == nil && h.flags&ReadOnly != 0 && op != "read" && op != "sync":
		err = fs.ErrPermission
	}
	if err != nil && !torn {
		m.mu.Unlock()
	}
	return torn, fail(op, h.path, off, err)
}

func (h *memHandle) ReadAt(p []byte, off int64) (int, error) {
	if torn, err := h.begin("read", off, len(p)); err != nil {
		if torn {
			h.file.mem.mu.Unlock()
		}
		return 0, err
	}
	defer h.file.mem.mu.Unlock()
	n := int(max(0, min(int64(len(p)), h.file.size-off)))
	h.file.read(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) WriteAt(p []byte, off int64) (int, error) {
	torn, err := h.begin("write", off, len(p))
	if err != nil && !torn {
		return 0, err
	}
	m := h.file.mem
	defer m.mu.Unlock()
	if err := h.file.room(off, int64(len(p))); err != nil {
		return 0, fail("write", h.path, off, err)
	}
	keep := always
	if torn {
		keep = func() bool { return m.rand.IntN(2) == 0 }
	}
	h.file.write(p, len(p), off, keep)
	if torn {
		return 0, err
	}
	return len(p), nil
}

// Datasync that fails loses what it should have written, as Linux does: the system shows it still, and takes it for clean;
// it is not on the disk, and no later Datasync writes it. Some of it has reached the disk all the same.
func (h *memHandle) Datasync() error {
	torn, err := h.begin("sync", 0, 0)
	if err != nil && !torn {
		if !errors.Is(err, ErrCrashed) && !errors.Is(err, fs.ErrClosed) {
			h.loseUnsynced()
		}
		return err
	}
	m := h.file.mem
	defer m.mu.Unlock()
	if torn { // part of it has reached the disk
		for _, n := range h.file.unsyncedSectors() {
			if m.rand.IntN(2) == 0 {
				delete(h.file.unsynced, n)
			}
		}
		if !errors.Is(err, ErrCrashed) {
			h.file.lose(m.rand)
		}
		return err
	}
	clear(h.file.unsynced)
	h.file.sizes = nil
	return nil
}

// FailSync does to a file what a Datasync that fails does: for whoever stands between a Mem and its user.
func (m *Mem) FailSync(path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.names[filepath.Clean(path)]; f != nil {
		f.lose(m.rand)
	}
}

func (h *memHandle) loseUnsynced() {
	m := h.file.mem
	m.mu.Lock()
	defer m.mu.Unlock()
	if h.usable() == nil {
		h.file.lose(m.rand)
	}
}

func (h *memHandle) Forget(off, n int64) error {
	m := h.file.mem
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := h.usable(); err != nil {
		return fail("forget", h.path, off, err)
	}
	h.file.forget(m.rand, off, off+n)
	return nil
}

func (h *memHandle) Zero(off, n int64, punch bool) error {
	torn, err := h.begin("zero", off, int(n))
	if err != nil && !torn {
		return err
	}
	m := h.file.mem
	defer m.mu.Unlock()
	if err := inside(off, n, h.file.size); err != nil {
		return fail("zero", h.path, off, err)
	}
	keep := always
	if torn {
		keep = func() bool { return m.rand.IntN(2) == 0 }
	}
	h.file.write(nil, int(n), off, keep)
	if punch && !torn {
		h.file.punch(off, n)
	}
	return err
}

// punch gives whole pages back.
func (f *memFile) punch(off, n int64) {
	for page := (off + memPageBytes - 1) / memPageBytes; (page+1)*memPageBytes <= off+n; page++ {
		if f.pages[page] != nil {
			delete(f.pages, page)
			if f.mem.free >= 0 {
				f.mem.free += memPageBytes
			}
		}
	}
}

func (h *memHandle) Extents(off, n int64) ([]block.Extent, error) {
	m := h.file.mem
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := h.usable(); err != nil {
		return nil, fail("extents", h.path, off, err)
	}
	if err := inside(off, n, h.file.size); err != nil {
		return nil, fail("extents", h.path, off, err)
	}
	var list []block.Extent
	for end := off + n; off < end; {
		piece := min(end-off, memPageBytes-off%memPageBytes)
		hole := h.file.pages[off/memPageBytes] == nil
		if k := len(list) - 1; k >= 0 && list[k].Hole == hole {
			list[k].Len += piece
		} else if len(list) == extentsMax {
			break
		} else {
			list = append(list, block.Extent{Len: piece, Hole: hole, Zero: hole})
		}
		off += piece
	}
	return list, nil
}

func (h *memHandle) usable() error {
	switch {
	case h.epoch != h.file.mem.epoch:
		return ErrCrashed
	case h.closed:
		return fs.ErrClosed
	}
	return nil
}

func (h *memHandle) Truncate(size int64) error {
	torn, err := h.begin("truncate", size, 0)
	if err != nil {
		if torn {
			h.file.mem.mu.Unlock()
		}
		return err
	}
	defer h.file.mem.mu.Unlock()
	f := h.file
	if size < f.size {
		f.write(nil, int(f.size-size), size, always)
		f.punch(size, (f.size+memPageBytes-1)/memPageBytes*memPageBytes-size)
	}
	f.setSize(size)
	f.touch()
	return nil
}

func (h *memHandle) Size() (int64, error) {
	id, err := h.Identity()
	return id.Size, err
}

func (h *memHandle) Identity() (Identity, error) {
	m := h.file.mem
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := h.usable(); err != nil {
		return Identity{}, fail("identity", h.path, 0, err)
	}
	return h.file.identity(), nil
}

func (h *memHandle) Close() error {
	m := h.file.mem
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := h.usable(); err != nil {
		return fail("close", h.path, 0, err)
	}
	h.closed = true
	if h.flags&Lock != 0 {
		h.file.locked = false
	}
	return nil
}
