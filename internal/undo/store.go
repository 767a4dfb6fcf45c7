package undo

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"keelson/internal/vfs"
)

// Store keeps salvages, each in a file of its own, in one directory. All methods may be called concurrently.
//
// A salvage is being written in NNNN.new and gets the name NNNN.salvage when it is durable: it is there whole, or not at all.
type Store struct {
	fs   vfs.FS
	dir  string
	o    StoreOptions
	lock vfs.File

	mu    sync.Mutex
	slots [salvagesMax]slot
	bytes int64 // of all slots
}

// slot is a number that a salvage's file may have.
type slot struct {
	state slotState
	bytes int64 // on the disk
	meta  Salvage
	views int
}

type slotState uint8

const (
	slotFree slotState = iota
	slotWriting
	slotKept
	slotGoing // being deleted
)

// StoreOptions of an open store.
type StoreOptions struct {
	BytesMax  int64         // of all salvages on the disk; 0: no limit but the disk's
	Retention time.Duration // after which a salvage expires, unless it says so itself; 0: never
	leftOut   protection
}

const (
	salvagesMax   = 256
	salvageSuffix = ".salvage"
	lockFile      = "lock"
	lowShare      = 5 // room is low when less than a 5th of BytesMax is left
)

func (s *Store) leftOut(p protection) bool { return s.o.leftOut&p != 0 }

// OpenStore opens the store in dir, or makes an empty one. A salvage that is damaged is listed as such. It is locked:
// vfs.ErrInUse for a second one. What was being written when the process or the machine stopped is removed.
func OpenStore(fsys vfs.FS, dir string, o StoreOptions) (*Store, error) {
	s := &Store{fs: fsys, dir: dir, o: o}
	if err := s.open(); err != nil {
		if s.lock != nil {
			s.lock.Close()
		}
		return nil, s.say("open", err)
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return err
	}
	if s.lock, err = s.fs.Open(filepath.Join(s.dir, lockFile), vfs.Create|vfs.Lock); err != nil {
		return err
	}
	for n := range s.slots {
		if _, err := s.fs.Stat(s.path(n, newSuffix)); err == nil {
			if err := s.fs.Remove(s.path(n, newSuffix)); err != nil {
				return err
			}
		}
		if err := s.load(n); err != nil {
			return err
		}
	}
	if s.leftOut(syncAtOpen) {
		return nil
	}
	return s.fs.SyncDir(s.dir)
}

// load takes what is in a slot.
func (s *Store) load(n int) error {
	id, err := s.fs.Stat(s.path(n, salvageSuffix))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := s.fs.Open(s.path(n, salvageSuffix), vfs.ReadOnly)
	if err != nil {
		return err
	}
	defer f.Close()
	_, meta, err := readFooter(f, s.path(n, salvageSuffix))
	var bad *CorruptError
	if errors.As(err, &bad) {
		meta, err = Salvage{ID: fmt.Sprintf("damaged-%04d", n), Damaged: err.Error()}, nil
	}
	if err != nil {
		return err
	}
	s.slots[n] = slot{state: slotKept, bytes: id.Size, meta: meta}
	s.bytes += id.Size
	return nil
}

func (s *Store) path(n int, suffix string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%04d%s", n, suffix))
}

func (s *Store) say(doing string, err error) error {
	return fmt.Errorf("salvages in %s: %s: %w", s.dir, doing, err)
}

// Close gives up the lock. Writers are aborted and views closed before.
func (s *Store) Close() error { return s.lock.Close() }

// List is all salvages, oldest first.
func (s *Store) List() []Salvage {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Salvage
	for n := range s.slots {
		if s.slots[n].state == slotKept {
			list = append(list, s.slots[n].meta.clone())
		}
	}
	slices.SortStableFunc(list, func(a, b Salvage) int { return a.Time.Compare(b.Time) })
	return list
}

// Expired is the salvages whose time is over. The store deletes nothing by itself.
func (s *Store) Expired(now time.Time) []Salvage {
	return slices.DeleteFunc(s.List(), func(m Salvage) bool { return m.Expires.IsZero() || m.Expires.After(now) })
}

// Bytes is what all salvages take on the disk, unfinished ones included.
func (s *Store) Bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// Room is how many bytes are left below the limit (math.MaxInt64 without one), and whether that is little. The disk may have less.
func (s *Store) Room() (left int64, low bool) {
	if s.o.BytesMax <= 0 {
		return math.MaxInt64, false
	}
	left = max(0, s.o.BytesMax-s.Bytes())
	return left, left < s.o.BytesMax/lowShare
}

// find returns the slot of a salvage. Under mu.
func (s *Store) find(id string) (int, error) {
	for n := range s.slots {
		if s.slots[n].state == slotKept && s.slots[n].meta.ID == id {
			return n, nil
		}
	}
	return 0, fmt.Errorf("salvage %s: %w", id, ErrUnknown)
}

// Delete gives a salvage up, durably.
func (s *Store) Delete(id string) error {
	s.mu.Lock()
	n, err := s.find(id)
	if err == nil && s.slots[n].views > 0 {
		err = fmt.Errorf("salvage %s: %w: close it first", id, ErrInUse)
	}
	if err != nil {
		s.mu.Unlock()
		return s.say("delete", err)
	}
	s.slots[n].state = slotGoing
	s.mu.Unlock()

	err = s.fs.Remove(s.path(n, salvageSuffix))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.mu.Lock()
		s.slots[n].state = slotKept
		s.mu.Unlock()
		return s.say("delete salvage "+id, err)
	}
	if err = nil; !s.leftOut(salvageNamed) {
		err = s.fs.SyncDir(s.dir)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free(n)
	if err != nil {
		return s.say("delete salvage "+id, fmt.Errorf("it is removed, but may be there again after a power cut: %w", err))
	}
	return nil
}

// free gives a slot back. Under mu.
func (s *Store) free(n int) {
	s.bytes -= s.slots[n].bytes
	s.slots[n] = slot{}
}
