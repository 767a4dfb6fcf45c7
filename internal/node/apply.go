package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keelson/internal/api"
	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/volume"
)

// A salvage is applied by the server that keeps it. It writes to the source as an application there would: here through the
// volume's own device, at another server by the calls "write" and "sums", one request at a time, all in one term.

// writeRequest is one write of a salvage for the source.
type writeRequest struct {
	Volume string       `json:"volume"`
	Term   lineage.Term `json:"term"` // in which the source is expected to serve
	Op     block.Op     `json:"op"`   // Write, Zero or Flush
	Off    int64        `json:"off"`
	Len    int64        `json:"len"`
	Data   []byte       `json:"data,omitempty"`

	Until   time.Duration `json:"until"`   // by the source's clock (nodeState.Clock): not begun by then, it never is
	Salvage string        `json:"salvage"` // its id
	By      api.Caller    `json:"by"`      // who asked for it
}

// sumsRequest asks the source for digests of what it has.
type sumsRequest struct {
	Volume string         `json:"volume"`
	Term   lineage.Term   `json:"term"`
	Ranges []volume.Range `json:"ranges"`
}

type sumsAnswer struct {
	Sums [][]byte `json:"sums"`
}

// served is the volume if this server serves it in that term, and the one that asks is a member: who has no copy has nothing to
// apply to it.
func (n *Node) served(from, id string, term lineage.Term) (*vol, error) {
	a := n.byID(id)
	if a == nil {
		return nil, api.Refusal(ruleUnknownVolume, "volume "+id, n.cfg.Node+" has no replica of it", "")
	}
	if m := a.v.Header().Settings.Find(from); m == nil || m.Removed {
		return nil, api.Refusal(lineage.RuleNotAMember, "volume "+a.name, from+" has no copy of it", lineage.NextOf(lineage.RuleNotAMember))
	}
	if v := a.view.Load(); !v.Open || v.Term != term {
		return nil, api.Refusal(lineage.RuleNoSource, "volume "+a.name, fmt.Sprintf("%s does not serve it in term %s", n.cfg.Node, term), lineage.NextOf(lineage.RuleNoSource))
	}
	return a, nil
}

// writeCame does one write of a salvage, through the device. That whoever asks may do so is for the server that keeps the salvage to
// see to, as with every command that a member passes on; it has to say who that is and what for, and by when it stops waiting.
func (n *Node) writeCame(ctx context.Context, from string, r *writeRequest) (nothing, error) {
	a, err := n.served(from, r.Volume, r.Term)
	if err != nil {
		return nothing{}, err
	}
	object := "volume " + a.name
	if r.By.Kind == "" || r.Salvage == "" || r.Until <= 0 {
		return nothing{}, api.Errorf(api.Usage, object, "a write that names no salvage, nobody who asked for it, or no time limit")
	}
	w := &block.Request{Op: r.Op, Off: r.Off, Len: r.Len}
	switch err := w.Check(a.v.Size()); {
	case err != nil:
		return nothing{}, api.Errorf(api.Usage, object, "%v", err)
	case r.Op != block.Write && r.Op != block.Zero && r.Op != block.Flush, r.Len > volume.ApplyBytesMax, r.Op == block.Write && int64(len(r.Data)) != r.Len:
		return nothing{}, api.Errorf(api.Usage, object, "%s of %d bytes with %d bytes of data is no write of a salvage", r.Op, r.Len, len(r.Data))
	}
	select { // what the device holds back is waited for; nobody else can pile up behind it
	case a.applying <- struct{}{}:
		defer func() { <-a.applying }()
	default:
		return nothing{}, api.Refusal(lineage.RuleApplying, object, "another write of a salvage is under way", lineage.NextOf(lineage.RuleApplying))
	}
	if apply := fmt.Sprintf("salvage %s, kept at %s, is applied for %s", r.Salvage, from, r.By.Name); apply != a.applied {
		a.applied = apply
		a.note("info", object, "", apply, "")
	}
	if r.Op == block.Write {
		w.Buf = block.NewBuffer(len(r.Data))
		defer w.Buf.Release()
		copy(w.Buf.Bytes, r.Data)
	}
	err = a.v.DoWithin(ctx, n.started.Add(r.Until), w)
	if errors.Is(err, block.ErrLate) || errors.Is(err, volume.ErrBegun) {
		err = api.Errorf(api.Failed, object, "%v", err)
	}
	return nothing{}, err
}

// sumsCame answers sumsRequest.
func (n *Node) sumsCame(ctx context.Context, from string, r *sumsRequest) (out sumsAnswer, err error) {
	a, err := n.served(from, r.Volume, r.Term)
	if err != nil {
		return out, err
	}
	sums, err := a.v.Sums(ctx, r.Ranges)
	for _, s := range sums {
		out.Sums = append(out.Sums, s[:])
	}
	return out, err
}

// sourceDevice is where a salvage is written to.
type sourceDevice struct {
	node string
	do   func(context.Context, *block.Request) error
	sums func(context.Context, []volume.Range) ([]volume.Sum, error)
}

// source finds it; refused if the volume has none that serves.
func (a *vol) source(ctx context.Context, salvage string) (*sourceDevice, error) {
	view := a.view.Load()
	if view.Open {
		return &sourceDevice{a.n.cfg.Node, func(ctx context.Context, r *block.Request) error {
			return a.v.DoWithin(ctx, time.Now().Add(beginWithin(ctx)), r)
		}, a.v.Sums}, nil
	}
	refuse := func(why string) error {
		return api.Refusal(lineage.RuleNoSource, "volume "+a.name, why, lineage.NextOf(lineage.RuleNoSource))
	}
	p := a.n.peer(view.Source)
	if p == nil {
		return nil, refuse(fmt.Sprintf("%s, which keeps the salvage, knows of no source: it believes that %s is", a.n.cfg.Node, orNobody(view.Source)))
	}
	var theirs nodeState
	if err := p.post(ctx, "state", a.n.state(), &theirs); err != nil {
		return nil, refuse(fmt.Sprintf("the source %s cannot be reached from %s, which keeps the salvage: %v", p.name, a.n.cfg.Node, err))
	}
	info := theirs.Volumes[a.id]
	if !info.Serving {
		return nil, refuse(p.name + " does not serve it now")
	}
	remote := &remoteSource{a: a, p: p, term: info.Served, salvage: salvage, clock: theirs.Clock, at: time.Now()}
	return &sourceDevice{p.name, remote.do, remote.sums}, nil
}

// beginWithin is how long a write may take to begin, so that its answer can come before ctx ends.
func beginWithin(ctx context.Context) time.Duration {
	limit := callTimeout
	if end, ok := ctx.Deadline(); ok {
		limit = time.Until(end)
	}
	return limit - min(time.Second, limit/10)
}

// remoteSource is the source at another server, for as long as it serves in that term.
type remoteSource struct {
	a       *vol
	p       *neighbour
	term    lineage.Term
	salvage string
	clock   time.Duration // of the source's agent, not later than
	at      time.Time     // ... that moment here
}

// do does one request there. What is not answered in time has begun there by then, or never will: the limit travels with it, in
// the source's own time, so that it holds however long the request was on its way.
func (s *remoteSource) do(ctx context.Context, r *block.Request) error {
	w := writeRequest{Volume: s.a.id, Term: s.term, Op: r.Op, Off: r.Off, Len: r.Len, Salvage: s.salvage, By: api.CallerOf(ctx)}
	w.Until = s.clock + time.Since(s.at) + beginWithin(ctx)
	if r.Op == block.Write {
		w.Data = r.Buf.Bytes
	}
	err := s.p.post(ctx, "write", w, &nothing{})
	if err != nil && ctx.Err() != nil {
		return api.Errorf(api.Failed, "node "+s.p.name, "did not answer in time: a write of %d bytes at %d has begun there by now, or never will: %v", r.Len, r.Off, err)
	}
	return reach(s.p.name, err)
}

func (s *remoteSource) sums(ctx context.Context, ranges []volume.Range) ([]volume.Sum, error) {
	var answer sumsAnswer
	if err := reach(s.p.name, s.p.post(ctx, "sums", sumsRequest{s.a.id, s.term, ranges}, &answer)); err != nil {
		return nil, err
	}
	out := make([]volume.Sum, 0, len(answer.Sums))
	for _, b := range answer.Sums {
		if len(b) != len(volume.Sum{}) {
			return nil, fmt.Errorf("%s sent a digest of %d bytes", s.p.name, len(b))
		}
		out = append(out, volume.Sum(b))
	}
	return out, nil
}

// applySalvage writes a salvage, or ranges of it, onto the source; with r.Plan it only says what would change.
func (a *vol) applySalvage(ctx context.Context, r api.SalvageChange, out *api.SalvageResult) error {
	source, err := a.source(ctx, r.ID)
	if err != nil {
		return err
	}
	out.Source = source.node
	var ranges []volume.Range
	for _, run := range r.Ranges {
		ranges = append(ranges, volume.Range{Off: run.Offset, Len: run.Length})
	}
	if r.Plan {
		plan, err := a.v.PlanSalvage(ctx, r.ID, ranges, api.RunsMax, source.sums)
		out.Bytes, out.Equal = plan.Bytes, plan.Equal
		for _, c := range plan.Changes {
			out.Runs = append(out.Runs, api.Run{Offset: c.Off, Length: c.Len})
		}
		return a.applyError(r, 0, err)
	}
	out.Bytes, err = a.v.ApplySalvage(ctx, r.ID, ranges, source.do)
	return a.applyError(r, out.Bytes, err)
}

func (a *vol) applyError(r api.SalvageChange, written int64, err error) error {
	if errors.Is(err, volume.ErrOutside) {
		return api.Refusal(lineage.RuleOutsideRange, "salvage "+r.ID+" of "+r.Volume, err.Error(), fmt.Sprintf("keelson salvage apply %s %s --plan --json lists what it has", r.Volume, r.ID))
	}
	var said *api.Error
	if errors.As(err, &said) { // the source's word, or that it was lost: with what was done before
		code := said.Code
		if code == api.Refused && written > 0 {
			code = api.Failed // a refusal changes nothing
		}
		return &api.Error{Code: code, Rule: said.Rule, Object: "salvage " + r.ID + " of " + r.Volume, Message: err.Error(), Next: "keelson status, then ask again: what was written is written once more"}
	}
	return err
}
