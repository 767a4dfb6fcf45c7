package api

import (
	"context"
	"slices"
	"time"
)

// CheckQuery asks what works and what would not: of the servers, of a volume that there is, of copies that are meant to be made; or
// whether a server may be rebooted.
type CheckQuery struct {
	Volume    string  `json:"volume,omitempty"`     // a volume that there is
	Places    []Place `json:"places,omitempty"`     // copies that are meant to be made; of a new volume the first is the source's
	SizeBytes int64   `json:"size_bytes,omitempty"` // of a new volume; 0: that of the source's existing path
	Quick     bool    `json:"quick,omitempty"`      // nothing is measured that makes load: bandwidth, flushes
	Reboot    bool    `json:"reboot,omitempty"`     // only whether a server may be rebooted now
	Node      string  `json:"node,omitempty"`       // which one; "": the server asked
}

// Check finds what is wrong in the request without knowing anything else.
func (q CheckQuery) Check() error {
	switch {
	case q.Volume != "":
		if err := checkVolume(q.Volume); err != nil {
			return err
		}
		if q.SizeBytes != 0 {
			return Errorf(Usage, "volume "+q.Volume, "its size is known: none can be given")
		}
	case q.SizeBytes != 0 && len(q.Places) == 0:
		return Errorf(Usage, "", "a size without a place for a copy")
	}
	if q.SizeBytes < 0 || q.SizeBytes%512 != 0 {
		return Errorf(Usage, "", "the size of %d bytes is no multiple of 512", q.SizeBytes)
	}
	if q.Reboot && (q.Volume != "" || len(q.Places) > 0 || q.Quick) {
		return Errorf(Usage, "", "whether a server may be rebooted is asked for all of its volumes, and nothing else with it")
	}
	if q.Node != "" && !q.Reboot {
		return Errorf(Usage, "", "a server is named only to ask whether it may be rebooted")
	}
	if len(q.Places) > TargetsMax+1 {
		return Errorf(Usage, "", "%d places are more than %d", len(q.Places), TargetsMax+1)
	}
	nodes := []string{}
	for _, p := range q.Places {
		if err := p.check(); err != nil {
			return err
		}
		if slices.Contains(nodes, p.Node) {
			return Errorf(Usage, "", "server %s is named twice: one server has one copy", p.Node)
		}
		nodes = append(nodes, p.Node)
	}
	return nil
}

// Check implements Service.
func (c *Client) Check(ctx context.Context, q CheckQuery) (*CheckReport, error) {
	return call[CheckReport](ctx, c, "Check", q)
}

// Levels of a CheckItem, the gravest last.
const (
	CheckOK      = "ok"
	CheckWarning = "warning" // it works, and an administrator wants to know
	CheckProblem = "problem" // it will not work, or something would be lost
)

// CheckItem is one thing that was looked at: how it is, what was measured, what to do next.
type CheckItem struct {
	Check   string   `json:"check"`            // its name, such as clock-offset
	Level   string   `json:"level"`            // ok | warning | problem
	Node    string   `json:"node"`             // the server it is about
	Peer    string   `json:"peer,omitempty"`   // the server at the other end, of a pair
	Volume  string   `json:"volume,omitempty"` // the volume it is about
	Object  string   `json:"object,omitempty"` // path or address
	Value   *float64 `json:"value,omitempty"`  // what was measured
	Unit    string   `json:"unit,omitempty"`   // of value: seconds | bytes | bytes/s | files | days
	Rule    string   `json:"rule,omitempty"`
	Message string   `json:"message"`
	Next    string   `json:"next,omitempty"` // what to do next; "" if nothing has to be done
}

// CheckReport is what a check found.
type CheckReport struct {
	Node     string      `json:"node"` // the agent asked
	Time     time.Time   `json:"time"`
	Verdict  string      `json:"verdict"` // the gravest level of the items
	Problems int         `json:"problems"`
	Warnings int         `json:"warnings"`
	Items    []CheckItem `json:"items"`
}

// NewCheckReport sums items up.
func NewCheckReport(node string, at time.Time, items []CheckItem) *CheckReport {
	r := &CheckReport{Node: node, Time: at, Verdict: CheckOK, Items: items}
	for _, item := range items {
		switch item.Level {
		case CheckProblem:
			r.Problems++
		case CheckWarning:
			r.Warnings++
		}
	}
	switch {
	case r.Problems > 0:
		r.Verdict = CheckProblem
	case r.Warnings > 0:
		r.Verdict = CheckWarning
	}
	return r
}
