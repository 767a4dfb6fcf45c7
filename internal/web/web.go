// Package web is the page: what an administrator sees and does in a browser. It knows the cluster only by api.Service.
//
// A view is a list of blocks of HTML. The page is their concatenation; afterwards a stream of server-sent events carries
// the blocks that changed, by their ids, and a small script patches them into the document. Every change is a POST of a
// form and works without the script.
package web

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"keelson/internal/api"
)

//go:embed static templates
var files embed.FS

// Options of a Server.
type Options struct {
	Service  api.Service
	Users    Users
	Cluster  string
	Node     string
	Sessions string      // file in which logins outlive a restart; "": they do not
	Audit    api.Auditor // may be nil
	Log      *slog.Logger
	Now      func() time.Time // nil: the clock
}

// Server is the page of one agent. Its life: New, Handler, Close; every goroutine ends with Close.
type Server struct {
	o        Options
	sessions *sessions
	throttle *throttle
	hub      *hub
	tasks    tasks
	flashes  flashes
	html     *template.Template
	static   map[string]asset
	mux      *http.ServeMux
	cookie   string
	streams  chan struct{} // a token for each stream

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// asset is an embedded file.
type asset struct {
	data []byte
	kind string
	tag  string // of its content
}

// New makes the page. What the file of sessions holds and cannot be read is logged; everybody has to log in again then.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, throttle: newThrottle(o.Now), static: map[string]asset{}, streams: make(chan struct{}, streamsMax)}
	var err error
	if s.sessions, err = openSessions(o.Sessions, o.Now); err != nil {
		o.Log.Warn("the page's sessions cannot be read: everybody has to log in again", "err", err)
	}
	sum := sha256.Sum256([]byte(o.Cluster + "/" + o.Node))
	s.cookie = "__Host-keelson-" + hex.EncodeToString(sum[:4]) // cookies know no ports: each agent on one machine has its own
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.tasks.kept, s.flashes.kept = map[string]*task{}, map[string][]flash{}
	s.loadStatic()
	s.html = template.Must(template.New("").Funcs(s.functions()).ParseFS(files, "templates/*.html"))
	s.hub = newHub(o.Service, o.Now)
	s.wg.Go(func() { s.hub.run(s.ctx) })
	s.routes()
	return s
}

// Close ends all streams and waits for what the page began.
func (s *Server) Close() {
	s.stop()
	s.wg.Wait()
}

func (s *Server) loadStatic() {
	kinds := map[string]string{"app.js": "text/javascript; charset=utf-8", "app.css": "text/css; charset=utf-8", "icon.svg": "image/svg+xml"}
	for name, kind := range kinds {
		data, err := fs.ReadFile(files, "static/"+name)
		if err != nil {
			panic(err) // it is embedded
		}
		sum := sha256.Sum256(data)
		s.static[name] = asset{data, kind, hex.EncodeToString(sum[:6])}
	}
}

func (s *Server) routes() {
	m := http.NewServeMux()
	s.mux = m
	m.HandleFunc("GET /static/{name}", s.serveStatic)
	m.HandleFunc("GET /login", s.loginForm)
	m.HandleFunc("POST /login", s.login)
	m.HandleFunc("GET /link", s.link)
	m.HandleFunc("POST /logout", s.needs(Viewer, s.logout))
	m.HandleFunc("GET /{$}", s.needs(Viewer, s.page(s.overviewView)))
	m.HandleFunc("GET /events", s.needs(Viewer, s.page(s.eventsView)))
	m.HandleFunc("GET /audit", s.needs(Administrator, s.page(s.auditView)))
	m.HandleFunc("GET /stream", s.needs(Viewer, s.stream))
	m.HandleFunc("GET /v/{volume}", s.needs(Viewer, s.page(s.volumeView)))
	m.HandleFunc("GET /v/{volume}/switchover", s.needs(Operator, s.switchoverForm))
	m.HandleFunc("POST /v/{volume}/switchover", s.needs(Operator, s.switchover))
	m.HandleFunc("GET /v/{volume}/split-brain", s.needs(Viewer, s.splitBrain))
	m.HandleFunc("POST /v/{volume}/split-brain", s.needs(Administrator, s.resolve))
	m.HandleFunc("GET /v/{volume}/mirror/{target}", s.needs(Viewer, s.mirrorForm))
	m.HandleFunc("POST /v/{volume}/mirror", s.needs(Operator, s.changeMirror))
	m.HandleFunc("POST /v/{volume}/accept", s.needs(Operator, s.accept))
	m.HandleFunc("GET /v/{volume}/add", s.needs(Administrator, s.addForm))
	m.HandleFunc("POST /v/{volume}/add", s.needs(Administrator, s.addMirror))
	m.HandleFunc("GET /v/{volume}/delete", s.needs(Administrator, s.deleteForm))
	m.HandleFunc("POST /v/{volume}/delete", s.needs(Administrator, s.deleteVolume))
	m.HandleFunc("GET /v/{volume}/salvage/{node}/{id}", s.needs(Viewer, s.salvageForm))
	m.HandleFunc("POST /v/{volume}/salvage/{node}/{id}", s.needs(Administrator, s.changeSalvage))
	m.HandleFunc("POST /v/{volume}/view", s.needs(Administrator, s.changeView))
	m.HandleFunc("GET /check", s.needs(Viewer, s.checkForm))
	m.HandleFunc("POST /check", s.needs(Operator, s.runCheck))
	m.HandleFunc("GET /new", s.needs(Administrator, s.newForm))
	m.HandleFunc("POST /new", s.needs(Administrator, s.createVolume))
	m.HandleFunc("GET /task/{id}", s.needs(Viewer, s.page(s.taskView)))
	m.HandleFunc("GET /users", s.needs(Viewer, s.usersForm))
	m.HandleFunc("POST /users", s.needs(Administrator, s.changeUser))
	m.HandleFunc("POST /password", s.needs(Viewer, s.changePassword))
	m.HandleFunc("/", s.needs(Viewer, s.notFound))
}

func (s *Server) serveStatic(w http.ResponseWriter, r *http.Request) {
	a, ok := s.static[r.PathValue("name")]
	if !ok {
		http.Error(w, "there is no such file", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "no-cache")
	if r.URL.Query().Get("v") == a.tag {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	_, _ = w.Write(a.data) // a reader that is gone does not need it
}
