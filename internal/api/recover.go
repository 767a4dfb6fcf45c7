package api

import (
	"context"
	"path/filepath"
	"time"
)

// SplitBrain is both sides of a volume whose replicas went on without each other.
type SplitBrain struct {
	Volume string `json:"volume"`
	Split  bool   `json:"split"` // false: the sides are shown, but nothing is in the way of a resync
	Sides  []Side `json:"sides"`
	Both   []Run  `json:"both"`         // ranges that more than one side changed, at most RunsMax
	Common string `json:"common"`       // the last generation that all sides share, "" if none
	At     uint64 `json:"common_until"` // number in it
}

// Side is one of them: a source, or what went on as one, with the servers that follow it.
type Side struct {
	Node     string    `json:"node"`
	Role     string    `json:"role"`
	Serving  bool      `json:"serving"`
	Term     uint64    `json:"term"`
	Position uint64    `json:"position"`
	Members  []string  `json:"members"` // of its in-sync set
	Since    uint64    `json:"since"`   // the number at which it left the common history
	Writes   uint64    `json:"writes"`  // at most so many since then (numbers may be skipped)
	Regions  int64     `json:"regions"` // changed since then
	Bytes    int64     `json:"bytes"`   // of these regions
	Runs     []Run     `json:"runs"`    // the same as ranges, at most RunsMax
	AsOf     time.Time `json:"as_of"`
	Why      string    `json:"why"` // why it does not follow, or could not be asked

	Parting      []Event `json:"parting,omitempty"` // since when: the newest events in which it took over by force, or went on without others
	UnknownBytes int64   `json:"unknown_bytes"`     // of Bytes: perhaps not changed; it was about to be written to when a server stopped
}

// Run is a range of bytes of the volume.
type Run struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// RunsMax is the most ranges of one list; those beyond are counted but not listed.
const RunsMax = 1000

// ResolveSplitBrain keeps the side of that server; what the others have besides goes to salvages.
type ResolveSplitBrain struct {
	Volume string `json:"volume"`
	Keep   string `json:"keep"`
	All    bool   `json:"all,omitempty"` // of a call that a server without a copy passes on: all servers, as if it had been made here
}

// ResolvePlan is what a ResolveSplitBrain would give up.
type ResolvePlan struct {
	Volume  string    `json:"volume"`
	Keep    string    `json:"keep"`
	GivenUp []GivenUp `json:"given_up"` // of every other server
}

// GivenUp is what one server has that the one to be kept lacks. It goes to a salvage there, but for what turns out to be
// the same.
type GivenUp struct {
	Node         string `json:"node"`
	Role         string `json:"role"`
	Regions      int64  `json:"regions"`
	Bytes        int64  `json:"bytes"`         // of these regions, at most
	UnknownBytes int64  `json:"unknown_bytes"` // of Bytes: perhaps the same
	Runs         []Run  `json:"runs"`          // at most RunsMax
	RoomBytes    int64  `json:"room_bytes"`    // for salvages; with less than is needed the resync stops, and nothing is lost
	Why          string `json:"why"`           // why it is not known
}

// Check finds what is wrong in the request without knowing anything else.
func (r ResolveSplitBrain) Check() error {
	if r.Keep == "" {
		return Errorf(Usage, "volume "+r.Volume, "no server is named whose side is kept")
	}
	return checkVolume(r.Volume)
}

// Salvage is content that a replica gave up, kept on that replica's server.
type Salvage struct {
	ID      string    `json:"id"`
	Volume  string    `json:"volume"`
	Node    string    `json:"node"`
	Reason  string    `json:"reason"`
	From    string    `json:"from"` // generation and position it had
	Time    time.Time `json:"time"`
	Expires time.Time `json:"expires,omitzero"`
	Regions int64     `json:"regions"`
	Bytes   int64     `json:"bytes"`
	Damaged string    `json:"damaged,omitempty"`
}

// Salvages are those of a volume, of every server that could be asked.
type Salvages struct {
	Salvages []Salvage `json:"salvages"`
	Silent   []string  `json:"silent"`   // servers that could not be asked
	RoomLow  []string  `json:"room_low"` // servers whose room for salvages runs low
}

// SalvageChange exports, applies or deletes a salvage, at the server that has it.
type SalvageChange struct {
	Volume string `json:"volume"`
	Node   string `json:"node"` // "": the agent asked
	ID     string `json:"id"`
	Action string `json:"action"`           // export | apply | delete
	Dir    string `json:"dir,omitempty"`    // export: where the files are written, on that server; made if it is not there
	Ranges []Run  `json:"ranges,omitempty"` // apply: only these; none: all
	Plan   bool   `json:"plan,omitempty"`   // apply: only say what would change
}

// SalvageResult says what was done.
type SalvageResult struct {
	Files  int    `json:"files"`                 // export
	Bytes  int64  `json:"bytes"`                 // written; with Plan: that differ from what the volume has now
	Equal  int64  `json:"equal_bytes,omitempty"` // with Plan: that the volume has already as the salvage has them
	Runs   []Run  `json:"runs,omitempty"`        // with Plan: what would change, at most RunsMax
	Source string `json:"source,omitempty"`      // apply: the server that is written to
}

// Check finds what is wrong in the request without knowing anything else.
func (r SalvageChange) Check() error {
	object := "salvage " + r.ID
	switch {
	case r.ID == "":
		return Errorf(Usage, "volume "+r.Volume, "no salvage is named")
	case r.Action != "export" && r.Action != "apply" && r.Action != "delete":
		return Errorf(Usage, object, "action %q is none of export, apply, delete", r.Action)
	case r.Action == "export" && !filepath.IsAbs(r.Dir):
		return Errorf(Usage, object, "%q is no absolute path of a directory to export to", r.Dir)
	case r.Action != "apply" && (len(r.Ranges) > 0 || r.Plan):
		return Errorf(Usage, object, "only apply takes ranges or has a plan")
	case len(r.Ranges) > RunsMax:
		return Errorf(Usage, object, "%d ranges are more than %d", len(r.Ranges), RunsMax)
	}
	for _, run := range r.Ranges {
		if run.Offset < 0 || run.Length <= 0 {
			return Errorf(Usage, object, "%d bytes at %d is no range", run.Length, run.Offset)
		}
	}
	return checkVolume(r.Volume)
}

// SplitBrain implements Service.
func (c *Client) SplitBrain(ctx context.Context, r VolumeName) (*SplitBrain, error) {
	return call[SplitBrain](ctx, c, "SplitBrain", r)
}

// ResolveSplitBrain implements Service.
func (c *Client) ResolveSplitBrain(ctx context.Context, r ResolveSplitBrain) error {
	_, err := call[Nothing](ctx, c, "ResolveSplitBrain", r)
	return err
}

// PlanResolve implements Service.
func (c *Client) PlanResolve(ctx context.Context, r ResolveSplitBrain) (*ResolvePlan, error) {
	return call[ResolvePlan](ctx, c, "PlanResolve", r)
}

// Salvages implements Service.
func (c *Client) Salvages(ctx context.Context, r VolumeName) (*Salvages, error) {
	return call[Salvages](ctx, c, "Salvages", r)
}

// ChangeSalvage implements Service.
func (c *Client) ChangeSalvage(ctx context.Context, r SalvageChange) (*SalvageResult, error) {
	return call[SalvageResult](ctx, c, "ChangeSalvage", r)
}
