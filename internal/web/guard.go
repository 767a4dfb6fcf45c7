package web

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"keelson/internal/api"
)

// Limits of what strangers can make the page do.
const (
	formBytesMax    = 64 << 10
	headerBytesMax  = 16 << 10
	connectionsMax  = 512
	streamsMax      = 64
	readMax         = 20 * time.Second // for a request as a whole
	writeMax        = 30 * time.Second // for an answer that is no stream
	idleMax         = 2 * time.Minute
	actionMax       = 60 * time.Second // a change that is waited for
	lookMax         = 10 * time.Second
	contentSecurity = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// Handler is the page with everything that guards it.
func (s *Server) Handler() http.Handler {
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.o.Log.Warn("page: request from another site refused", "from", r.RemoteAddr, "path", r.URL.Path, "origin", r.Header.Get("Origin"))
		s.fail(w, r, http.StatusForbidden, api.Refusal("cross-origin", "", "this request was made by another site; nothing was changed", "open the page itself"))
	}))
	next := cross.Handler(s.mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentSecurity)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-store")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readMax)) // not every writer has deadlines
		if r.Method == http.MethodPost {
			r.Body = http.MaxBytesReader(w, r.Body, formBytesMax)
		}
		next.ServeHTTP(w, r)
	})
}

// HTTP is the server that serves the page over TLS, its limits set.
func (s *Server) HTTP() *http.Server {
	return &http.Server{Handler: s.Handler(), ReadHeaderTimeout: readMax, WriteTimeout: writeMax + actionMax, IdleTimeout: idleMax, MaxHeaderBytes: headerBytesMax}
}

// request is what a handler knows of who asks.
type request struct {
	*http.Request
	user   User
	link   bool // came in by a one-time link
	secret string
}

// needs lets in who is logged in and has the role. Who is not logged in is sent to the login, except for what a script asks.
func (s *Server) needs(role Role, next func(http.ResponseWriter, *request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q, ok := s.who(r)
		switch {
		case !ok && (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.URL.Path != "/stream":
			to := "/login"
			if r.URL.Path != "/" {
				to += "?next=" + url.QueryEscape(r.URL.RequestURI())
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
		case !ok:
			s.fail(w, r, http.StatusUnauthorized, api.Errorf(api.Refused, "", "you are not logged in, or no longer; nothing was changed").WithNext("log in"))
		case !q.user.Role.May(role):
			s.o.Log.Warn("page: refused by role", "user", q.user.Name, "role", q.user.Role, "method", r.Method, "path", r.URL.Path)
			s.fail(w, r, http.StatusForbidden, api.Refusal("role", "user "+q.user.Name, "the role "+string(q.user.Role)+" may not do this; nothing was changed", "ask an administrator; this needs the role "+string(role)))
		default:
			if r.Method == http.MethodPost {
				if err := r.ParseForm(); err != nil {
					s.fail(w, r, formStatus(err), api.Errorf(api.Usage, "", "the form cannot be read: %v; nothing was changed", err))
					return
				}
			}
			_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // what follows may take longer than reading
			next(w, q)
		}
	}
}

func formStatus(err error) int {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}

// who finds the user of a request, as they are now.
func (s *Server) who(r *http.Request) (*request, bool) {
	c, err := r.Cookie(s.cookie)
	if err != nil {
		return nil, false
	}
	one, ok := s.sessions.find(c.Value)
	if !ok {
		return nil, false
	}
	q := &request{Request: r, secret: c.Value, link: one.Link}
	if one.Link {
		q.user = User{Name: linkUser, Role: Administrator}
		return q, true
	}
	u, ok := s.o.Users.Find(one.User)
	if !ok || u.Epoch != one.Epoch {
		return nil, false
	}
	q.user = u
	return q, true
}

// localPath is where to go after a login: a path of this page and nothing else.
func localPath(p string) string {
	u, err := url.Parse(p)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(p, "/") || strings.HasPrefix(p, "//") || strings.ContainsAny(p, "\\\r\n\t") {
		return "/"
	}
	return p
}

// Limit is the listener with at most connectionsMax connections at once; one more waits to be accepted.
func Limit(l net.Listener) net.Listener {
	return &limited{Listener: l, tokens: make(chan struct{}, connectionsMax), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	tokens chan struct{}
	once   sync.Once
	closed chan struct{}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.tokens <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.tokens
		return nil, err
	}
	return &limitedConn{Conn: c, free: sync.OnceFunc(func() { <-l.tokens })}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
