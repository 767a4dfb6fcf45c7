package web

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Who may look may do nothing; who may operate may do what ends by itself and loses nothing.
func TestRolesAreEnforced(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	viewer, operator, administrator := x.user("viewer"), x.user("operator"), x.user("administrator")
	forms := []struct {
		path   string
		form   url.Values
		needed Role
	}{
		{"/v/data/switchover", url.Values{"to": {"b"}}, Operator},
		{"/v/data/mirror", url.Values{"action": {"pause"}, "target": {"b"}}, Operator},
		{"/v/data/mirror", url.Values{"action": {"continue"}, "target": {"b"}}, Operator},
		{"/v/data/accept", url.Values{}, Operator},
		{"/v/data/switchover", url.Values{"to": {"b"}, "force": {"1"}, "confirm": {"data"}}, Administrator},
		{"/v/data/mirror", url.Values{"action": {"break"}, "target": {"b"}}, Administrator},
		{"/v/data/mirror", url.Values{"action": {"remove"}, "target": {"b"}, "confirm": {"b"}}, Administrator},
		{"/v/data/mirror", url.Values{"action": {"set"}, "target": {"b"}, "mode": {"async"}}, Administrator},
		{"/v/data/mirror", url.Values{"action": {"resync"}, "target": {"b"}}, Administrator},
		{"/v/data/add", url.Values{"node": {"d"}, "path": {"/x"}, "mode": {"sync"}}, Administrator},
		{"/v/data/delete", url.Values{"confirm": {"data"}}, Administrator},
		{"/v/data/split-brain", url.Values{"keep": {"a"}, "confirm": {"data"}}, Administrator},
		{"/v/data/view", url.Values{"action": {"detach"}, "node": {"b"}}, Administrator},
		{"/v/data/salvage/b/s1", url.Values{"action": {"delete"}, "confirm": {"data"}}, Administrator},
		{"/new", url.Values{"name": {"v"}, "source": {"a"}, "source_path": {"/x"}, "mode": {"sync"}}, Administrator},
		{"/users", url.Values{"action": {"put"}, "name": {"eve"}, "role": {"administrator"}, "password": {"a long password"}}, Administrator},
		{"/users", url.Values{"action": {"remove"}, "name": {"operator2"}}, Administrator},
	}
	for _, f := range forms {
		for _, who := range []struct {
			role   Role
			client *http.Client
		}{{Viewer, viewer}, {Operator, operator}, {Administrator, administrator}} {
			before := x.agent.noted()
			status, body := x.post(who.client, f.path, f.form)
			allowed := who.role.May(f.needed)
			if allowed != (status == http.StatusSeeOther) || !allowed && status != http.StatusForbidden {
				t.Errorf("%s %v as %s: status %d\n%s", f.path, f.form, who.role, status, body)
			}
			for limit := time.Now().Add(10 * time.Second); allowed && strings.HasSuffix(f.path, "/switchover") && x.agent.noted() == before; {
				if time.Now().After(limit) { // a switchover goes on by itself
					t.Fatalf("%v as %s was not done", f.form, who.role)
				}
			}
			if !allowed && x.agent.noted() != before {
				t.Errorf("%s %v as %s was done: %s", f.path, f.form, who.role, x.agent.noted())
			}
		}
	}
	if _, ok := x.people.Find("eve"); !ok {
		t.Error("the administrator made no user")
	}
	stranger := x.visitor()
	for _, f := range forms {
		if status, _ := x.post(stranger, f.path, f.form); status != http.StatusUnauthorized {
			t.Errorf("%s by a stranger: status %d", f.path, status)
		}
	}
	for _, path := range []string{"/", "/events", "/users", "/v/data", "/v/data/switchover", "/new", "/check", "/task/1", "/audit", "/nothing"} {
		if status, body := x.get(stranger, path); status != http.StatusSeeOther || strings.Contains(body, "data") && !strings.Contains(path, "data") {
			t.Errorf("%s for a stranger: status %d, %s", path, status, body)
		}
	}
	for client, want := range map[*http.Client]int{stranger: http.StatusUnauthorized, viewer: http.StatusForbidden, operator: http.StatusOK} { // it makes load
		if status, _ := x.post(client, "/check", url.Values{}); status != want {
			t.Errorf("a check: status %d, not %d", status, want)
		}
	}
	if status, _ := x.get(stranger, "/stream?view=overview"); status != http.StatusUnauthorized {
		t.Errorf("the stream for a stranger: status %d", status)
	}
}

// What another site makes a logged-in browser send is refused, whatever cookies come with it.
func TestForgedRequestIsRefused(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	c := x.user("administrator")
	for _, h := range []map[string]string{
		{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"},
		{"Origin": x.server.URL + "0"}, {"Sec-Fetch-Site": "cross-site", "Origin": x.server.URL},
	} {
		for _, path := range []string{"/v/data/delete", "/login", "/logout", "/users"} {
			r := x.form(path, url.Values{"confirm": {"data"}, "name": {"administrator"}, "password": {"administrator's password"}})
			for k, v := range h {
				r.Header.Set(k, v)
			}
			if status, _ := x.do(c, r); status != http.StatusForbidden {
				t.Errorf("%s with %v: status %d", path, h, status)
			}
		}
	}
	if x.agent.noted() != "" {
		t.Errorf("done: %s", x.agent.noted())
	}
	r := x.form("/v/data/delete", url.Values{"confirm": {"data"}})
	r.Header.Set("Origin", x.server.URL)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if status, _ := x.do(c, r); status != http.StatusSeeOther || x.agent.noted() != "delete data" {
		t.Errorf("the page's own form: status %d, done %q", status, x.agent.noted())
	}
}

// The cookie is of no use to scripts, to other sites, or without TLS.
func TestCookieIsGuarded(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	answer, err := x.visitor().Do(x.form("/login", url.Values{"name": {"viewer"}, "password": {"viewer's password"}}))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	cookies := answer.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("%d cookies", len(cookies))
	}
	k := cookies[0]
	if !k.HttpOnly || !k.Secure || k.SameSite != http.SameSiteStrictMode || k.Path != "/" || k.Domain != "" || !strings.HasPrefix(k.Name, "__Host-") || len(k.Value) < 43 {
		t.Errorf("%+v", k)
	}
}

// Guessing gets slower for the name and for the address, also by many tries at once, and tells nothing about names.
func TestGuessingPasswordsIsSlowed(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	try := func(name, password string) (int, string) {
		return x.post(x.visitor(), "/login", url.Values{"name": {name}, "password": {password}})
	}
	_, wrong := try("viewer", "x")
	_, unknown := try("nobody", "x")
	if strings.ReplaceAll(wrong, "viewer", "nobody") != unknown {
		t.Error("the answer tells whether the name exists")
	}
	x.clock.add(time.Hour)
	var wg sync.WaitGroup
	before := x.people.verified
	for i := range 60 {
		wg.Go(func() { try("viewer", fmt.Sprint("guess ", i)) })
	}
	wg.Wait()
	if n := x.people.verified - before; n > freeTries {
		t.Errorf("%d of 60 tries at once were looked at, more than %d", n, freeTries)
	}
	if status, body := try("viewer", "viewer's password"); status != http.StatusTooManyRequests || !strings.Contains(body, "Too many") {
		t.Errorf("the right password at once afterwards: status %d", status)
	}
	x.clock.add(waitMax + time.Second)
	if status, _ := try("viewer", "viewer's password"); status != http.StatusSeeOther {
		t.Errorf("the right password a minute later: status %d", status)
	}
	if status, _ := try(strings.Repeat("n", 1000), "x"); status != http.StatusUnauthorized {
		t.Errorf("a name of 1000 bytes: status %d", status)
	}
	if n := len(x.page.throttle.tries); n > triesMax {
		t.Errorf("%d tries are remembered", n)
	}
}

// Nothing that is no path of the page leads anywhere, and a login leads only to the page itself.
func TestPathTricks(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	c := x.user("administrator")
	for _, path := range []string{"/static/../web.go", "/static/%2e%2e/web.go", "/static/..%2fweb.go", "/static/", "/static/app.css/x", "/templates/layout.html",
		"/v/..%2f..%2fetc%2fpasswd", "/v/nothing", "/v/%00", "/v/data/mirror/..%2f..", "/v/data/salvage/b/..%2f..", "/task/..%2fx", "/stream?view=volume&volume=../x", "/.git/config", "/v1/Status", "/peer/v1/state"} {
		status, body := x.get(c, path)
		if status < 300 || status == http.StatusInternalServerError || strings.Contains(body, "package web") || strings.Contains(body, "define") {
			t.Errorf("%s: status %d, %.200s", path, status, body)
		}
	}
	for _, next := range []string{"https://evil.example/", "//evil.example/", `/\evil.example`, "javascript:alert(1)", "/\r\nX: y", "evil"} {
		answer, err := x.visitor().Do(x.form("/login", url.Values{"name": {"viewer"}, "password": {"viewer's password"}, "next": {next}}))
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if to := answer.Header.Get("Location"); answer.StatusCode != http.StatusSeeOther || to != "/" {
			t.Errorf("next %q leads to %q (status %d)", next, to, answer.StatusCode)
		}
	}
}

// Bodies and headers have limits; what is no form is refused.
func TestOversizedRequests(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	c := x.user("administrator")
	for _, path := range []string{"/v/data/delete", "/login", "/new"} {
		if status, _ := x.post(c, path, url.Values{"confirm": {strings.Repeat("x", formBytesMax)}}); status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s with a large body: status %d", path, status)
		}
	}
	r := x.form("/v/data/delete", url.Values{})
	r.Header.Set("X-Large", strings.Repeat("x", 64<<10))
	if answer, err := c.Do(r); err == nil {
		_ = answer.Body.Close()
		if answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("large headers: status %d", answer.StatusCode)
		}
	}
	bad := x.form("/v/data/delete", nil)
	bad.Body = http.NoBody
	bad.URL.RawQuery = "confirm=data"
	if status, _ := x.do(c, bad); status != http.StatusBadRequest || x.agent.noted() != "" {
		t.Errorf("a confirmation in the address: status %d, done %q", status, x.agent.noted())
	}
	if status, _ := x.do(c, func() *http.Request {
		r := x.form("/v/data/delete", url.Values{"confirm": {"data"}})
		r.Header.Set("Content-Type", "application/json")
		return r
	}()); status != http.StatusBadRequest || x.agent.noted() != "" {
		t.Errorf("a form that says it is JSON: status %d, done %q", status, x.agent.noted())
	}
}

// No answer lets a browser run or load anything but the page's own files, or be framed.
func TestEveryAnswerIsGuarded(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	c := x.user("administrator")
	for _, path := range []string{"/", "/v/data", "/v/data/switchover?to=b", "/v/data/switchover?to=b&force=1", "/v/data/split-brain?keep=a", "/v/data/mirror/b", "/v/data/add",
		"/v/data/delete", "/v/data/salvage/b/s1", "/new", "/users", "/events", "/audit", "/login", "/nothing", "/static/app.css"} {
		r, _ := http.NewRequest(http.MethodGet, x.server.URL+path, nil)
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		h := answer.Header
		if h.Get("Content-Security-Policy") != contentSecurity || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") == "" {
			t.Errorf("%s: %v", path, h)
		}
		_, body := x.get(c, path)
		for _, bad := range []string{" style=", "<style", " onclick=", "javascript:", "cannot be shown", "http://", "https://", "ZgotmplZ"} {
			if strings.Contains(body, bad) && !strings.HasPrefix(path, "/static/") {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
}

// Who opens connections and says nothing keeps out nobody else for long: beyond the limit they wait to be accepted, and
// those that are idle end.
func TestManyConnections(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Limit(inner)
	accepted := make(chan net.Conn, connectionsMax+10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	}()
	var dialed []net.Conn
	for range connectionsMax + 5 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		dialed = append(dialed, c)
	}
	var held []net.Conn
	for range connectionsMax {
		held = append(held, <-accepted)
	}
	select {
	case <-accepted:
		t.Errorf("more than %d connections at once", connectionsMax)
	case <-time.After(100 * time.Millisecond):
	}
	if err := errors.Join(held[0].Close(), held[0].Close()); err == nil {
		t.Error("a second close says nothing")
	}
	<-accepted // the next one, and only one
	select {
	case <-accepted:
		t.Error("one connection ended, and two were accepted")
	case <-time.After(100 * time.Millisecond):
	}
	_ = l.Close()
	<-done
	for _, c := range append(dialed, held...) {
		_ = c.Close()
	}
	if h := (&Server{}).HTTP(); h.IdleTimeout == 0 || h.ReadHeaderTimeout == 0 || h.MaxHeaderBytes == 0 {
		t.Errorf("the server has no limits: %+v", h)
	}
}
