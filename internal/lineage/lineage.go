// Package lineage says how two replicas of a volume stand to each other: terms, generations, histories,
// positions and region versions, and verdicts about them as named rules. It is pure: no I/O, no clock.
package lineage

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
)

// GenID names a generation for all time: 128 random bits.
type GenID [16]byte

// ZeroGen is the generation of "known to be zero": every region that the product itself made zero has the version
// {ZeroGen, 0} on every replica, so equal version, equal content holds for it as for any other.
var ZeroGen = GenID{0: 'z', 1: 'e', 2: 'r', 3: 'o'}

// String is the id in hexadecimal, as status shows it.
func (g GenID) String() string { return hex.EncodeToString(g[:]) }

// MarshalText implements encoding.TextMarshaler.
func (g GenID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *GenID) UnmarshalText(text []byte) error {
	if len(text) != 2*len(g) {
		return fmt.Errorf("a generation's id has %d hexadecimal digits, not %d", 2*len(g), len(text))
	}
	_, err := hex.Decode(g[:], text)
	return err
}

// Term is one right to be source: who holds the greatest term that anybody promised is, or may become, source (rule 20).
type Term struct {
	N    uint64 `json:"n"`
	Node string `json:"node"`
}

// Compare orders terms by number, then server.
func (t Term) Compare(u Term) int {
	return cmp.Or(cmp.Compare(t.N, u.N), cmp.Compare(t.Node, u.Node))
}

// Less reports whether t is older than u.
func (t Term) Less(u Term) bool { return t.Compare(u) < 0 }

// String is the term as status shows it: "3@b".
func (t Term) String() string { return fmt.Sprintf("%d@%s", t.N, t.Node) }

// Generation is one server's tenure as source. Number Began+1 is its adoption number: every region whose version was
// unknown when the generation began has it, and no write ever gets it; content of that version is hashed before it is sent (rule 8).
type Generation struct {
	ID    GenID  `json:"id"`
	Term  Term   `json:"term"`
	Began uint64 `json:"began"`          // above every number that can have been used before (rule 10)
	Held  uint64 `json:"held"`           // the position of the generation before that its server surely held
	After Epoch  `json:"after,omitzero"` // Record.After of its server's standing when it began: see Stand
	Anew  bool   `json:"anew,omitempty"` // it began on content of which nothing is surely that of the generations before (rule 9)
}

// History is a volume's list of generations, oldest first.
type History []Generation

// Last is the newest generation; the zero Generation if there is none.
func (h History) Last() Generation {
	if len(h) == 0 {
		return Generation{}
	}
	return h[len(h)-1]
}

// Find returns the index of the generation, or -1.
func (h History) Find(id GenID) int {
	return slices.IndexFunc(h, func(g Generation) bool { return g.ID == id })
}

// Epoch orders the in-sync records of a volume (rule 17).
type Epoch struct {
	Term Term   `json:"term"`
	N    uint64 `json:"n"`
}

// Compare orders epochs by term, then counter.
func (e Epoch) Compare(f Epoch) int { return cmp.Or(e.Term.Compare(f.Term), cmp.Compare(e.N, f.N)) }

// Record is the in-sync set (rule 17): which copies hold everything answered.
type Record struct {
	Epoch   Epoch    `json:"epoch"`
	Members []string `json:"members"` // sorted; includes the source
	Since   uint64   `json:"since"`   // number
	// After is the epoch of the record that this term's first record was inherited from; the server that the term names
	// was a member of it. It stays the same within a term.
	After Epoch `json:"after,omitzero"`
}

// Has reports whether the server is a member.
func (r Record) Has(node string) bool { return slices.Contains(r.Members, node) }

// With returns the record of the next epoch with that member.
func (r Record) With(node string, at uint64) Record {
	members := append(slices.Clone(r.Members), node)
	slices.Sort(members)
	return Record{Epoch{r.Epoch.Term, r.Epoch.N + 1}, slices.Compact(members), at, r.After}
}

// Without returns the record of the next epoch without those members.
func (r Record) Without(at uint64, nodes ...string) Record {
	members := slices.DeleteFunc(slices.Clone(r.Members), func(m string) bool { return slices.Contains(nodes, m) })
	return Record{Epoch{r.Epoch.Term, r.Epoch.N + 1}, members, at, r.After}
}

// Position is how far a replica surely is: the last number of its history up to which it holds every write.
type Position struct {
	Gen    GenID  `json:"gen"`
	Number uint64 `json:"number"`
}

// Version is what a replica knows of one region's content, 8 bytes: an index into its log's table of generations
// (upper 16 bits) and the number of the last write that touched it (lower 48). The index means nothing outside of its log (rule 2).
type Version uint64

// Unknown is the version of a region whose content is not known to be that of any number.
const Unknown Version = 0

// ZeroVersion is the version of a region known to be zero: index 1 is ZeroGen in every table.
const ZeroVersion Version = 1 << 48

// NumberMax is the greatest number of a volume.
const NumberMax = 1<<48 - 1

// MakeVersion packs an index of the table of generations and a number.
func MakeVersion(index uint16, number uint64) Version {
	return Version(index)<<48 | Version(number&NumberMax)
}

// Index is the index into the log's table of generations.
func (v Version) Index() uint16 { return uint16(v >> 48) }

// Number is the number of the last write that touched the region.
func (v Version) Number() uint64 { return uint64(v) & NumberMax }
