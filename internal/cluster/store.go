package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"

	"keelson/internal/vfs"
)

const (
	documentFile = "document"
	newSuffix    = ".new"
)

// Options of a Store. The zero value is for use; tests set the clock.
type Options struct {
	Now func() time.Time // time.Now
}

// Store is this member's copy of the document and of the audit. All methods may be called concurrently. What a method
// that changes something has returned nil for is durable here.
type Store struct {
	fs   vfs.FS
	dir  string
	self string
	now  func() time.Time

	mu      sync.Mutex // guards what follows, file I/O included
	doc     *Document  // never changed in place: readers keep it
	digest  string
	changed chan struct{} // closed and replaced with every change of the document
	audit   auditLog
}

// Open opens the store of server self in dir, or makes it.
func Open(fsys vfs.FS, dir, self string, o Options) (*Store, error) {
	if err := checkNodeName(self); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	s := &Store{fs: fsys, dir: dir, self: self, now: o.Now, changed: make(chan struct{}), doc: &Document{Members: []Member{}, Users: []User{}}}
	data, err := readAll(fsys, path.Join(dir, documentFile), DocumentBytesMax+headLineMax)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if s.doc, err = decode(data); err != nil {
			return nil, fmt.Errorf("%s: %w; put it back from another member: stop this agent, remove the file, and start it", path.Join(dir, documentFile), err)
		}
	}
	s.digest = s.doc.digest()
	s.audit = auditLog{fs: fsys, dir: dir, max: segmentBytesMax}
	if err := s.audit.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// Close gives the files up.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.audit.close()
}

func readAll(fsys vfs.FS, path string, bytesMax int64) ([]byte, error) {
	f, err := fsys.Open(path, vfs.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > bytesMax {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, size, bytesMax)
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); err != nil && (!errors.Is(err, io.EOF) || n < len(data)) {
		return nil, err
	}
	return data, nil
}

// WriteFile replaces a file as a whole, durably: after a crash it is the old one or the new one.
func WriteFile(fsys vfs.FS, name string, data []byte) error {
	f, err := fsys.Open(name+newSuffix, vfs.Create)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Datasync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(name+newSuffix, name); err != nil {
		return err
	}
	return fsys.SyncDir(path.Dir(name))
}

// replace makes a document the current one, durably. The mutex is held. If it fails the old one stays.
func (s *Store) replace(d *Document) error {
	if err := d.check(); err != nil {
		return err
	}
	data, err := d.encode()
	if err != nil {
		return err
	}
	if err := WriteFile(s.fs, path.Join(s.dir, documentFile), data); err != nil {
		return err
	}
	s.doc, s.digest = d, d.digest()
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// Changed is closed at the next change of the document, from here or from another member.
func (s *Store) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *Store) current() *Document {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doc
}

// Digest names the content of the document: members with equal digests have nothing to tell each other.
func (s *Store) Digest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.digest
}

// Document is the whole, for Merge at another member.
func (s *Store) Document() ([]byte, error) { return s.current().encode() }

// Merge takes what another member's Document was. It reports whether anything is new here. What is not a document
// changes nothing.
func (s *Store) Merge(data []byte) (changed bool, err error) {
	theirs, err := decode(data)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	both := merge(s.doc, theirs)
	if both.digest() == s.digest {
		return false, nil
	}
	return true, s.replace(both)
}

// Members are the servers of the cluster, by name.
func (s *Store) Members() []Member { return live(s.current().Members) }

// AllMembers are Members and those that were removed, by name.
func (s *Store) AllMembers() []Member { return s.current().Members }

// Member is a server by its name. One that was removed is found too: Removed says so.
func (s *Store) Member(name string) (Member, bool) {
	list := s.current().Members
	at, ok := find(list, name)
	if !ok {
		return Member{}, false
	}
	return list[at], true
}

// SetMember admits a server or changes it. The stamp given is of no account.
func (s *Store) SetMember(m Member) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var was Member
	if at, ok := find(s.doc.Members, m.Name); ok {
		was = s.doc.Members[at]
	}
	m.Stamp = was.Stamp.next(s.self, false, s.now())
	m.Keys = slices.Clone(m.Keys)
	return s.replace(&Document{Members: put(s.doc.Members, m), Users: s.doc.Users, Clients: s.doc.Clients})
}

// RemoveMember notes that a server is no member, also one that never was in the document. What is removed already
// stays as it is.
func (s *Store) RemoveMember(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := Member{Name: name, Admitted: ByConfig}
	if at, ok := find(s.doc.Members, name); ok {
		m = s.doc.Members[at]
	}
	if m.Removed {
		return nil
	}
	m.Stamp = m.Stamp.next(s.self, true, s.now())
	return s.replace(&Document{Members: put(s.doc.Members, m), Users: s.doc.Users, Clients: s.doc.Clients})
}

// Users are the users of the page, by name.
func (s *Store) Users() []User { return live(s.current().Users) }

// User is a user of the page by name; false if there is none, or none any more.
func (s *Store) User(name string) (User, bool) {
	list := s.current().Users
	at, ok := find(list, name)
	if !ok || list[at].Removed {
		return User{}, false
	}
	return list[at], true
}

// SetUser makes a user or changes one. The stamp given is of no account. A new hash or role, and a user made again,
// ends sessions: Logins is raised.
func (s *Store) SetUser(u User) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var was User
	if at, ok := find(s.doc.Users, u.Name); ok {
		was = s.doc.Users[at]
	}
	u.Logins = max(u.Logins, was.Logins)
	if was.Removed || was.Hash != u.Hash || was.Role != u.Role {
		u.Logins = was.Logins + 1
	}
	u.Stamp = was.Stamp.next(s.self, false, s.now())
	return s.replace(&Document{Members: s.doc.Members, Users: put(s.doc.Users, u), Clients: s.doc.Clients})
}

// RemoveUser removes a user; one that there is not is removed already.
func (s *Store) RemoveUser(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := find(s.doc.Users, name)
	if !ok || s.doc.Users[at].Removed {
		return nil
	}
	u := s.doc.Users[at]
	u.Hash = ""
	u.Stamp = u.Stamp.next(s.self, true, s.now())
	return s.replace(&Document{Members: s.doc.Members, Users: put(s.doc.Users, u), Clients: s.doc.Clients})
}
