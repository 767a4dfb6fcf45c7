package web

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Who asks in FuzzPage: a stranger, each role, and an administrator's browser that another site makes ask.
var askers = []Role{"", Viewer, Operator, Administrator, Administrator}

const forged = 4

// mayOperate is what an operator may have done: what ends by itself and loses nothing.
var mayOperate = regexp.MustCompile(`^(switchover .* false|pause .*|continue .*)$`)

// FuzzPage asks the page for anything: whoever asks gets an answer that is no failure of the page, and nothing is changed that the session, its
// role and the site of the form do not allow.
func FuzzPage(f *testing.F) {
	get, post := http.MethodGet, http.MethodPost
	for i, seed := range []struct{ method, target, form string }{
		{get, "/", ""}, {get, "/events?volume=data&after=1", ""}, {get, "/audit?who=a&n=3", ""}, {get, "/v/data?hours=1", ""}, {get, "/v/data/switchover?to=b&force=1", ""}, {get, "/v/data/split-brain?keep=a", ""},
		{get, "/v/data/mirror/b", ""}, {get, "/v/data/add", ""}, {get, "/v/data/delete", ""}, {get, "/v/data/salvage/b/s1", ""}, {get, "/check?node=a", ""}, {get, "/new", ""}, {get, "/task/1", ""},
		{get, "/users", ""}, {get, "/link?t=x", ""}, {get, "/login?next=/v/data", ""}, {get, "/static/app.css?v=1", ""}, {get, "/stream?view=volume&volume=data", ""}, {"PUT", "/v/%2e%2e/x", "a=b"},
		{post, "/login", "name=viewer&password=viewer's+password&next=//x"}, {post, "/logout", ""}, {post, "/password", "old=x&new=yyyyyyyyyyyy&again=yyyyyyyyyyyy"},
		{post, "/v/data/switchover", "to=b"}, {post, "/v/data/switchover", "to=b&force=1&confirm=data&no-catch-up=1"}, {post, "/v/data/mirror", "action=pause&target=b"},
		{post, "/v/data/mirror", "action=set&target=b&mode=async&rate=20MiB&queue=1GiB&resync-rate=-1"}, {post, "/v/data/mirror", "action=remove&target=b&confirm=b"},
		{post, "/v/data/add", "node=d&path=/x&mode=sync"}, {post, "/v/data/delete", "confirm=data"}, {post, "/v/data/split-brain", "keep=a&confirm=data"}, {post, "/v/data/view", "action=detach&node=b"},
		{post, "/v/data/salvage/b/s1", "action=delete&confirm=data"}, {post, "/v/data/salvage/b/s1", "action=apply&ranges=0-1G&confirm=data"}, {post, "/check", "place=a:/x&volume=data"},
		{post, "/new", "name=v&source=a&source_path=/x&target=b&target_path=/y&mode=sync&size=1G"}, {post, "/users", "action=put&name=eve&role=administrator&password=a+long+password"},
		{post, "/users", "action=remove&name=operator"}, {post, "/users", "%zz=%"},
	} {
		for who := range askers {
			if seed.method == post || who == i%len(askers) {
				f.Add(byte(who), seed.method, seed.target, seed.form)
			}
		}
	}
	f.Fuzz(func(t *testing.T, who byte, method, target, form string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || u.Host != "" || !strings.HasPrefix(u.Path, "/") || !regexp.MustCompile(`^[A-Z]{1,16}$`).MatchString(method) {
			t.Skip() // no server gets such a request
		}
		asker := int(who) % len(askers)
		x := newPageOnly(t)
		cookie := x.login(t, askers[asker])
		x.agent.calls = nil
		before := x.people.copy()
		r := &http.Request{Method: method, URL: u, RequestURI: target, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "a.example", RemoteAddr: "192.0.2.1:1234",
			Header: http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}}
		answer := x.ask(r, form, cookie, asker == forged)
		if answer.Code >= http.StatusInternalServerError || answer.Code < 200 {
			t.Errorf("%s %s %q by %q: status %d: %.500s", method, target, form, askers[asker], answer.Code, answer.Body)
		}
		x.page.Close() // what goes on by itself is over
		x.judge(t, asker, method, before)
	})
}

// judge looks at what was done.
func (x *site) judge(t *testing.T, asker int, method string, before *people) {
	role, calls := askers[asker], x.agent.calls
	untouched := method == http.MethodGet || method == http.MethodHead || role == "" || asker == forged
	for _, call := range calls {
		if untouched || role == Viewer || role == Operator && !mayOperate.MatchString(call) {
			t.Errorf("%s by %q (forged: %t): done: %s", method, role, asker == forged, call)
		}
	}
	after := x.people.copy()
	if role == Viewer || role == Operator { // their own password is theirs
		for _, p := range []*people{before, after} {
			u := p.users[string(role)]
			u.Epoch = ""
			p.users[string(role)] = u
			delete(p.password, string(role))
		}
	}
	if (untouched || role != Administrator) && (!reflect.DeepEqual(before.users, after.users) || !reflect.DeepEqual(before.password, after.password)) {
		t.Errorf("%s by %q (forged: %t): users were %v, are %v", method, role, asker == forged, before.users, after.users)
	}
}

func (p *people) copy() *people {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := &people{users: map[string]User{}, password: map[string]string{}}
	for name, u := range p.users {
		c.users[name], c.password[name] = u, p.password[name]
	}
	return c
}

// newPageOnly is a site without a server: its handler is called.
func newPageOnly(t *testing.T) *site {
	x := &site{t: t, agent: newAgent(statusOf(1, 3)), people: newPeople(), clock: &clock{now: time.Unix(1700000000, 0)}}
	x.open("")
	t.Cleanup(x.page.Close)
	return x
}

// ask has the handler answer; a stream ends after a moment.
func (x *site) ask(r *http.Request, form string, cookie *http.Cookie, fromElsewhere bool) *httptest.ResponseRecorder {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	if r.URL.Path == "/stream" {
		ctx, cancel = context.WithTimeout(context.Background(), 20*time.Millisecond)
	}
	defer cancel()
	r = r.WithContext(ctx)
	body := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(form))
	r.Body, r.ContentLength = body.Body, body.ContentLength
	if cookie != nil {
		r.AddCookie(cookie)
	}
	r.Header.Set("Sec-Fetch-Site", map[bool]string{true: "cross-site", false: "same-origin"}[fromElsewhere])
	w := httptest.NewRecorder()
	x.page.Handler().ServeHTTP(w, r)
	return w
}

// login is the cookie of a session of that role; nil: of none.
func (x *site) login(t *testing.T, role Role) *http.Cookie {
	if role == "" {
		return nil
	}
	r := httptest.NewRequest(http.MethodPost, "/login", nil)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := x.ask(r, url.Values{"name": {string(role)}, "password": {string(role) + "'s password"}}.Encode(), nil, false)
	if cookies := w.Result().Cookies(); w.Code == http.StatusSeeOther && len(cookies) == 1 {
		return cookies[0]
	}
	t.Fatalf("login of %s: status %d", role, w.Code)
	return nil
}
