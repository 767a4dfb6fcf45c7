package node

import (
	"context"
	"errors"
	"fmt"

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

// served is the volume if this server serves it in that term.
func (n *Node) served(id string, term lineage.Term) (*vol, error) {
	a := n.byID(id)
	if a == nil {
		return nil, api.Refusal(ruleUnknownVolume, "volume "+id, n.cfg.Node+" has no replica of it", "")
	}
	if v := a.view.Load(); !v.Open || v.Term != term {
		return nil, api.Refusal(lineage.RuleNoSource, "volume "+a.name, fmt.Sprintf("%s does not serve it in term %s", n.cfg.Node, term), lineage.NextOf(lineage.RuleNoSource))
	}
	return a, nil
}

// writeCame does one write of a salvage, through the device.
func (n *Node) writeCame(_ context.Context, _ string, r *writeRequest) (nothing, error) {
	a, err := n.served(r.Volume, r.Term)
	if err != nil {
		return nothing{}, err
	}
	object := "volume " + a.name
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
	if r.Op == block.Write {
		w.Buf = block.NewBuffer(len(r.Data))
		defer w.Buf.Release()
		copy(w.Buf.Bytes, r.Data)
	}
	return nothing{}, submit(a.v, w)
}

// sumsCame answers sumsRequest.
func (n *Node) sumsCame(ctx context.Context, _ string, r *sumsRequest) (out sumsAnswer, err error) {
	a, err := n.served(r.Volume, r.Term)
	if err != nil {
		return out, err
	}
	sums, err := a.v.Sums(ctx, r.Ranges)
	for _, s := range sums {
		out.Sums = append(out.Sums, s[:])
	}
	return out, err
}

// submit waits for one request.
func submit(to block.Device, r *block.Request) error {
	done := make(answered, 1)
	r.By = done
	to.Submit([]*block.Request{r})
	<-done
	return r.Err
}

type answered chan struct{}

func (a answered) Complete(*block.Request) { a <- struct{}{} }
func (a answered) Flush()                  {}

// sourceDevice is where a salvage is written to.
type sourceDevice struct {
	node   string
	submit func([]*block.Request)
	sums   func(context.Context, []volume.Range) ([]volume.Sum, error)
}

// source finds it; refused if the volume has none that serves.
func (a *vol) source(ctx context.Context) (*sourceDevice, error) {
	view := a.view.Load()
	if view.Open {
		return &sourceDevice{a.n.cfg.Node, a.v.Submit, a.v.Sums}, nil
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
	remote := &remoteSource{a, p, info.Served, ctx}
	return &sourceDevice{p.name, remote.Submit, remote.sums}, nil
}

// remoteSource is the source at another server, for as long as it serves in that term. A request ends with ctx.
type remoteSource struct {
	a    *vol
	p    *neighbour
	term lineage.Term
	ctx  context.Context
}

// Submit does the requests one after the other.
func (s *remoteSource) Submit(batch []*block.Request) {
	for _, r := range batch {
		w := writeRequest{Volume: s.a.id, Term: s.term, Op: r.Op, Off: r.Off, Len: r.Len}
		if r.Op == block.Write {
			w.Data = r.Buf.Bytes
		}
		r.Err = reach(s.p.name, s.p.post(s.ctx, "write", w, &nothing{}))
		r.By.Complete(r)
	}
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
	source, err := a.source(ctx)
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
	out.Bytes, err = a.v.ApplySalvage(ctx, r.ID, ranges, source.submit)
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
