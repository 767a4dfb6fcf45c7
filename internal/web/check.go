package web

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"keelson/internal/api"
)

// checkMax is how long a check may take.
const checkMax = 50 * time.Second

// checkPage is the pre-flight check: which servers may be rebooted, and a report if one was asked for.
type checkPage struct {
	User    User
	Volumes []string
	Volume  string // that was asked about; "": all servers
	Report  *checkReport
	Error   *api.Error
	Reboots []rebootRow
}

// rebootRow says whether one server may be rebooted now.
type rebootRow struct {
	Node  string
	OK    bool
	Known bool
	Items []api.CheckItem // what stands against it; or why it is not known
}

// checkReport is a report as it is shown: what needs somebody first.
type checkReport struct {
	*api.CheckReport
	Class, Word string
	Sign        string
	Bad, Good   []api.CheckItem
	OK          int
}

// showReport sorts a report.
func showReport(r *api.CheckReport) *checkReport {
	out := &checkReport{CheckReport: r, Class: "ok", Word: "this works", OK: len(r.Items) - r.Problems - r.Warnings}
	switch r.Verdict {
	case api.CheckProblem:
		out.Class, out.Word = "bad", "something would not work"
	case api.CheckWarning:
		out.Class, out.Word = "warn", "this works, with warnings"
	}
	out.Sign = signs[out.Class]
	for _, level := range []string{api.CheckProblem, api.CheckWarning} {
		for _, i := range r.Items {
			if i.Level == level {
				out.Bad = append(out.Bad, i)
			}
		}
	}
	for _, i := range r.Items {
		if i.Level == api.CheckOK && i.Check != "reachable" { // a round trip says more
			out.Good = append(out.Good, i)
		}
	}
	return out
}

// check makes the call.
func (s *Server) check(ctx context.Context, q api.CheckQuery) (*checkReport, *api.Error) {
	ctx, cancel := context.WithTimeout(ctx, checkMax)
	defer cancel()
	r, err := s.o.Service.Check(ctx, q)
	if err != nil {
		return nil, api.AsError(err)
	}
	return showReport(r), nil
}

// checkForm shows which servers may be rebooted, and offers the check.
func (s *Server) checkForm(w http.ResponseWriter, r *request) {
	s.showCheck(w, r, checkPage{Volume: r.URL.Query().Get("volume")})
}

// runCheck makes one and shows its report.
func (s *Server) runCheck(w http.ResponseWriter, r *request) {
	p := checkPage{Volume: r.PostForm.Get("volume")}
	p.Report, p.Error = s.check(r.Context(), api.CheckQuery{Volume: p.Volume, Quick: r.PostForm.Get("quick") != ""})
	s.showCheck(w, r, p)
}

func (s *Server) showCheck(w http.ResponseWriter, r *request, p checkPage) {
	st, err := s.hub.fresh(r.Context())
	if err != nil {
		s.refused(w, r, err)
		return
	}
	p.User = r.user
	for _, v := range st.Volumes {
		p.Volumes = append(p.Volumes, v.Name)
	}
	ctx, cancel := context.WithTimeout(r.Context(), lookMax)
	defer cancel()
	for _, n := range st.Nodes {
		if n.Reachable {
			p.Reboots = append(p.Reboots, s.mayReboot(ctx, n.Name))
		}
	}
	status := http.StatusOK
	if p.Error != nil {
		status = p.Error.Code.HTTPStatus()
	}
	s.show(w, r, status, layoutPage{Title: "Check", Here: "/check", Body: s.part("check", p)})
}

// mayReboot asks about one server.
func (s *Server) mayReboot(ctx context.Context, node string) rebootRow {
	row := rebootRow{Node: node}
	report, err := s.o.Service.Check(ctx, api.CheckQuery{Reboot: true, Node: node})
	if err != nil {
		e := api.AsError(err)
		row.Items = []api.CheckItem{{Message: e.Message, Next: e.Next}}
		return row
	}
	row.Known, row.OK = true, report.Verdict != api.CheckProblem
	row.Items = slices.DeleteFunc(report.Items, func(i api.CheckItem) bool { return i.Level == api.CheckOK })
	return row
}

// wantsCheck reports whether a form was sent by its button for a check.
func wantsCheck(r *request) bool { return r.PostForm.Get("check") != "" }

// where says what an item is about.
func where(i api.CheckItem) string {
	text := i.Node
	if i.Peer != "" {
		text += " → " + i.Peer
	}
	return text
}

// finding is an item's sentence, with the path that it is about.
func finding(i api.CheckItem) string {
	if i.Object != "" && i.Peer == "" {
		return i.Object + " " + i.Message
	}
	if i.Message == "" || i.Check == "reachable" || i.Check == "versions" { // these begin with a name, which stays as it is
		return i.Message
	}
	return strings.ToUpper(i.Message[:1]) + i.Message[1:]
}
