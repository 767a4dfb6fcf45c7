package cluster

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"
)

// Invitations are kept by the server that made them and by no other, so that a token cannot be used twice while servers
// do not reach each other. Of a token only a hash is kept. docs/formats/invites.md.
const (
	invitesFile     = "invites"
	invitesMagic    = "keelson-invites"
	invitesVersion  = 1
	invitesBytesMax = 256 << 10
	invitesMax      = 64
)

// invite is an invitation as it is kept.
type invite struct {
	Hash string    `json:"hash"` // SHA-256 of the secret, in hexadecimal
	Name string    `json:"name,omitempty"`
	Ends time.Time `json:"ends"`
	Used string    `json:"used,omitempty"` // the key that was admitted by it
}

// Reasons why a token admits nobody.
var (
	ErrTokenUnknown = errors.New("this server has made no such token")
	ErrTokenUsed    = errors.New("the token was used already")
	ErrTokenExpired = errors.New("the token has ended")
	ErrTokenName    = errors.New("the token is for a server of another name")
	ErrMember       = errors.New("there is a member of that name already")
	errTooMany      = fmt.Errorf("there are %d invitations that have not ended", invitesMax)
)

type invites struct {
	Invites []invite `json:"invites"`
}

func (i invites) check() error {
	if len(i.Invites) > invitesMax {
		return errTooMany
	}
	for _, in := range i.Invites {
		if b, err := hex.DecodeString(in.Hash); err != nil || len(b) != sha256.Size {
			return errors.New("a hash is none")
		}
		if year := in.Ends.Year(); year < 0 || year > 9999 {
			return errors.New("an end is none")
		}
	}
	return nil
}

func decodeInvites(data []byte) (*invites, error) {
	body, at, err := unseal("invitations", invitesMagic, invitesVersion, data, invitesBytesMax)
	if err != nil {
		return nil, err
	}
	i := new(invites)
	err = strictly(body, i)
	if err == nil {
		err = i.check()
	}
	if err != nil {
		return nil, &FormatError{"invitations", int64(at), err.Error()}
	}
	return i, nil
}

func (s *Store) loadInvites() (*invites, error) {
	name := path.Join(s.dir, invitesFile)
	data, err := readAll(s.fs, name, invitesBytesMax+headLineMax)
	if errors.Is(err, fs.ErrNotExist) {
		return new(invites), nil
	}
	if err != nil {
		return nil, err
	}
	i, err := decodeInvites(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove it, and invite again", name, err)
	}
	return i, nil
}

func (s *Store) saveInvites(i *invites) error {
	if err := i.check(); err != nil {
		return err
	}
	return WriteFile(s.fs, path.Join(s.dir, invitesFile), seal(invitesMagic, invitesVersion, append(text(i), '\n')))
}

// Invite makes an invitation that ends after so long, for a server of that name or, with "", of any, and returns its
// secret. It is durable when Invite returns.
func (s *Store) Invite(name string, lasts time.Duration) (secret [16]byte, ends time.Time, err error) {
	if name != "" {
		if err := checkNodeName(name); err != nil {
			return secret, ends, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.loadInvites()
	if err != nil {
		return secret, ends, err
	}
	rand.Read(secret[:]) // never fails: see crypto/rand
	now := s.now()
	ends = now.Add(lasts).UTC().Truncate(time.Second)
	i.Invites = slices.DeleteFunc(i.Invites, func(in invite) bool { return now.After(in.Ends) })
	i.Invites = append(i.Invites, invite{Hash: hashOf(secret), Name: name, Ends: ends})
	return secret, ends, s.saveInvites(i)
}

func hashOf(secret [16]byte) string {
	sum := sha256.Sum256(secret[:])
	return hex.EncodeToString(sum[:])
}

// Redeem admits the server by the secret of an invitation, once: what is written down first is that it was used. The
// same key is admitted again by it, because the answer may have been lost; nobody else is. known says that there was such
// an invitation, whatever became of it.
func (s *Store) Redeem(secret [16]byte, m Member) (known bool, err error) {
	if len(m.Keys) != 1 {
		return false, errors.New("a server joins with one key")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.loadInvites()
	if err != nil {
		return false, err
	}
	// A hash is looked up, not compared bit by bit: its time tells nothing of a secret of 128 random bits.
	at := slices.IndexFunc(i.Invites, func(in invite) bool { return in.Hash == hashOf(secret) })
	if at < 0 {
		return false, ErrTokenUnknown
	}
	in := &i.Invites[at]
	again := in.Used == m.Keys[0]
	var was Member
	if place, ok := find(s.doc.Members, m.Name); ok {
		was = s.doc.Members[place]
	}
	switch {
	case in.Used != "" && !again:
		return true, ErrTokenUsed
	case s.now().After(in.Ends):
		return true, ErrTokenExpired
	case in.Name != "" && in.Name != m.Name:
		return true, ErrTokenName
	case was.Epoch > 0 && !was.Removed && !(again && slices.Equal(was.Keys, m.Keys)):
		return true, ErrMember
	case again && was.Removed:
		return true, ErrTokenUsed
	}
	m.Admitted = ByInvite
	m.Stamp = was.next(s.self, false, s.now())
	next := &Document{Members: put(s.doc.Members, m), Users: s.doc.Users, Clients: s.doc.Clients}
	if err := next.check(); err != nil {
		return true, err
	}
	if !again {
		in.Used = m.Keys[0]
		if err := s.saveInvites(i); err != nil {
			return true, err
		}
	}
	return true, s.replace(next)
}
