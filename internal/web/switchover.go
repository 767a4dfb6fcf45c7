package web

import (
	"context"
	"net/http"
	"net/url"

	"keelson/internal/api"
)

// switchoverPage is a plan and its confirmation.
type switchoverPage struct {
	Volume  *api.VolumeStatus
	To      string
	Force   bool
	Plan    *api.SwitchoverResult
	Error   *api.Error // why there is no plan
	May     bool
	Verdict verdict
	Targets []choice
	Now     *api.MirrorStatus // of the mirror to the heir
	Release string            // what becomes of what is mounted from the device: "" | unmount | freeze
	// Attached is the source's block device; "" if there is none, or a take-over does not touch it.
	Attached string
}

// choice is a server that could become source.
type choice struct {
	api.Candidate
	Chosen bool
	Force  bool // only by force
}

// switchoverForm shows the plan as steps, what is at risk and who uses the device, and asks. Nothing is changed by it.
func (s *Server) switchoverForm(w http.ResponseWriter, r *request) {
	st, v, err := s.volumeOf(r)
	if err != nil {
		s.refused(w, r, err)
		return
	}
	q := r.URL.Query()
	p := switchoverPage{Volume: v, To: q.Get("to"), Force: q.Get("force") != "", Verdict: judge(st, v), Release: releaseOf(q)}
	for _, d := range v.Devices {
		if d.Kind != "nbd" && !p.Force { // a device of the kernel
			p.Attached = d.Address
		}
	}
	gone := v.Source == "" || !st.reachable(v.Source)
	seen := map[string]bool{}
	for _, c := range v.Switchover {
		if c.To != v.Source {
			p.Targets = append(p.Targets, choice{c, c.To == p.To, gone})
			seen[c.To] = true
		}
	}
	if gone {
		for _, n := range takers(st, v) {
			if !seen[n] {
				p.Targets = append(p.Targets, choice{api.Candidate{To: n}, n == p.To, true})
			}
		}
	}
	for i := range v.Mirrors {
		if v.Mirrors[i].Target == p.To {
			p.Now = &v.Mirrors[i]
		}
	}
	p.May = !p.Force || r.user.Role.May(Administrator)
	if p.To != "" {
		ctx, cancel := context.WithTimeout(r.Context(), lookMax)
		defer cancel()
		p.Plan, err = s.o.Service.Switchover(ctx, api.Switchover{Volume: v.Name, To: p.To, Plan: true, Force: p.Force, Unmount: p.Release == "unmount", Freeze: p.Release == "freeze"}, func(api.SwitchoverStep) {})
		p.Error = api.AsError(err)
	}
	s.show(w, r, http.StatusOK, layoutPage{Title: "Switch over " + v.Name, Body: s.part("switchover-form", p)})
}

// releaseOf is what is wished for what is mounted from the device.
func releaseOf(q url.Values) string {
	if how := q.Get("release"); how == "unmount" || how == "freeze" {
		return how
	}
	return ""
}

// switchover begins one and leads to its progress.
func (s *Server) switchover(w http.ResponseWriter, r *request) {
	f := r.PostForm
	x := &task{volume: r.PathValue("volume"), to: f.Get("to"), force: f.Get("force") != "", release: releaseOf(f), user: r.user.Name, addr: r.RemoteAddr, began: s.o.Now()}
	object := "volume " + x.volume
	if x.force && !r.user.Role.May(Administrator) {
		s.fail(w, r.Request, http.StatusForbidden, api.Refusal("role", object, "taking over by force needs the role administrator; nothing was changed", "ask an administrator"))
		return
	}
	if x.force && f.Get("confirm") != x.volume {
		s.refused(w, r, api.Errorf(api.Usage, object, "taking over by force needs the volume's name as the confirmation; nothing was changed"))
		return
	}
	request := x.asked()
	if err := request.Check(); err != nil {
		s.refused(w, r, err)
		return
	}
	// The steps to show come from the plan; if a rule forbids it, that is said here.
	request.Plan = true
	ctx, cancel := context.WithTimeout(r.Context(), lookMax)
	plan, err := s.o.Service.Switchover(ctx, request, func(api.SwitchoverStep) {})
	cancel()
	if err != nil {
		s.refused(w, r, err)
		return
	}
	x.steps, x.from = plan.Steps, plan.From
	if s.ctx.Err() != nil || !s.tasks.begin(x) {
		s.refused(w, r, api.Errorf(api.Failed, object, "%d switchovers run from this page already; nothing was changed", tasksMax))
		return
	}
	s.wg.Go(func() { s.run(x) })
	http.Redirect(w, r.Request, "/task/"+x.id, http.StatusSeeOther)
}
