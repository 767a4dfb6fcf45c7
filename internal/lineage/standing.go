package lineage

import "slices"

// Role of a replica.
type Role string

// The roles. A server opens the volume's device only while its role is RoleSource and the term it serves names it (rule 20).
const (
	RoleTarget Role = "target" // holds a copy that only its mirror changes
	RoleSource Role = "source" // is, or was when it stopped, the server whose applications use the volume
	RoleHanded Role = "handed" // has handed the role to its heir, durably, and waits to see it serve (rule 21)
)

// Standing is what one server remembers of roles, terms, membership and the in-sync set of a volume. It is
// saved as a whole, in one atomic header write. The mirror machine owns it; history, position and consistency
// beside it belong to the data path.
type Standing struct {
	Role     Role     `json:"role"`
	Promised Term     `json:"promised"` // never goes down; it follows nobody below it
	Served   Term     `json:"served"`   // the last term in which it served
	Record   Record   `json:"record"`
	Heir     *Heir    `json:"heir,omitempty"` // while Role is handed
	Settings Settings `json:"settings"`
	// Discard: an administrator decided that this replica's surplus is given up. Cleared when it has followed a source to
	// the end of a resync.
	Discard bool `json:"discard,omitempty"`
}

// Heir is the token of a planned switchover (rule 21): repeated until its server is seen to serve.
type Heir struct {
	Node   string   `json:"node"`
	Term   Term     `json:"term"`
	Plan   string   `json:"plan"`
	Last   Position `json:"last"` // of the giver; the heir has exactly this
	Record Record   `json:"record"`
	// Settings as the giver had them, so that no pause or new member is lost on the way.
	Settings Settings `json:"settings"`
}

// Settings is a volume's membership and how its mirrors are to work, kept on every member; the greater version wins (rule 19).
type Settings struct {
	Version Epoch    `json:"version"`
	Members []Member `json:"members"` // sorted by Node; removed ones stay as tombstones
	// MinCopies is how many copies have to hold a write before it is answered (rule 18); 0: 1.
	MinCopies int `json:"min_copies,omitempty"`
	// HoldCopies: after a take-over by force the other copies are kept as they were until the new source is accepted.
	HoldCopies bool `json:"hold_copies,omitempty"`
}

// Member is one server of a volume.
type Member struct {
	Node        string `json:"node"`
	Path        string `json:"path"` // of the copy there
	Mode        Mode   `json:"mode"`
	Paused      bool   `json:"paused,omitempty"`
	Held        bool   `json:"held,omitempty"` // with Paused: by a take-over, until the new source is accepted
	Broken      bool   `json:"broken,omitempty"`
	Removed     bool   `json:"removed,omitempty"`
	QueueBytes  int64  `json:"queue_bytes,omitempty"`  // of frames waiting for the socket; 0: the default
	RateBytes   int64  `json:"rate_bytes,omitempty"`   // a second, all frames; 0: no limit
	ResyncBytes int64  `json:"resync_bytes,omitempty"` // a second, resync frames only; 0: no limit
	FullAsked   uint64 `json:"full_asked,omitempty"`   // how often a full resync was asked for by name
	FullDone    uint64 `json:"full_done,omitempty"`    // the FullAsked that the last finished full resync answered
}

// Mode of a mirror.
type Mode string

// Sync answers wait for the target's acknowledgement, async ones do not.
const (
	Sync  Mode = "sync"
	Async Mode = "async"
)

// Clone is a copy that shares nothing.
func (s Settings) Clone() Settings {
	s.Members = slices.Clone(s.Members)
	return s
}

// Find returns the member's settings, or nil. The pointer is into s.
func (s Settings) Find(node string) *Member {
	for i := range s.Members {
		if s.Members[i].Node == node {
			return &s.Members[i]
		}
	}
	return nil
}

// Clone is a copy that shares nothing.
func (s Standing) Clone() Standing {
	s.Settings = s.Settings.Clone()
	s.Record.Members = slices.Clone(s.Record.Members)
	if s.Heir != nil {
		h := *s.Heir
		h.Record.Members = slices.Clone(h.Record.Members)
		h.Settings = h.Settings.Clone()
		s.Heir = &h
	}
	return s
}
