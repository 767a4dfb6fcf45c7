package web

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"keelson/internal/api"
)

// Limits of guessing: after freeTries failures of one address, or for one name, each further try has to wait, twice as
// long each time up to waitMax.
const (
	freeTries   = 5
	waitMin     = time.Second
	waitMax     = time.Minute
	triesMax    = 4096 // addresses and names that are remembered
	verifiesMax = 2    // passwords that are checked at once: each takes memory
	nameMax     = 64   // bytes
	passwordMax = 1024 // bytes
)

// throttle remembers failed logins.
type throttle struct {
	now    func() time.Time
	verify chan struct{}

	mu    sync.Mutex
	tries map[string]tries
}

type tries struct {
	failed int
	until  time.Time
	last   time.Time
}

func newThrottle(now func() time.Time) *throttle {
	return &throttle{now: now, verify: make(chan struct{}, verifiesMax), tries: map[string]tries{}}
}

// try counts a try with these keys, unless it has to wait: then it returns for how long. A try is counted as a failure
// before the password is checked, and taken back by forget if it was right, so that many at once are no way around.
func (t *throttle) try(keys ...string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if len(t.tries) > triesMax {
		for k, x := range t.tries {
			if now.Sub(x.last) > 2*waitMax {
				delete(t.tries, k)
			}
		}
	}
	if len(t.tries) > triesMax { // all of them recent: an attack from everywhere; names are still counted exactly
		for k := range t.tries {
			if strings.HasPrefix(k, "from ") {
				delete(t.tries, k)
			}
		}
	}
	var longest time.Duration
	for _, k := range keys {
		longest = max(longest, t.tries[k].until.Sub(now))
	}
	if longest > 0 {
		return longest
	}
	for _, k := range keys {
		x := t.tries[k]
		if now.Sub(x.last) > 10*waitMax {
			x.failed = 0
		}
		x.failed++
		x.last = now
		if over := x.failed - freeTries; over >= 0 {
			x.until = now.Add(min(waitMin<<min(over, 16), waitMax))
		}
		t.tries[k] = x
	}
	return 0
}

func (t *throttle) forget(keys ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		delete(t.tries, k)
	}
}

type loginPage struct {
	Next, Name, Error string
	First             bool // no user exists yet
	Node, Cluster     string
}

func (s *Server) loginForm(w http.ResponseWriter, r *http.Request) {
	if _, ok := s.who(r); ok {
		http.Redirect(w, r, localPath(r.URL.Query().Get("next")), http.StatusSeeOther)
		return
	}
	s.showLogin(w, http.StatusOK, loginPage{Next: localPath(r.URL.Query().Get("next"))})
}

func (s *Server) showLogin(w http.ResponseWriter, status int, p loginPage) {
	p.First, p.Node, p.Cluster = len(s.o.Users.List()) == 0, s.o.Node, s.o.Cluster
	s.write(w, status, "login.html", p)
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		s.fail(w, r, formStatus(err), api.Errorf(api.Usage, "", "the form cannot be read: %v", err))
		return
	}
	name, password := r.PostForm.Get("name"), r.PostForm.Get("password")
	p := loginPage{Next: localPath(r.PostForm.Get("next")), Name: name}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	keys := []string{"name " + name, "from " + host}
	if name == "" || len(name) > nameMax || password == "" || len(password) > passwordMax {
		p.Name, p.Error = "", "Name or password is wrong."
		s.showLogin(w, http.StatusUnauthorized, p)
		return
	}
	if wait := s.throttle.try(keys...); wait > 0 {
		seconds := int(wait/time.Second) + 1
		w.Header().Set("Retry-After", fmt.Sprint(seconds))
		p.Error = fmt.Sprintf("Too many failed tries. The next one is possible in %d s.", seconds)
		s.showLogin(w, http.StatusTooManyRequests, p)
		return
	}
	select {
	case s.throttle.verify <- struct{}{}:
	case <-r.Context().Done():
		return
	}
	u, ok := s.o.Users.Verify(r.Context(), name, password)
	<-s.throttle.verify
	if !ok {
		s.noteLogin(r, api.CallerStranger, name, api.Refusal("password", "user "+name, "name or password is wrong", ""))
		p.Error = "Name or password is wrong."
		s.showLogin(w, http.StatusUnauthorized, p)
		return
	}
	s.throttle.forget(keys...)
	if err := s.enter(w, u, false); err != nil {
		s.fail(w, r, http.StatusInternalServerError, api.AsError(err))
		return
	}
	s.noteLogin(r, api.CallerPage, u.Name, nil)
	http.Redirect(w, r, p.Next, http.StatusSeeOther)
}

// noteLogin puts a login into the audit. One that failed is there too; how many there can be is the throttle's to say.
func (s *Server) noteLogin(r *http.Request, kind, name string, err error) {
	ctx := api.WithCaller(r.Context(), api.Caller{Kind: kind, Name: name, From: r.RemoteAddr})
	s.note(ctx, "Login", struct{}{}, err)
}

// enter begins a session and sets its cookie.
func (s *Server) enter(w http.ResponseWriter, u User, link bool) error {
	secret, err := s.sessions.begin(u, link)
	if err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{Name: s.cookie, Value: secret, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: int(sessionAgeMax.Seconds())})
	return nil
}

// link lets in who has a one-time token. The answer leads on by itself instead of a redirect: a redirect after a click in
// another site would not carry a cookie that is strict.
func (s *Server) link(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	key := "from " + host
	if s.throttle.try(key) > 0 {
		s.showLogin(w, http.StatusTooManyRequests, loginPage{Next: "/", Error: "Too many failed tries. Wait a minute."})
		return
	}
	if r.Method != http.MethodGet || !s.sessions.useLink(r.URL.Query().Get("token")) {
		s.noteLogin(r, api.CallerStranger, linkUser, api.Refusal("link", "page", "the link is not valid", ""))
		s.showLogin(w, http.StatusForbidden, loginPage{Next: "/", Error: "This link is not valid: each lets in once, and for a quarter of an hour. keelson web link prints a new one."})
		return
	}
	s.throttle.forget(key)
	if err := s.enter(w, User{Name: linkUser}, true); err != nil {
		s.fail(w, r, http.StatusInternalServerError, api.AsError(err))
		return
	}
	s.noteLogin(r, api.CallerPage, linkUser, nil)
	s.write(w, http.StatusOK, "welcome.html", nil)
}

// NewLink makes a one-time link below that address of the page.
func (s *Server) NewLink(base string) (*api.WebLink, error) {
	token, end, err := s.sessions.newLink()
	if err != nil {
		return nil, api.Errorf(api.Failed, "page", "%v", err).WithNext("use one of them, or wait a quarter of an hour")
	}
	return &api.WebLink{URL: base + "link?token=" + url.QueryEscape(token), Expires: end}, nil
}

func (s *Server) logout(w http.ResponseWriter, r *request) {
	if err := s.sessions.end(r.secret); err != nil {
		s.fail(w, r.Request, http.StatusInternalServerError, api.AsError(err))
		return
	}
	http.SetCookie(w, &http.Cookie{Name: s.cookie, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
	http.Redirect(w, r.Request, "/login", http.StatusSeeOther)
}
