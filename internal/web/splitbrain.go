package web

import (
	"context"
	"net/http"

	"keelson/internal/api"
)

// sidesPage is a split brain: both sides beside each other.
type sidesPage struct {
	*api.SplitBrain
	Keep  string // the side to preview
	Lost  []sideRow
	Kept  *sideRow
	Rows  []sideRow
	User  User
	Both  int64 // bytes that more than one side changed
	Fork  fork
	Known bool
}

type sideRow struct {
	api.Side
	Gives  *api.GivenUp
	Fate   string // what becomes of its changes in the preview
	Strips []strip
}

// strip is a range of the volume as a part of a bar of 1000 units.
type strip struct{ X, W float64 }

// fork is the time line: one history until a number, then one branch for each side that wrote.
type fork struct {
	Width, Height int
	At            uint64
	Common        string
	Branches      []branch
}

type branch struct {
	Path   string
	Y      int
	Name   string
	Text   string
	Class  string // serving | stopped
	Does   string
	LabelX int
}

func (s *Server) splitBrain(w http.ResponseWriter, r *request) {
	_, v, err := s.volumeOf(r)
	if err != nil {
		s.refused(w, r, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), lookMax)
	defer cancel()
	report, err := s.o.Service.SplitBrain(ctx, api.VolumeName{Name: v.Name})
	if err != nil {
		s.refused(w, r, err)
		return
	}
	p := sidesPage{SplitBrain: report, Keep: r.URL.Query().Get("keep"), User: r.user, Fork: forkOf(report)}
	for _, run := range report.Both {
		p.Both += run.Length
	}
	var plan *api.ResolvePlan
	if p.Keep != "" {
		if plan, err = s.o.Service.PlanResolve(ctx, api.ResolveSplitBrain{Volume: v.Name, Keep: p.Keep}); err != nil {
			s.refused(w, r, err)
			return
		}
	}
	for _, side := range report.Sides {
		row := sideRow{Side: side, Strips: strips(side.Runs, v.SizeBytes)}
		if p.Keep == side.Node {
			row.Fate = "kept"
		}
		if g := givenUp(plan, side.Node); g != nil && (g.Bytes > 0 || g.Why != "") {
			row.Fate, row.Gives = "salvage", g
		}
		p.Rows = append(p.Rows, row)
	}
	for i := range p.Rows {
		if p.Rows[i].Fate == "kept" {
			p.Kept = &p.Rows[i]
		}
		if p.Rows[i].Fate == "salvage" {
			p.Lost = append(p.Lost, p.Rows[i])
		}
	}
	s.show(w, r, http.StatusOK, layoutPage{Title: "Split brain of " + v.Name, Body: s.part("split-brain", p)})
}

// givenUp is what that server would give up; nil if nothing is known of it.
func givenUp(p *api.ResolvePlan, node string) *api.GivenUp {
	if p == nil {
		return nil
	}
	for i := range p.GivenUp {
		if p.GivenUp[i].Node == node {
			return &p.GivenUp[i]
		}
	}
	return nil
}

// strips are where in the volume the changes are; neighbours that cannot be told apart are one.
func strips(runs []api.Run, size int64) []strip {
	var out []strip
	if size <= 0 {
		return nil
	}
	for _, r := range runs {
		x, w := 1000*float64(r.Offset)/float64(size), max(1000*float64(r.Length)/float64(size), 2)
		if k := len(out); k > 0 && x <= out[k-1].X+out[k-1].W {
			out[k-1].W = max(out[k-1].W, x+w-out[k-1].X)
			continue
		}
		out = append(out, strip{x, w})
	}
	return out
}

// forkOf draws the time line of the fork.
func forkOf(b *api.SplitBrain) fork {
	f := fork{Width: 720, At: b.At, Common: b.Common}
	y := 30
	for _, side := range b.Sides {
		if side.Writes == 0 && side.Bytes == 0 && !side.Serving {
			continue
		}
		does := "is closed"
		switch {
		case side.Serving:
			does = "serves applications"
		case side.Role == "target":
			does = "is a target"
		}
		f.Branches = append(f.Branches, branch{Y: y, Does: does, Name: side.Node, LabelX: 470, Class: map[bool]string{true: "serving", false: "stopped"}[side.Serving],
			Text: "up to number " + formatNumber(side.Position) + ", " + formatBytes(side.Bytes) + " changed"})
		y += 46
	}
	f.Height = max(y-10, 60)
	mid := f.Height / 2
	for i := range f.Branches {
		b := &f.Branches[i]
		b.Path = pathOf(mid, b.Y)
	}
	return f
}

func (s *Server) resolve(w http.ResponseWriter, r *request) {
	f := r.PostForm
	c := api.ResolveSplitBrain{Volume: r.PathValue("volume"), Keep: f.Get("keep")}
	err := c.Check()
	if err == nil && f.Get("confirm") != c.Volume {
		err = api.Errorf(api.Usage, "volume "+c.Volume, "type the name of the volume as the confirmation; nothing was changed")
	}
	if err == nil {
		err = s.act(r, "ResolveSplitBrain", c, func(ctx context.Context) error { return s.o.Service.ResolveSplitBrain(ctx, c) })
	}
	if err != nil {
		s.refused(w, r, err)
		return
	}
	s.done(w, r, volumePath(c.Volume), "The side of "+c.Keep+" is kept. What the others have besides goes to salvages as they are brought up to date.")
}
