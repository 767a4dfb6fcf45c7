// Package cluster keeps what every member of a cluster has to have: its servers, the users of the page, and who did what.
//
// The document (servers and users) is on every member, as a file, and no member is special. A member changes an entry
// by raising its stamp, durably here, and members that meet merge their documents entry by entry: the greater stamp wins,
// the same one everywhere, whatever the order in which documents meet. Entries are never dropped: a removal is an entry
// too, so that a member that missed it cannot bring the removed one back.
//
// The audit is a log beside it: each member numbers its own lines, and members that meet give each other what they lack.
//
// How both travel is not this package's: a peer hands over what Document and AuditAfter returned to Merge and AuditMerge.
package cluster

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Limits of a document. An entry that was removed counts: its place is free for the same name again.
const (
	MembersMax       = 256
	UsersMax         = 1024
	ClientsMax       = 256
	KeysMax          = 4 // of a server
	DocumentBytesMax = 2 << 20
	counterMax       = 1 << 52 // a JSON number that every program reads exactly
)

// Stamp orders the states of an entry. Comparing it gives the same answer everywhere.
type Stamp struct {
	// Epoch is raised only when something that was removed is made again. Within an epoch a removal wins over every
	// change that does not know of it.
	Epoch   uint64    `json:"epoch"`
	Removed bool      `json:"removed,omitempty"`
	Counter uint64    `json:"counter"` // raised by each change
	By      string    `json:"by"`      // the server on which it was made
	Changed time.Time `json:"changed"` // for people: no decision looks at it
}

func (s Stamp) compare(o Stamp) int {
	removed := 0
	if s.Removed != o.Removed {
		removed = 1
		if o.Removed {
			removed = -1
		}
	}
	return cmp.Or(cmp.Compare(s.Epoch, o.Epoch), removed, cmp.Compare(s.Counter, o.Counter), cmp.Compare(s.By, o.By))
}

// next is the stamp of a change that follows s.
func (s Stamp) next(by string, removed bool, now time.Time) Stamp {
	n := Stamp{Epoch: s.Epoch, Counter: s.Counter + 1, By: by, Removed: removed, Changed: now.UTC().Truncate(time.Second)}
	if n.Epoch == 0 || s.Removed && !removed {
		n.Epoch++
	}
	return n
}

// How a server became a member.
const (
	ByInvite = "invite" // by a token; only its keys are let in, whatever else the cluster's CA may have signed
	ByConfig = "config" // named in [[peer]] of configurations; every certificate of the cluster's CA with its name is let in
)

// Member is a server of the cluster.
type Member struct {
	Name     string   `json:"name"`
	Address  string   `json:"address"`        // HOST:PORT at which the others reach it
	Keys     []string `json:"keys,omitempty"` // identities of its certificates: SHA-256 of the public key, in hexadecimal
	Admitted string   `json:"admitted"`       // ByInvite | ByConfig
	Stamp
}

// Roles of users, from the one who may do everything to the one who may only look.
const (
	Administrator = "administrator"
	Operator      = "operator" // may switch over
	Viewer        = "viewer"
)

// User is a person who may use the page.
type User struct {
	Name string `json:"name"`
	Role string `json:"role"`
	Hash string `json:"hash,omitempty"` // of the password (package password); "": no login with a password
	// Logins counts up to end sessions: one that began with a smaller number is over. A new hash raises it too.
	Logins uint64 `json:"logins"`
	Stamp
}

// Client is a program or machine that may use volumes by NBD over TCP with TLS, from anywhere.
type Client struct {
	Name string `json:"name"`
	Key  string `json:"key"` // identity of its certificates, as Member.Keys
	Stamp
}

// Document is what all members have in common.
type Document struct {
	Members []Member `json:"members"`           // by name, removed ones too
	Users   []User   `json:"users"`             // by name, removed ones too
	Clients []Client `json:"clients,omitempty"` // by name, removed ones too
}

// entry is what members and users have in common.
type entry interface {
	key() string
	stamp() Stamp
}

func (m Member) key() string  { return m.Name }
func (m Member) stamp() Stamp { return m.Stamp }
func (u User) key() string    { return u.Name }
func (u User) stamp() Stamp   { return u.Stamp }
func (c Client) key() string  { return c.Name }
func (c Client) stamp() Stamp { return c.Stamp }

// merged is the union of two sorted lists; of two entries of one name the one with the greater stamp. Stamps that are
// equal although the contents are not (a server that was put back from an old copy) are decided by the contents.
func merged[E entry](a, b []E) []E {
	out := make([]E, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch c := cmp.Compare(a[0].key(), b[0].key()); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			winner := a[0]
			if c := b[0].stamp().compare(a[0].stamp()); c > 0 || c == 0 && bytes.Compare(text(b[0]), text(a[0])) > 0 {
				winner = b[0]
			}
			out, a, b = append(out, winner), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// merge is the document that both become when they meet.
func merge(a, b *Document) *Document {
	return &Document{Members: merged(a.Members, b.Members), Users: merged(a.Users, b.Users), Clients: merged(a.Clients, b.Clients)}
}

func text(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("cluster: %v", err)) // strings, numbers, times of this century
	}
	return data
}

// find returns the place of a name in a sorted list, and whether it is there.
func find[E entry](list []E, name string) (int, bool) {
	return slices.BinarySearchFunc(list, name, func(e E, name string) int { return cmp.Compare(e.key(), name) })
}

// put replaces or adds an entry of a sorted list; the list given stays as it is.
func put[E entry](list []E, e E) []E {
	at, there := find(list, e.key())
	out := slices.Clone(list)
	if there {
		out[at] = e
		return out
	}
	return slices.Insert(out, at, e)
}

// live are the entries that were not removed.
func live[E entry](list []E) []E {
	out := []E{}
	for _, e := range list {
		if !e.stamp().Removed {
			out = append(out, e)
		}
	}
	return out
}
