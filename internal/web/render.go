package web

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"keelson/internal/api"
)

// layoutPage is what every page behind the login has around its content.
type layoutPage struct {
	Title   string
	Here    string // which entry of the menu
	Node    string
	Cluster string
	User    User
	Link    bool
	Stream  string // address of the stream; "": none
	Flashes []flash
	Body    template.HTML
}

// functions are those that templates use.
func (s *Server) functions() template.FuncMap {
	return template.FuncMap{
		"static": func(name string) string { return "/static/" + name + "?v=" + s.static[name].tag },
		"bytes":  formatBytes, "rate": formatRate, "count": formatCount, "duration": formatSeconds, "clock": formatClock, "date": formatDate,
		"path": url.PathEscape, "join": strings.Join, "short": shortID, "percent": percentOf,
		"args": func(row mirrorRow, action, text string) map[string]any {
			return map[string]any{"Row": row, "Action": action, "Text": text}
		},
		"look":  func(volume, node string) map[string]string { return map[string]string{"Volume": volume, "Node": node} },
		"where": where, "finding": finding,
		"may": func(u User, needed string) bool { return u.Role.May(Role(needed)) },
		"sentence": func(text string) string {
			if text == "" {
				return ""
			}
			return strings.ToUpper(text[:1]) + text[1:]
		},
	}
}

// part renders one template.
func (s *Server) part(name string, data any) template.HTML {
	var b bytes.Buffer
	if err := s.html.ExecuteTemplate(&b, name, data); err != nil {
		s.o.Log.Error("page: template", "name", name, "err", err)
		return template.HTML(`<p class="note bad">this part cannot be shown; the agent's log says why</p>`)
	}
	return template.HTML(b.String()) // it comes from a template
}

// write answers with a whole page that has a template of its own.
func (s *Server) write(w http.ResponseWriter, status int, name string, data any) {
	html := s.part(name, data)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(html)) // a reader that is gone does not need it
}

// show answers with a page behind the login.
func (s *Server) show(w http.ResponseWriter, r *request, status int, p layoutPage) {
	p.Node, p.Cluster, p.User, p.Link = s.o.Node, s.o.Cluster, r.user, r.link
	p.Flashes = append(p.Flashes, s.flashes.take(keyOf(r.secret))...)
	s.write(w, status, "layout.html", p)
}

// page shows a view that has a stream.
func (s *Server) page(make func(*request) (view, error)) func(http.ResponseWriter, *request) {
	return func(w http.ResponseWriter, r *request) {
		v, err := make(r)
		if err != nil {
			s.fail(w, r.Request, http.StatusNotFound, api.AsError(err))
			return
		}
		st, err := s.hub.fresh(r.Context())
		if err == nil {
			v.load(r.Context())
		}
		var blocks []block
		if err == nil {
			blocks, err = v.blocks(st)
		}
		if err != nil {
			s.fail(w, r.Request, http.StatusNotFound, api.AsError(err))
			return
		}
		s.show(w, r, http.StatusOK, layoutPage{Title: v.title(), Here: r.URL.Path, Stream: streamOf(r), Body: assemble(blocks)})
	}
}

// streamOf is the address of the stream of the view at the request's path.
func streamOf(r *request) string {
	q := url.Values{}
	switch {
	case r.PathValue("volume") != "":
		q.Set("view", "volume")
		q.Set("volume", r.PathValue("volume"))
	case r.PathValue("id") != "":
		q.Set("view", "task")
		q.Set("id", r.PathValue("id"))
	case r.URL.Path == "/events" || r.URL.Path == "/audit":
		q.Set("view", r.URL.Path[1:])
	default:
		q.Set("view", "overview")
	}
	return "/stream?" + q.Encode()
}

// assemble is the HTML of blocks.
func assemble(blocks []block) template.HTML {
	var b strings.Builder
	for _, x := range blocks {
		if x.list == nil {
			b.WriteString(string(x.html))
			continue
		}
		fmt.Fprintf(&b, `<div id="%s" class="%s">%s</div>`, template.HTMLEscapeString(x.id), template.HTMLEscapeString(x.class), assemble(x.list))
	}
	return template.HTML(b.String()) // made of templates
}

// fail answers with an error: what failed, why, and what to do next.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, status int, e *api.Error) {
	q, ok := s.who(r)
	if !ok {
		s.write(w, status, "error.html", e)
		return
	}
	s.show(w, q, status, layoutPage{Title: "Not done", Body: s.part("failure", e)})
}

// refused answers with the error of a call.
func (s *Server) refused(w http.ResponseWriter, r *request, err error) {
	e := api.AsError(err)
	status := e.Code.HTTPStatus()
	if errors.As(err, new(missing)) {
		status = http.StatusNotFound
	}
	s.fail(w, r.Request, status, e)
}

// missing is the error of an address that names what is not there.
type missing struct{ error }

// Unwrap finds the *api.Error.
func (m missing) Unwrap() error { return m.error }

func (s *Server) notFound(w http.ResponseWriter, r *request) {
	s.fail(w, r.Request, http.StatusNotFound, api.Errorf(api.Usage, "", "there is no page %.100q", r.URL.Path).WithNext("the overview has everything there is"))
}

// flash is a message that the next page shows once.
type flash struct {
	Class string // good | bad
	Text  string
}

const (
	flashesMax  = 8   // of one session
	flashKeyMax = 512 // sessions with flashes
)

// flashes by session.
type flashes struct {
	mu   sync.Mutex
	kept map[string][]flash
}

func (f *flashes) add(session string, x flash) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.kept) >= flashKeyMax {
		clear(f.kept)
	}
	list := append(f.kept[session], x)
	f.kept[session] = list[max(0, len(list)-flashesMax):]
}

func (f *flashes) take(session string) []flash {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.kept[session]
	delete(f.kept, session)
	return list
}

// done leads back to a page, which says what was done.
func (s *Server) done(w http.ResponseWriter, r *request, to, text string) {
	s.flashes.add(keyOf(r.secret), flash{"good", text})
	http.Redirect(w, r.Request, to, http.StatusSeeOther)
}
