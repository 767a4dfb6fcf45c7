package web

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"keelson/internal/api"
)

// usersForm lists the users; an administrator can change them.
func (s *Server) usersForm(w http.ResponseWriter, r *request) {
	s.showUsers(w, r, http.StatusOK, "")
}

func (s *Server) showUsers(w http.ResponseWriter, r *request, status int, problem string) {
	data := map[string]any{"Users": s.o.Users.List(), "User": r.user, "Link": r.link, "Error": problem}
	s.show(w, r, status, layoutPage{Title: "Users", Here: "/users", Body: s.part("users", data)})
}

// changeUser makes, changes or removes a user.
func (s *Server) changeUser(w http.ResponseWriter, r *request) {
	f := r.PostForm
	name, role, password := strings.TrimSpace(f.Get("name")), f.Get("role"), f.Get("password")
	var changes []api.UserChange
	text := "The user " + name + " is saved as " + role + "."
	_, there := s.o.Users.Find(name)
	switch {
	case f.Get("action") == "remove":
		text = "The user " + name + " is removed and logged out everywhere."
		changes = []api.UserChange{{Action: "remove", Name: name}}
	case f.Get("action") != "put":
		s.showUsers(w, r, http.StatusBadRequest, "There is no such action; nothing was changed.")
		return
	case !there && password == "":
		s.showUsers(w, r, http.StatusBadRequest, "A new user needs a password; nothing was changed.")
		return
	case !there:
		changes = []api.UserChange{{Action: "add", Name: name, Role: role, Password: password}}
	default:
		changes = []api.UserChange{{Action: "role", Name: name, Role: role}}
		if password != "" {
			changes = append(changes, api.UserChange{Action: "passwd", Name: name, Password: password})
		}
	}
	for _, c := range changes {
		if err := s.change(r, c); err != nil {
			e := api.AsError(err)
			s.showUsers(w, r, e.Code.HTTPStatus(), e.Error())
			return
		}
	}
	s.done(w, r, "/users", text)
}

// change makes one change of a user.
func (s *Server) change(r *request, c api.UserChange) error {
	if err := c.Check(); err != nil {
		return err
	}
	return s.act(r, "ChangeUser", c, func(ctx context.Context) error { _, err := s.o.Service.ChangeUser(ctx, c); return err })
}

// changePassword is for users themselves; their other sessions are over after it.
func (s *Server) changePassword(w http.ResponseWriter, r *request) {
	old, password := r.PostForm.Get("old"), r.PostForm.Get("password")
	if r.link {
		s.showUsers(w, r, http.StatusBadRequest, "You came in by a link and have no password: make a user for yourself.")
		return
	}
	key := "name " + r.user.Name
	if s.throttle.try(key) > 0 {
		s.showUsers(w, r, http.StatusTooManyRequests, "Too many failed tries. Wait a minute.")
		return
	}
	if len(old) > passwordMax || len(password) > passwordMax {
		s.showUsers(w, r, http.StatusBadRequest, "A password has at most 1024 bytes.")
		return
	}
	s.throttle.verify <- struct{}{}
	u, ok := s.o.Users.Verify(r.Context(), r.user.Name, old)
	<-s.throttle.verify
	if !ok {
		s.showUsers(w, r, http.StatusForbidden, "The present password is wrong; nothing was changed.")
		return
	}
	s.throttle.forget(key)
	err := s.change(r, api.UserChange{Action: "passwd", Name: u.Name, Password: password})
	if err == nil {
		err = s.sessions.end(r.secret)
	}
	if now, ok := s.o.Users.Find(u.Name); ok && err == nil {
		err = s.enter(w, now, false)
	}
	if err != nil {
		e := api.AsError(err)
		s.showUsers(w, r, e.Code.HTTPStatus(), e.Error())
		return
	}
	http.Redirect(w, r.Request, "/users", http.StatusSeeOther)
}

// auditView is who did what on every server.
func (s *Server) auditView(*request) (view, error) {
	return &auditPage{s: s, box: newBox[[]api.AuditLine]()}, nil
}

const auditShown = 300

type auditPage struct {
	s   *Server
	box *box[[]api.AuditLine]
}

func (*auditPage) title() string            { return "Audit" }
func (*auditPage) changed() <-chan struct{} { return nil }

func (a *auditPage) load(ctx context.Context) {
	var list []api.AuditLine
	err := a.s.o.Service.Audit(ctx, api.AuditQuery{Limit: auditShown}, func(l api.AuditLine) error { list = append(list, l); return nil })
	slices.Reverse(list) // the newest first
	a.box.put(list, err)
}

func (a *auditPage) blocks(*state) ([]block, error) {
	list, err := a.box.get()
	return []block{{id: "audit", html: a.s.part("audit", map[string]any{"Lines": list, "Error": problem(err)})}}, nil
}
