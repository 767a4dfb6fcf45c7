package web

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"keelson/internal/api"
	"keelson/internal/config"
)

// act makes a call that changes something, within actionMax, as the user of the page; who did what, and what became of
// it, is noted.
func (s *Server) act(r *request, call string, asked any, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(s.as(r.Context(), r.user.Name, r.RemoteAddr), actionMax)
	defer cancel()
	err := f(ctx)
	s.note(ctx, call, asked, err)
	return err
}

// as says in a context that a user of the page makes the calls.
func (s *Server) as(ctx context.Context, user, from string) context.Context {
	return api.WithCaller(ctx, api.Caller{Kind: api.CallerPage, Name: user, From: from})
}

// note puts a line into the audit.
func (s *Server) note(ctx context.Context, call string, asked any, err error) {
	if s.o.Audit != nil {
		s.o.Audit(ctx, api.Audited(ctx, call, asked, err))
	}
}

// volumeOf finds the volume of the request's path.
func (s *Server) volumeOf(r *request) (*state, *api.VolumeStatus, error) {
	st, err := s.hub.fresh(r.Context())
	if err != nil {
		return nil, nil, err
	}
	v := st.volume(r.PathValue("volume"))
	if v == nil {
		return nil, nil, unknown(r.PathValue("volume"))
	}
	return st, v, nil
}

func volumePath(name string) string { return "/v/" + name } // a volume's name needs no escape (api.CheckVolumeName)

// mirrorForm shows the settings of one mirror.
func (s *Server) mirrorForm(w http.ResponseWriter, r *request) {
	_, v, err := s.volumeOf(r)
	if err != nil {
		s.refused(w, r, err)
		return
	}
	i := slices.IndexFunc(v.Mirrors, func(m api.MirrorStatus) bool { return m.Target == r.PathValue("target") })
	if i < 0 {
		s.refused(w, r, missing{api.Errorf(api.Failed, "volume "+v.Name, "it has no mirror to %.80q", r.PathValue("target"))})
		return
	}
	m := v.Mirrors[i]
	body := s.part("mirror-form", map[string]any{"Volume": v.Name, "Mirror": m, "User": r.user,
		"Queue": sizeField(m.QueueBytes), "Rate": sizeField(m.RateBytes), "ResyncRate": sizeField(m.ResyncRate)})
	s.show(w, r, http.StatusOK, layoutPage{Title: "Mirror " + m.Source + " to " + m.Target + " of " + v.Name, Body: body})
}

func sizeField(n int64) string {
	if n == 0 {
		return ""
	}
	return config.Size(n).String()
}

// changeMirror carries out pause, continue, break, resync, remove and set.
func (s *Server) changeMirror(w http.ResponseWriter, r *request) {
	f := r.PostForm
	c := api.MirrorChange{Volume: r.PathValue("volume"), Action: f.Get("action"), Target: f.Get("target")}
	if c.Action != "pause" && c.Action != "continue" && !r.user.Role.May(Administrator) {
		s.fail(w, r.Request, http.StatusForbidden, api.Refusal("role", "user "+r.user.Name, "the role "+string(r.user.Role)+" may pause and continue mirrors and nothing else; nothing was changed", "ask an administrator"))
		return
	}
	if c.Action == "set" {
		mode := f.Get("mode")
		c.Mode = &mode
		for _, limit := range []struct {
			field string
			into  **int64
		}{{"queue", &c.QueueBytes}, {"rate", &c.RateBytes}, {"resync_rate", &c.ResyncRate}} {
			n, err := sizeOf(f.Get(limit.field))
			if err != nil {
				s.refused(w, r, err)
				return
			}
			*limit.into = &n
		}
	}
	if c.Action == "remove" && f.Get("confirm") != c.Target {
		s.refused(w, r, api.Errorf(api.Usage, "mirror to "+c.Target, "it is removed only when its name is typed as the confirmation; nothing was changed"))
		return
	}
	if err := c.Check(); err != nil {
		s.refused(w, r, err)
		return
	}
	err := s.act(r, "ChangeMirror", c, func(ctx context.Context) error { _, err := s.o.Service.ChangeMirror(ctx, c); return err })
	if err != nil {
		s.refused(w, r, err)
		return
	}
	done := map[string]string{"pause": "is paused", "continue": "continues", "break": "is broken off", "resync": "is resynced", "remove": "is removed; its copy stays on the disk", "set": "has its new settings"}
	s.done(w, r, volumePath(c.Volume), "The mirror to "+c.Target+" "+done[c.Action]+".")
}

// accept brings the copies up to date that a take-over by force held.
func (s *Server) accept(w http.ResponseWriter, r *request) {
	c := api.VolumeChange{Name: r.PathValue("volume"), Accept: true}
	if err := c.Check(); err != nil {
		s.refused(w, r, err)
		return
	}
	err := s.act(r, "SetVolume", c, func(ctx context.Context) error { _, err := s.o.Service.SetVolume(ctx, c); return err })
	if err != nil {
		s.refused(w, r, err)
		return
	}
	s.done(w, r, volumePath(c.Name), "The new source is accepted: the other copies are brought up to date.")
}

// sizeOf reads a size such as 64MiB, perhaps for a second; "" is 0, the default.
func sizeOf(text string) (int64, error) {
	text = strings.TrimSuffix(strings.TrimSpace(text), "/s")
	if text == "" {
		return 0, nil
	}
	n, err := config.ParseSize(text)
	if err != nil {
		return 0, api.Errorf(api.Usage, "", "%v; write it as 64MiB or 10G; nothing was changed", err)
	}
	return n, nil
}

// addPage is the form for another mirror, as it was filled in.
type addPage struct {
	Volume     *api.VolumeStatus
	Free       []string // servers without a copy
	Node, Path string
	Mode       string
	Report     *checkReport
	Error      *api.Error // why there is no report
}

func (s *Server) addForm(w http.ResponseWriter, r *request) { s.showAdd(w, r, addPage{Mode: "sync"}) }

func (s *Server) showAdd(w http.ResponseWriter, r *request, p addPage) {
	st, v, err := s.volumeOf(r)
	if err != nil {
		s.refused(w, r, err)
		return
	}
	p.Volume = v
	for _, n := range st.Nodes {
		if n.Name != v.Source && !slices.ContainsFunc(v.Mirrors, func(m api.MirrorStatus) bool { return m.Target == n.Name }) {
			p.Free = append(p.Free, n.Name)
		}
	}
	s.show(w, r, http.StatusOK, layoutPage{Title: "Add a mirror to " + v.Name, Body: s.part("add-form", p)})
}

func (s *Server) addMirror(w http.ResponseWriter, r *request) {
	mode := r.PostForm.Get("mode")
	c := api.MirrorChange{Volume: r.PathValue("volume"), Action: "add", Target: r.PostForm.Get("node"), Path: strings.TrimSpace(r.PostForm.Get("path")), Mode: &mode}
	err := c.Check()
	if err == nil && wantsCheck(r) {
		p := addPage{Node: c.Target, Path: c.Path, Mode: mode}
		p.Report, p.Error = s.check(r.Context(), api.CheckQuery{Volume: c.Volume, Places: []api.Place{{Node: c.Target, Path: c.Path}}})
		s.showAdd(w, r, p)
		return
	}
	if err == nil {
		err = s.act(r, "ChangeMirror", c, func(ctx context.Context) error { _, err := s.o.Service.ChangeMirror(ctx, c); return err })
	}
	if err != nil {
		s.refused(w, r, err)
		return
	}
	s.done(w, r, volumePath(c.Volume), "A mirror to "+c.Target+" is added; its first resync begins.")
}

func (s *Server) deleteForm(w http.ResponseWriter, r *request) {
	_, v, err := s.volumeOf(r)
	if err != nil {
		s.refused(w, r, err)
		return
	}
	s.show(w, r, http.StatusOK, layoutPage{Title: "Delete volume " + v.Name, Body: s.part("delete-form", v)})
}

func (s *Server) deleteVolume(w http.ResponseWriter, r *request) {
	name := r.PathValue("volume")
	if r.PostForm.Get("confirm") != name {
		s.refused(w, r, api.Errorf(api.Usage, "volume "+name, "it is deleted only when its name is typed as the confirmation; nothing was changed"))
		return
	}
	d := api.DeleteVolume{Name: name}
	if err := s.act(r, "DeleteVolume", d, func(ctx context.Context) error { return s.o.Service.DeleteVolume(ctx, d) }); err != nil {
		s.refused(w, r, err)
		return
	}
	s.done(w, r, "/", "The volume "+name+" is deleted. The copies stay on the servers' disks.")
}

// placesMax is how many targets the form for a new volume takes.
const placesMax = 8

type newVolume struct {
	Error   string
	Nodes   []api.NodeStatus
	Name    string
	Size    string
	Mode    string
	Source  api.Place
	Targets []api.Place
	Report  *checkReport
}

func (s *Server) newForm(w http.ResponseWriter, r *request) {
	st, err := s.hub.fresh(r.Context())
	if err != nil {
		s.refused(w, r, err)
		return
	}
	f := newVolume{Nodes: st.Nodes, Mode: "sync", Source: api.Place{Node: st.Node}}
	for _, n := range st.Nodes {
		if n.Name != st.Node && len(f.Targets) < placesMax {
			f.Targets = append(f.Targets, api.Place{Node: n.Name})
		}
	}
	s.show(w, r, http.StatusOK, layoutPage{Title: "New volume", Here: "/new", Body: s.part("new-form", f)})
}

// createVolume makes a volume; what was wrong is shown beside the form as it was filled in.
func (s *Server) createVolume(w http.ResponseWriter, r *request) {
	f := r.PostForm
	form := newVolume{Name: strings.TrimSpace(f.Get("name")), Size: strings.TrimSpace(f.Get("size")), Mode: f.Get("mode"),
		Source: api.Place{Node: f.Get("source"), Path: strings.TrimSpace(f.Get("source_path"))}}
	c := api.CreateVolume{Name: form.Name, Mode: form.Mode, Source: form.Source}
	for i := range placesMax {
		p := api.Place{Node: f.Get(fmt.Sprintf("target%d", i)), Path: strings.TrimSpace(f.Get(fmt.Sprintf("target%d_path", i)))}
		if p.Node != "" {
			form.Targets = append(form.Targets, p)
		}
		if p.Node != "" && p.Path != "" {
			c.Targets = append(c.Targets, p)
		}
	}
	size, err := sizeOf(form.Size)
	c.SizeBytes = size
	if err == nil {
		err = c.Check()
	}
	if err == nil && wantsCheck(r) {
		var e *api.Error
		q := api.CheckQuery{Places: append([]api.Place{c.Source}, c.Targets...), SizeBytes: c.SizeBytes}
		if form.Report, e = s.check(r.Context(), q); e != nil {
			form.Error = e.Error()
		}
		s.showNew(w, r, http.StatusOK, form)
		return
	}
	if err == nil {
		err = s.act(r, "CreateVolume", c, func(ctx context.Context) error { _, err := s.o.Service.CreateVolume(ctx, c); return err })
	}
	if err != nil {
		e := api.AsError(err)
		form.Error = e.Error()
		s.showNew(w, r, e.Code.HTTPStatus(), form)
		return
	}
	s.done(w, r, volumePath(c.Name), "The volume "+c.Name+" is made; the first resync begins.")
}

// showNew shows the form as it was filled in.
func (s *Server) showNew(w http.ResponseWriter, r *request, status int, form newVolume) {
	if st, err := s.hub.fresh(r.Context()); err == nil {
		form.Nodes = st.Nodes
	}
	s.show(w, r, status, layoutPage{Title: "New volume", Here: "/new", Body: s.part("new-form", form)})
}

// salvageForm shows one salvage and what can be done with it.
func (s *Server) salvageForm(w http.ResponseWriter, r *request) {
	kept, err := s.o.Service.Salvages(r.Context(), api.VolumeName{Name: r.PathValue("volume")})
	if err != nil {
		s.refused(w, r, err)
		return
	}
	for _, x := range kept.Salvages {
		if x.ID == r.PathValue("id") && x.Node == r.PathValue("node") {
			_, v, err := s.volumeOf(r)
			if err != nil {
				s.refused(w, r, err)
				return
			}
			body := s.part("salvage-form", map[string]any{"Salvage": x, "Volume": v, "User": r.user})
			s.show(w, r, http.StatusOK, layoutPage{Title: "Salvage of " + v.Name, Body: body})
			return
		}
	}
	s.refused(w, r, missing{api.Errorf(api.Failed, "volume "+r.PathValue("volume"), "no server that can be reached has this salvage")})
}

func (s *Server) changeSalvage(w http.ResponseWriter, r *request) {
	f := r.PostForm
	c := api.SalvageChange{Volume: r.PathValue("volume"), Node: r.PathValue("node"), ID: r.PathValue("id"), Action: f.Get("action")}
	if c.Action == "export" {
		c.Dir = strings.TrimSpace(f.Get("dir"))
	}
	var err error
	if c.Action != "export" && f.Get("confirm") != c.Volume {
		err = api.Errorf(api.Usage, "salvage "+c.ID, "type the name of the volume as the confirmation; nothing was changed")
	} else {
		err = c.Check()
	}
	var result *api.SalvageResult
	if err == nil {
		err = s.act(r, "ChangeSalvage", c, func(ctx context.Context) (err error) { result, err = s.o.Service.ChangeSalvage(ctx, c); return err })
	}
	if err != nil {
		s.refused(w, r, err)
		return
	}
	text := map[string]string{"export": fmt.Sprintf("The salvage is exported: %d files in %s on %s.", result.Files, c.Dir, c.Node),
		"apply": "The salvage is written to the volume, " + formatBytes(result.Bytes) + ".", "delete": "The salvage is deleted."}
	s.done(w, r, volumePath(c.Volume), text[c.Action])
}

// changeView attaches or ends a read-only view of a copy or a salvage.
func (s *Server) changeView(w http.ResponseWriter, r *request) {
	f := r.PostForm
	c := api.ViewChange{Volume: r.PathValue("volume"), Node: f.Get("node"), Action: f.Get("action"), Salvage: f.Get("salvage"), Over: f.Get("over") != ""}
	err := c.Check()
	var view *api.View
	if err == nil {
		err = s.act(r, "ChangeView", c, func(ctx context.Context) (err error) { view, err = s.o.Service.ChangeView(ctx, c); return err })
	}
	switch {
	case err != nil:
		s.refused(w, r, err)
	case c.Action == "detach":
		s.done(w, r, volumePath(c.Volume), "The view has ended.")
	default:
		s.show(w, r, http.StatusOK, layoutPage{Title: "View of " + c.Volume, Body: s.part("view", view)})
	}
}
