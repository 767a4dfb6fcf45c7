package web

import (
	"context"
	"slices"
	"time"

	"keelson/internal/api"
)

// volumeView is one volume with everything about it.
func (s *Server) volumeView(r *request) (view, error) {
	name := r.PathValue("volume")
	st, err := s.hub.fresh(r.Context())
	if err != nil {
		return nil, err
	}
	if st.volume(name) == nil {
		return nil, unknown(name)
	}
	return &volumePage{s: s, name: name, user: r.user,
		events: &events{s: s, box: newBox[[]api.Event](), query: api.EventsQuery{Volume: name, All: true, Limit: 60}},
		kept:   newBox[*api.Salvages](), history: newBox[*api.History]()}, nil
}

func unknown(name string) error {
	return missing{api.Errorf(api.Failed, "volume "+name, "there is no such volume").WithNext("the overview shows those that there are")}
}

type volumePage struct {
	s       *Server
	name    string
	user    User
	events  *events
	kept    *box[*api.Salvages]
	history *box[*api.History]
}

func (p *volumePage) title() string            { return "Volume " + p.name }
func (p *volumePage) changed() <-chan struct{} { return nil }

func (p *volumePage) load(ctx context.Context) {
	h, err := p.s.o.Service.History(ctx, api.VolumeName{Name: p.name})
	p.history.put(h, err)
	k, err := p.s.o.Service.Salvages(ctx, api.VolumeName{Name: p.name})
	p.kept.put(k, err)
	p.events.load(ctx)
}

// mirrorRow is a mirror on the page of its volume.
type mirrorRow struct {
	api.MirrorStatus
	Volume string
	Class  string
	Sign   string
	Next   string
	Why    string // of its resync
	Rate   float64
	Done   int // percent of the resync
	InSync bool
	Unsure bool   // how far it is behind is not known
	Stale  string // when this was known last, if that is long ago
	User   User
	Held   bool // as it was, until the new source is accepted
	Force  bool // the source cannot be reached
	Ready  api.Candidate
}

// volumeHead is the top of the page.
type volumeHead struct {
	*api.VolumeStatus
	Verdict   verdict
	User      User
	Split     bool
	SourceUp  bool
	Forced    []string // where a take-over by force can be tried
	Ready     []string
	Accept    bool // some copies are held, and the source can be asked to go on
	Reachable int
}

const staleAfter = 5 * time.Second

func (p *volumePage) blocks(st *state) ([]block, error) {
	v := st.volume(p.name)
	if v == nil {
		return nil, unknown(p.name)
	}
	head := volumeHead{VolumeStatus: v, Verdict: judge(st, v), User: p.user, Split: splitBrain(v), SourceUp: v.Source != "" && st.reachable(v.Source)}
	for _, c := range v.Switchover {
		if c.OK {
			head.Ready = append(head.Ready, c.To)
		}
	}
	if !head.SourceUp {
		head.Forced = takers(st, v)
	}
	head.Accept = len(v.Held) > 0 && head.SourceUp && !head.Split
	list := []block{}
	for _, m := range v.Mirrors {
		row := p.mirror(st, v, m)
		row.Force = !head.SourceUp
		list = append(list, block{id: "m-" + m.Target, html: p.s.part("mirror-row", row), say: "Mirror to " + m.Target + ": " + m.State})
	}
	if len(list) == 0 {
		list = append(list, block{id: "m-none", html: p.s.part("mirror-none", head)})
	}
	h, herr := p.history.get()
	k, kerr := p.kept.get()
	eventBlocks := p.eventBlock()
	return []block{
		{id: "head", html: p.s.part("volume-head", head), say: "Volume " + v.Name + ": " + head.Verdict.Word},
		{id: "map", html: p.s.part("volume-map", map[string]drawing{"Large": draw(st, v, true), "Small": draw(st, v, false)})},
		{id: "mirrors", class: "mirrors", list: list},
		{id: "facts", html: p.s.part("volume-facts", head)},
		{id: "charts", html: p.s.part("volume-charts", p.figures(h, herr))},
		{id: "tenures", html: p.s.part("volume-tenures", p.tenures(h))},
		{id: "salvages", html: p.s.part("volume-salvages", map[string]any{"Kept": k, "Error": problem(kerr), "Volume": p.name})},
		eventBlocks,
	}, nil
}

// takers are members, besides the source, that this agent reaches.
func takers(st *state, v *api.VolumeStatus) []string {
	var out []string
	for _, m := range v.Mirrors {
		if m.Target != v.Source && st.reachable(m.Target) {
			out = append(out, m.Target)
		}
	}
	if v.Role == "target" && !slices.Contains(out, st.Node) {
		out = append(out, st.Node)
	}
	for _, n := range v.InSync {
		if n != v.Source && st.reachable(n) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

func (p *volumePage) mirror(st *state, v *api.VolumeStatus, m api.MirrorStatus) mirrorRow {
	row := mirrorRow{MirrorStatus: m, Volume: v.Name, Class: classOf(m.State), Next: nextStep(m), InSync: inSync(v, m.Target), User: p.user,
		Rate: st.Rates[rateKey(v.Name, m.Source, m.Target)]}
	row.Sign, row.Held = signs[row.Class], isHeld(m)
	row.Unsure = m.LagBytes == 0 && m.State != "Mirroring" && m.State != "Resync"
	if m.Resync != nil {
		row.Why = whyKind(m.Resync)
		row.Done = percentOf(m.Resync.BytesSent+m.Resync.BytesSkipped, m.Resync.BytesTotal)
	}
	if !m.AsOf.IsZero() && st.At.Sub(m.AsOf) > staleAfter {
		row.Stale = formatDate(m.AsOf)
	}
	for _, c := range v.Switchover {
		if c.To == m.Target {
			row.Ready = c
		}
	}
	return row
}

func (p *volumePage) figures(h *api.History, err error) map[string]any {
	out := map[string]any{"Error": problem(err)}
	if h == nil {
		return out
	}
	end := p.s.o.Now()
	if n := len(h.Samples); n > 0 && h.Samples[n-1].Time.Sub(end).Abs() < time.Minute {
		end = h.Samples[n-1].Time // their clock
	}
	out["Charts"], out["Node"] = chartsOf(h, end), h.Node
	return out
}

// tenureRow is one generation on the time line.
type tenureRow struct {
	api.Tenure
	Reason string
	Now    bool
}

const tenuresShown = 24

func (p *volumePage) tenures(h *api.History) map[string]any {
	rows := []tenureRow{}
	older := 0
	if h != nil {
		older = max(0, len(h.Tenures)-tenuresShown)
		for i, t := range h.Tenures {
			if i < older {
				continue
			}
			row := tenureRow{Tenure: t, Now: i == len(h.Tenures)-1}
			switch t.Why {
			case "created":
				row.Reason = "first writes"
			case "restarted":
				row.Reason = "the same source after a restart"
			case "forced":
				row.Reason = "took over by force"
			default:
				row.Reason = "switchover"
			}
			rows = append(rows, row)
		}
	}
	slices.Reverse(rows)
	return map[string]any{"Rows": rows, "Older": older}
}

func (p *volumePage) eventBlock() block {
	list, err := p.events.box.get()
	return block{id: "events", html: p.s.part("events", map[string]any{"Events": list, "Error": problem(err), "Heading": "Events", "Page": false})}
}
