package web

import (
	"context"
	"fmt"
	"strings"

	"keelson/internal/api"
)

// overviewView is every volume, its verdict first, and the servers.
func (s *Server) overviewView(r *request) (view, error) { return &overview{s: s, user: r.user}, nil }

type overview struct {
	still
	s    *Server
	user User
}

func (*overview) title() string { return "Overview" }

// volumeRow is a volume in the overview.
type volumeRow struct {
	*api.VolumeStatus
	ID      string
	Verdict verdict
	Map     drawing
	User    User
	Split   bool
	Lost    bool // the source cannot be reached
}

// serverRow is a server in the overview.
type serverRow struct {
	api.NodeStatus
	Self   bool
	Ago    string
	Source []string // volumes that it is source of
	Copies int      // as target
}

type tally struct {
	Class, Word string
	N           int
}

// summary is the line above everything.
type summary struct {
	Tallies []tally
	Silent  []string // servers
	Volumes int
	User    User
	Known   bool
}

func (o *overview) blocks(st *state) ([]block, error) {
	sum := summary{Volumes: len(st.Volumes), User: o.user, Known: !st.At.IsZero() || st.Cluster != ""}
	counts := map[string]int{}
	rows := []block{}
	worst := [][]block{{}, {}, {}, {}} // what needs somebody comes first
	order := map[string]int{"bad": 0, "warn": 1, "busy": 2, "ok": 3}
	for i := range st.Volumes {
		v := &st.Volumes[i]
		row := volumeRow{v, "v-" + v.Name, judge(st, v), draw(st, v, false), o.user, splitBrain(v), v.Source == "" || st.node(v.Source) != nil && !st.reachable(v.Source)}
		counts[row.Verdict.Class]++
		b := block{id: row.ID, html: o.s.part("volume-row", row), say: fmt.Sprintf("Volume %s: %s", v.Name, row.Verdict.Word)}
		worst[order[row.Verdict.Class]] = append(worst[order[row.Verdict.Class]], b)
	}
	for _, list := range worst {
		rows = append(rows, list...)
	}
	for _, t := range []tally{{Class: "bad", Word: "not safe"}, {Class: "warn", Word: "safe, not with all targets"}, {Class: "busy", Word: "at work"}, {Class: "ok", Word: "safe"}} {
		if t.N = counts[t.Class]; t.N > 0 {
			sum.Tallies = append(sum.Tallies, t)
		}
	}
	for _, n := range st.Nodes {
		if !n.Reachable {
			sum.Silent = append(sum.Silent, n.Name)
		}
	}
	return []block{
		{id: "summary", html: o.s.part("summary", sum), say: summaryText(sum)},
		{id: "volumes", class: "volumes", list: rows},
		{id: "servers", html: o.s.part("servers", o.servers(st))},
	}, nil
}

func summaryText(s summary) string {
	var parts []string
	for _, t := range s.Tallies {
		parts = append(parts, fmt.Sprintf("%d %s", t.N, t.Word))
	}
	if len(s.Silent) > 0 {
		parts = append(parts, "servers not reachable: "+strings.Join(s.Silent, ", "))
	}
	return strings.Join(parts, "; ")
}

func (o *overview) servers(st *state) []serverRow {
	out := make([]serverRow, 0, len(st.Nodes))
	for _, n := range st.Nodes {
		row := serverRow{NodeStatus: n, Self: n.Name == st.Node}
		if !n.Reachable && !n.Heard.IsZero() {
			row.Ago = "last heard at " + formatDate(n.Heard) + " UTC"
		}
		for _, v := range st.Volumes {
			if v.Source == n.Name {
				row.Source = append(row.Source, v.Name)
			}
			for _, m := range v.Mirrors {
				if m.Target == n.Name {
					row.Copies++
				}
			}
		}
		out = append(out, row)
	}
	return out
}

// eventsView is what happened on all servers.
func (s *Server) eventsView(*request) (view, error) {
	return &events{s: s, box: newBox[[]api.Event](), query: api.EventsQuery{All: true, Limit: eventsShown}}, nil
}

const eventsShown = 200

// events of the cluster or of one volume.
type events struct {
	s     *Server
	query api.EventsQuery
	box   *box[[]api.Event]
}

func (*events) title() string { return "Events" }

func (e *events) changed() <-chan struct{} { return nil }

func (e *events) load(ctx context.Context) {
	list := []api.Event{}
	err := e.s.o.Service.Events(ctx, e.query, func(x api.Event) error { list = append(list, x); return nil })
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 { // the newest first
		list[i], list[j] = list[j], list[i]
	}
	e.box.put(list, err)
}

func (e *events) blocks(*state) ([]block, error) {
	list, err := e.box.get()
	return []block{{id: "events", html: e.s.part("events", map[string]any{"Events": list, "Error": problem(err), "Heading": "Events of all servers", "Page": true})}}, nil
}

func problem(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
