package api

import "time"

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
	Unit    string   `json:"unit,omitempty"`   // of Value: seconds | bytes | bytes/s | files | days
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
