package cluster

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Line is one line of the audit: who did what, when, with which result.
type Line struct {
	Node    string    `json:"node"` // where it was asked for
	Seq     uint64    `json:"seq"`  // counts up within the lines of Node, with gaps
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"`           // WhoLocal | WhoPage | WhoPeer | WhoStranger
	Who     string    `json:"who"`            // name of the local user, user of the page, or server
	From    string    `json:"from,omitempty"` // network address, or "uid 1000"
	What    string    `json:"what"`           // the call: "Switchover"
	Object  string    `json:"object,omitempty"`
	Detail  string    `json:"detail,omitempty"` // what was asked for, without secrets
	Result  string    `json:"result"`           // Done | Refused | Failed | Unfinished
	Rule    string    `json:"rule,omitempty"`   // of a refusal
	Message string    `json:"message,omitempty"`
}

// Who did something.
const (
	WhoLocal    = "local" // a user of the server, by its socket
	WhoPage     = "page"
	WhoPeer     = "peer"
	WhoStranger = "stranger" // somebody without a certificate: a token, a login that failed
)

// How it ended.
const (
	Done       = "done"
	Refused    = "refused"
	Failed     = "failed"
	Unfinished = "unfinished"
)

// Limits of the audit.
const (
	fieldBytesMax     = 512     // longer texts are cut
	lineBytesMax      = 8 << 10 // of a line as JSON: all fields, escaped at the worst
	segmentBytesMax   = 4 << 20 // the log has two segments; with the third the oldest goes
	auditOriginsMax   = MembersMax
	AuditBatchMax     = 256 // lines that AuditAfter returns at once
	AuditQueryMax     = 10000
	auditSeqMax       = counterMax
	auditTextsOfALine = 10
)

// AuditQuery asks for lines. The zero value asks for the newest AuditQueryMax.
type AuditQuery struct {
	Node   string // only those of this server
	Who    string // only those of this one
	Object string // only those about this object
	Since  time.Time
	Limit  int // the newest so many; 0: AuditQueryMax
}

// Audit notes a line, durably. Node, Seq and Time are filled in.
func (s *Store) Audit(l Line) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now().UTC().Truncate(time.Millisecond)
	l.Node, l.Time = s.self, now
	// By the clock, so that a server that lost its log goes on above what others have of it; always above its own last one.
	l.Seq = max(s.audit.heads[s.self]+1, uint64(max(0, now.UnixMicro())))
	l.trim()
	if err := l.check(); err != nil {
		return err
	}
	return s.audit.append([]Line{l})
}

// AuditQuery returns lines of all servers, oldest first.
func (s *Store) AuditQuery(q AuditQuery) ([]Line, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Line
	err := s.audit.each(func(l Line) bool {
		if (q.Node == "" || q.Node == l.Node) && (q.Who == "" || q.Who == l.Who) && (q.Object == "" || q.Object == l.Object) && !l.Time.Before(q.Since) {
			out = append(out, l)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(out, func(a, b Line) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Seq, b.Seq))
	})
	limit := AuditQueryMax
	if q.Limit > 0 {
		limit = min(limit, q.Limit)
	}
	return out[max(0, len(out)-limit):], nil
}

// AuditHeads says for each server up to which line this member has its lines.
func (s *Store) AuditHeads() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]uint64, len(s.audit.heads))
	for node, seq := range s.audit.heads {
		out[node] = seq
	}
	return out
}

// AuditAfter returns lines that a member with those heads lacks, at most AuditBatchMax, for AuditMerge there.
func (s *Store) AuditAfter(heads map[string]uint64) ([]Line, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lacks := false
	for node, seq := range s.audit.heads {
		lacks = lacks || heads[node] < seq
	}
	if !lacks {
		return nil, nil
	}
	var out []Line
	err := s.audit.each(func(l Line) bool {
		if l.Seq > heads[l.Node] {
			out = append(out, l)
		}
		return len(out) < AuditBatchMax
	})
	return out, err
}

// AuditMerge takes lines from another member. Those that are here already are passed over.
func (s *Store) AuditMerge(lines []Line) error {
	if len(lines) > AuditBatchMax {
		return fmt.Errorf("%d lines of audit at once, more than %d", len(lines), AuditBatchMax)
	}
	for _, l := range lines {
		if err := l.check(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var fresh []Line
	heads := map[string]uint64{}
	for _, l := range lines {
		if l.Seq > max(s.audit.heads[l.Node], heads[l.Node]) {
			fresh = append(fresh, l)
			heads[l.Node] = l.Seq
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	return s.audit.append(fresh)
}

// texts are all texts of a line.
func (l *Line) texts() [auditTextsOfALine]*string {
	return [...]*string{&l.Node, &l.Kind, &l.Who, &l.From, &l.What, &l.Object, &l.Detail, &l.Result, &l.Rule, &l.Message}
}

// trim makes the texts valid and short enough.
func (l *Line) trim() {
	for _, text := range l.texts() {
		*text = strings.ToValidUTF8(*text, "?")
		if len(*text) > fieldBytesMax {
			*text = strings.ToValidUTF8((*text)[:fieldBytesMax-3], "") + "…"
		}
	}
}

// check returns what is wrong with a line.
func (l *Line) check() error {
	if err := checkNodeName(l.Node); err != nil {
		return fmt.Errorf("line of audit: %w", err)
	}
	if l.Seq == 0 || l.Seq > auditSeqMax {
		return fmt.Errorf("line of audit of %s: its number is %d", l.Node, l.Seq)
	}
	if year := l.Time.Year(); year < 0 || year > 9999 {
		return fmt.Errorf("line of audit of %s: the year %d is none", l.Node, year)
	}
	for _, text := range l.texts() {
		if len(*text) > fieldBytesMax || !utf8.ValidString(*text) {
			return fmt.Errorf("line %d of audit of %s: a text has %d bytes, more than %d, or is not UTF-8", l.Seq, l.Node, len(*text), fieldBytesMax)
		}
	}
	return nil
}
