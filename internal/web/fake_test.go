package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/api/apitest"
)

// people are Users in memory.
type people struct {
	mu       sync.Mutex
	users    map[string]User
	password map[string]string
	verified int
	epoch    int
}

func newPeople() *people {
	p := &people{users: map[string]User{}, password: map[string]string{}}
	for _, r := range []Role{Viewer, Operator, Administrator} {
		_ = p.Put(context.Background(), string(r), r, string(r)+"'s password")
	}
	return p
}

func (p *people) Verify(_ context.Context, name, password string) (User, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.verified++
	u, ok := p.users[name]
	return u, ok && p.password[name] == password
}

func (p *people) Find(name string) (User, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u, ok := p.users[name]
	return u, ok
}

func (p *people) List() []User {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []User
	for _, u := range p.users {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func (p *people) Put(_ context.Context, name string, role Role, password string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
	p.users[name] = User{name, role, fmt.Sprint(p.epoch)}
	if password != "" {
		p.password[name] = password
	}
	return nil
}

func (p *people) Remove(_ context.Context, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.users, name)
	return nil
}

// agent is a Service whose status a test sets, and that notes what was changed.
type agent struct {
	*apitest.Fake
	mu      sync.Mutex
	status  *api.Status
	changed chan struct{}
	calls   []string
}

func newAgent(s *api.Status) *agent {
	a := &agent{status: s, changed: make(chan struct{})}
	a.Fake = &apitest.Fake{
		OnStatus: func(context.Context) (*api.Status, error) { s, _ := a.look(); return s, nil },
		OnWatch: func(ctx context.Context, fn func(*api.Status) error) error {
			for {
				s, changed := a.look()
				if err := fn(s); err != nil {
					return err
				}
				select {
				case <-changed:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		},
		OnEvents: func(_ context.Context, _ api.EventsQuery, fn func(api.Event) error) error {
			return fn(api.Event{Seq: 1, Time: time.Unix(1e9, 0), Node: "a", Level: "warning", Volume: "data", Object: "mirror a->b", Rule: "paused", Message: "was paused", Next: "continue it"})
		},
		OnHistory: func(_ context.Context, r api.VolumeName) (*api.History, error) {
			return &api.History{Volume: r.Name, Node: "a", EverySeconds: 5, Samples: []api.Sample{}, Tenures: []api.Tenure{{Generation: "ab12", Term: 1, Node: "a", Why: "created"}}}, nil
		},
		OnSalvages: func(context.Context, api.VolumeName) (*api.Salvages, error) {
			return &api.Salvages{Salvages: []api.Salvage{{ID: "s1", Volume: "data", Node: "b", Reason: "split brain", Bytes: 1 << 20, Regions: 16}}}, nil
		},
		OnSplitBrain: func(_ context.Context, r api.VolumeName) (*api.SplitBrain, error) {
			return &api.SplitBrain{Volume: r.Name, Split: true, At: 100, Common: "00ff", Both: []api.Run{{Length: 4096}},
				Sides: []api.Side{{Node: "a", Role: "source", Serving: true, Writes: 5, Bytes: 1 << 20, Runs: []api.Run{{Length: 1 << 20}}}, {Node: "b", Role: "source", Serving: true, Writes: 9, Bytes: 2 << 20}}}, nil
		},
		OnSwitchover: func(_ context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
			if !r.Plan {
				a.note(fmt.Sprintf("switchover %s %v", r.To, r.Force))
				step(api.SwitchoverStep{Name: "hold", Text: "holds", State: "done"})
			}
			return &api.SwitchoverResult{Volume: r.Volume, From: "a", To: r.To, Done: !r.Plan, Risks: []string{}, Steps: []api.SwitchoverStep{{Name: "hold", Text: "holds", State: "planned"}}}, nil
		},
		OnSetVolume: func(_ context.Context, r api.VolumeChange) (*api.VolumeStatus, error) {
			a.note("accept " + r.Name)
			return &api.VolumeStatus{}, nil
		},
		OnChangeMirror: func(_ context.Context, r api.MirrorChange) (*api.VolumeStatus, error) {
			a.note(r.Action + " " + r.Target)
			return &api.VolumeStatus{}, nil
		},
		OnCreateVolume: func(_ context.Context, r api.CreateVolume) (*api.VolumeStatus, error) {
			a.note("create " + r.Name)
			return &api.VolumeStatus{}, nil
		},
		OnDeleteVolume: func(_ context.Context, r api.DeleteVolume) error { a.note("delete " + r.Name); return nil },
		OnPlanResolve: func(_ context.Context, r api.ResolveSplitBrain) (*api.ResolvePlan, error) {
			return &api.ResolvePlan{Volume: r.Volume, Keep: r.Keep, GivenUp: []api.GivenUp{{Node: "b", Role: "source", Regions: 32, Bytes: 2 << 20, RoomBytes: 1 << 30}}}, nil
		},
		OnAudit: func(_ context.Context, _ api.AuditQuery, fn func(api.AuditLine) error) error {
			return fn(api.AuditLine{Node: "a", Kind: "page", Who: "alice", What: "Switchover", Object: "volume data", Result: "refused", Rule: "x"})
		},
		OnCheck: func(_ context.Context, q api.CheckQuery) (*api.CheckReport, error) {
			if q.Reboot {
				return api.NewCheckReport(q.Node, time.Unix(1e9, 0), []api.CheckItem{{Check: "reboot", Level: map[bool]string{true: api.CheckProblem, false: api.CheckOK}[q.Node == "a"],
					Node: q.Node, Volume: "data", Rule: "in-use-here", Message: "it is <in use> here", Next: "switch over first"}}), nil
			}
			trip := 0.001
			items := []api.CheckItem{{Check: "round-trip", Level: api.CheckOK, Node: "a", Peer: "b", Value: &trip, Unit: "seconds", Message: "a message and its answer take 1ms"}}
			for _, p := range q.Places {
				items = append(items, api.CheckItem{Check: "backing", Level: api.CheckProblem, Node: p.Node, Object: p.Path, Message: "is in use", Next: "name another"})
			}
			if q.Volume != "" {
				items = append(items, api.CheckItem{Check: "clock", Level: api.CheckWarning, Node: "a", Peer: "b", Message: "the clock of b is 3s ahead", Next: "set the clocks"})
			}
			return api.NewCheckReport("a", time.Unix(1e9, 0), items), nil
		},
		OnView: func(_ context.Context, r api.ViewChange) (*api.View, error) {
			a.note(r.Action + " view on " + r.Node + " of " + r.Salvage)
			return &api.View{Volume: r.Volume, Node: r.Node, Kind: "salvage", Salvage: r.Salvage, Over: r.Over, Addresses: []string{"nbd+unix:///data@s1?socket=/x"}}, nil
		},
		OnResolve: func(_ context.Context, r api.ResolveSplitBrain) error { a.note("keep " + r.Keep); return nil },
		OnSalvage: func(_ context.Context, r api.SalvageChange) (*api.SalvageResult, error) {
			a.note(r.Action + " salvage")
			return &api.SalvageResult{}, nil
		},
	}
	return a
}

func (a *agent) look() (*api.Status, chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status, a.changed
}

func (a *agent) set(s *api.Status) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = s
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) note(call string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
}

func (a *agent) noted() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.calls, ", ")
}

// statusOf is a cluster with volumes "data" and, if more than one, "v001" and so on.
func statusOf(volumes, servers int) *api.Status {
	s := &api.Status{Cluster: "c0ffee", Node: "a", Version: "1"}
	for i := range servers {
		s.Nodes = append(s.Nodes, api.NodeStatus{Name: nodeName(i), Address: fmt.Sprintf("10.0.0.%d:7401", i+1), Reachable: true})
	}
	for i := range volumes {
		name := "data"
		if i > 0 {
			name = fmt.Sprintf("v%03d", i)
		}
		v := api.VolumeStatus{Name: name, SizeBytes: 1 << 40, Role: "source", State: "Serving", Source: "a", Term: 1, Generation: "ab12", InSync: []string{"a", "b", "c"}, Encryption: "on"}
		for _, t := range []string{"b", "c"} {
			v.Mirrors = append(v.Mirrors, api.MirrorStatus{Source: "a", Target: t, Mode: "sync", State: "Mirroring", Promotable: true})
			v.Switchover = append(v.Switchover, api.Candidate{To: t, OK: true})
		}
		s.Volumes = append(s.Volumes, v)
	}
	return s
}

func nodeName(i int) string {
	if i < 26 {
		return string(rune('a' + i))
	}
	return fmt.Sprintf("n%d", i)
}

// site is the page as a test uses it.
type site struct {
	t      *testing.T
	agent  *agent
	people *people
	page   *Server
	server *httptest.Server
	clock  *clock

	mu    sync.Mutex
	audit []api.AuditLine
}

func (x *site) noteAudit(_ context.Context, l api.AuditLine) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.audit = append(x.audit, l)
}

// audited is the newest line of the audit.
func (x *site) audited() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.audit) == 0 {
		return ""
	}
	l := x.audit[len(x.audit)-1]
	return strings.Join([]string{l.Kind, l.Who, l.What, l.Object, l.Result}, " ")
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newSite(t *testing.T, s *api.Status, sessions string) *site {
	t.Helper()
	x := &site{t: t, agent: newAgent(s), people: newPeople(), clock: &clock{now: time.Unix(1700000000, 0)}}
	x.open(sessions)
	x.server = httptest.NewUnstartedServer(nil)
	x.server.Config = x.page.HTTP()
	x.server.EnableHTTP2 = true
	x.server.StartTLS()
	t.Cleanup(func() { x.page.Close(); x.server.CloseClientConnections(); x.server.Close() })
	return x
}

// open makes the page.
func (x *site) open(sessions string) {
	x.agent.OnChangeUser = func(ctx context.Context, r api.UserChange) (*api.Users, error) {
		if r.Action == "remove" {
			return &api.Users{}, x.people.Remove(ctx, r.Name)
		}
		u, _ := x.people.Find(r.Name)
		if r.Role != "" {
			u.Role = Role(r.Role)
		}
		return &api.Users{}, x.people.Put(ctx, r.Name, u.Role, r.Password)
	}
	x.page = New(Options{Service: x.agent, Users: x.people, Audit: x.noteAudit, Cluster: "c0ffee", Node: "a", Sessions: sessions, Now: x.clock.Now})
}

// visitor is a client with cookies of its own that follows no redirects.
func (x *site) visitor() *http.Client {
	c := *x.server.Client()
	c.Jar, _ = cookiejar.New(nil)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// user is a visitor who has logged in.
func (x *site) user(name string) *http.Client {
	x.t.Helper()
	c := x.visitor()
	status, _ := x.post(c, "/login", url.Values{"name": {name}, "password": {name + "'s password"}, "next": {"/"}})
	if status != http.StatusSeeOther {
		x.t.Fatalf("login of %s: status %d", name, status)
	}
	return c
}

func (x *site) do(c *http.Client, r *http.Request) (int, string) {
	x.t.Helper()
	answer, err := c.Do(r)
	if err != nil {
		x.t.Fatal(err)
	}
	defer answer.Body.Close()
	var body strings.Builder
	buffer := make([]byte, 32<<10)
	for {
		n, err := answer.Body.Read(buffer)
		body.Write(buffer[:n])
		if err != nil {
			return answer.StatusCode, body.String()
		}
	}
}

func (x *site) get(c *http.Client, path string) (int, string) {
	x.t.Helper()
	r, err := http.NewRequest(http.MethodGet, x.server.URL+path, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	return x.do(c, r)
}

func (x *site) post(c *http.Client, path string, form url.Values) (int, string) {
	x.t.Helper()
	return x.do(c, x.form(path, form))
}

func (x *site) form(path string, form url.Values) *http.Request {
	r, err := http.NewRequest(http.MethodPost, x.server.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		x.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}
