package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Caller is who makes a call.
type Caller struct {
	Kind string `json:"kind"` // the Caller constants
	Name string `json:"name"`
	From string `json:"from,omitempty"` // network address, or "uid 1000"
}

// Kinds of a Caller.
const (
	CallerLocal    = "local" // a user of the server, by the agent's socket
	CallerPage     = "page"  // a user of the page
	CallerPeer     = "peer"  // another server
	CallerStranger = "stranger"
)

type callerKey struct{}

// WithCaller says in a context who makes the calls that are made with it.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

type peerKey struct{}

// WithPeer says in a context which server's agent the calls come from. Whom it names as their caller is believed.
func WithPeer(ctx context.Context, node string) context.Context {
	return context.WithValue(ctx, peerKey{}, node)
}

// CallerOf is who makes the call; the zero Caller if nobody said.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// AuditLine is one line of the audit: who did what, when, with which result.
type AuditLine struct {
	Node    string    `json:"node"` // where it was asked for
	Seq     uint64    `json:"seq"`  // goes up within the lines of Node
	Time    time.Time `json:"time"`
	Kind    string    `json:"kind"` // of the caller
	Who     string    `json:"who"`
	From    string    `json:"from,omitempty"`
	What    string    `json:"what"` // the call
	Object  string    `json:"object,omitempty"`
	Detail  string    `json:"detail,omitempty"` // the request, without secrets
	Result  string    `json:"result"`           // done | refused | failed | unfinished
	Rule    string    `json:"rule,omitempty"`
	Message string    `json:"message,omitempty"`
}

// AuditQuery asks for lines of the audit.
type AuditQuery struct {
	Node   string    `json:"node,omitempty"`   // only those of this server
	Who    string    `json:"who,omitempty"`    // only those of this one
	Object string    `json:"object,omitempty"` // only those about this, such as "volume data"
	Since  time.Time `json:"since,omitzero"`
	Limit  int       `json:"limit"` // the newest; 0: as many as the agent gives at once
}

// Check finds what is wrong in the request without knowing anything else.
func (q AuditQuery) Check() error {
	if q.Limit < 0 {
		return Errorf(Usage, "", "a limit of %d lines", q.Limit)
	}
	return nil
}

// Auditor notes a line. Node, Seq and Time are its to fill in.
type Auditor func(ctx context.Context, l AuditLine)

// Audited is the line of a call that ended with err. The request's About, if it has that method, names its object, and its
// Public is what may be shown of it.
func Audited(ctx context.Context, call string, request any, err error) AuditLine {
	who := CallerOf(ctx)
	l := AuditLine{Kind: who.Kind, Who: who.Name, From: who.From, What: call, Result: "done"}
	if r, ok := request.(interface{ About() string }); ok {
		l.Object = r.About()
	}
	if r, ok := request.(interface{ Public() any }); ok {
		request = r.Public()
	}
	if detail, jsonErr := json.Marshal(request); jsonErr == nil && string(detail) != "{}" {
		l.Detail = string(detail)
	}
	if e := AsError(err); e != nil {
		l.Result, l.Rule, l.Message = "failed", e.Rule, e.Message
		switch e.Code {
		case Refused, Usage:
			l.Result = "refused"
		case Unfinished:
			l.Result = "unfinished"
		}
	}
	return l
}

// callerHeader carries the Caller of a call that an agent passes on.
const (
	callerHeader   = "Keelson-Caller"
	callerBytesMax = 1 << 10
)

// passedOn is who made a call that a peer passed on.
func passedOn(ctx context.Context, h http.Header) context.Context {
	text := h.Get(callerHeader)
	if text == "" || len(text) > callerBytesMax {
		return ctx
	}
	var c Caller
	if json.Unmarshal([]byte(text), &c) != nil {
		return ctx
	}
	return WithCaller(ctx, c)
}

// About names what is changed.
func (r CreateVolume) About() string { return "volume " + r.Name }

// About names what is changed.
func (r DeleteVolume) About() string { return "volume " + r.Name }

// About names what is changed.
func (r VolumeChange) About() string { return "volume " + r.Name }

// About names what is changed.
func (r MirrorChange) About() string { return "volume " + r.Volume }

// About names what is changed.
func (r Switchover) About() string { return "volume " + r.Volume }

// About names what is changed.
func (r ResolveSplitBrain) About() string { return "volume " + r.Volume }

// About names what is changed.
func (r SalvageChange) About() string { return "volume " + r.Volume }

// About names what is changed.
func (r ViewChange) About() string { return "volume " + r.Volume }

// Audit implements Service.
func (c *Client) Audit(ctx context.Context, q AuditQuery, fn func(AuditLine) error) error {
	_, err := callStream[AuditLine, Nothing](ctx, c, "Audit", q, func(l *AuditLine) error { return fn(*l) })
	return err
}
