package web

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
)

// A one-time link lets in once, as administrator, and not after its end; looking at it with HEAD uses nothing up.
func TestOneTimeLink(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	link, err := x.page.NewLink("/")
	if err != nil {
		t.Fatal(err)
	}
	r, _ := http.NewRequest(http.MethodHead, x.server.URL+link.URL, nil)
	if status, _ := x.do(x.visitor(), r); status == http.StatusOK {
		t.Error("HEAD lets in")
	}
	c := x.visitor()
	if status, _ := x.get(c, link.URL); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	if status, body := x.get(c, "/new"); status != http.StatusOK || !strings.Contains(body, "Create volume") {
		t.Errorf("who came by the link is no administrator: status %d", status)
	}
	if status, _ := x.get(x.visitor(), link.URL); status != http.StatusForbidden {
		t.Errorf("a second time: status %d", status)
	}
	late, err := x.page.NewLink("/")
	if err != nil {
		t.Fatal(err)
	}
	x.clock.add(linkAgeMax + time.Second)
	if status, _ := x.get(x.visitor(), late.URL); status != http.StatusForbidden {
		t.Errorf("after its end: status %d", status)
	}
	for range linksMax {
		if _, err = x.page.NewLink("/"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = x.page.NewLink("/"); err == nil {
		t.Error("more links than linksMax")
	}
}

// Sessions outlive the agent's restart, and end with a logout, a new password, the removal of the user, and time.
func TestSessionsEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web", "sessions.json")
	x := newSite(t, statusOf(1, 3), file)
	in := func(c *http.Client) bool { status, _ := x.get(c, "/users"); return status == http.StatusOK }
	viewer, operator, administrator := x.user("viewer"), x.user("operator"), x.user("administrator")
	again, err := openSessions(file, x.clock.Now)
	if err != nil || len(again.byKey) != 3 {
		t.Fatalf("%d sessions after a restart, %v", len(again.byKey), err)
	}
	x.page.sessions = again
	if !in(viewer) || !in(operator) || !in(administrator) {
		t.Error("a restart logs out")
	}
	stolen := *viewer
	if status, _ := x.post(viewer, "/logout", nil); status != http.StatusSeeOther || in(viewer) || in(&stolen) {
		t.Error("a logout does not end the session")
	}
	_ = x.people.Put(context.Background(), "operator", Operator, "another password")
	if in(operator) {
		t.Error("a new password does not end the session")
	}
	_ = x.people.Remove(context.Background(), "administrator")
	if in(administrator) {
		t.Error("a removed user is still in")
	}
	viewer = x.user("viewer")
	x.clock.add(sessionIdleMax - time.Minute)
	if !in(viewer) {
		t.Error("a session ends too early")
	}
	x.clock.add(sessionIdleMax + time.Minute)
	if in(viewer) {
		t.Error("a session that nobody used goes on")
	}
	for range sessionsMax + 20 {
		if _, err := x.page.sessions.begin(User{Name: "viewer"}, false); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(x.page.sessions.byKey); n > sessionsMax {
		t.Errorf("%d sessions", n)
	}
}

// reader reads the events of a stream.
type reader struct {
	t     *testing.T
	lines *bufio.Scanner
}

func (x *site) stream(c *http.Client, query string) *reader {
	x.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, x.server.URL+"/stream?"+query, nil)
	answer, err := c.Do(r)
	if err != nil {
		x.t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		x.t.Fatalf("stream: status %d", answer.StatusCode)
	}
	x.t.Cleanup(func() { cancel(); _ = answer.Body.Close() })
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 4<<20)
	return &reader{x.t, lines}
}

// next returns the next event that is no beat.
func (r *reader) next() (kind string, p patch) {
	r.t.Helper()
	for r.lines.Scan() {
		line := r.lines.Text()
		if k, ok := strings.CutPrefix(line, "event: "); ok {
			kind = k
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if ok && kind != "beat" {
			if err := json.Unmarshal([]byte(data), &p); err != nil {
				r.t.Fatal(err)
			}
			return kind, p
		}
	}
	r.t.Fatalf("the stream ended: %v", r.lines.Err())
	return "", p
}

// 100 volumes and 20 servers: the page is there at once, a change is shown within a second, and only what changed is sent.
func TestManyVolumesStayQuick(t *testing.T) {
	x := newSite(t, statusOf(100, 20), "")
	c := x.user("viewer")
	limit := time.Second
	if raceOn {
		limit = 10 * time.Second // the detector is slow, and this is not about it
	}
	begin := time.Now()
	status, body := x.get(c, "/")
	if took := time.Since(begin); status != http.StatusOK || strings.Count(body, "<article") != 100 || took > limit {
		t.Errorf("status %d, %d volumes, %s", status, strings.Count(body, "<article"), took)
	}
	s := x.stream(c, "view=overview")
	if _, p := s.next(); len(p.Parts) != 102 || len(p.Lists["volumes"]) != 100 {
		t.Errorf("the first message has %d parts and lists %v", len(p.Parts), len(p.Lists["volumes"]))
	}
	changed := statusOf(100, 20)
	changed.Volumes[42].Mirrors[0].LagBytes = 5 << 20
	begin = time.Now()
	x.agent.set(changed)
	_, p := s.next()
	if took := time.Since(begin); took > limit {
		t.Errorf("a change is shown after %s", took)
	}
	if len(p.Parts) != 1 || p.Parts[0][0] != "v-v042" || p.Lists != nil {
		t.Errorf("one volume changed; sent %d parts, the first %s, lists %v", len(p.Parts), p.Parts[0][0], p.Lists)
	}
	fewer := statusOf(99, 20)
	fewer.Nodes[7].Reachable = false
	x.agent.set(fewer)
	if _, p = s.next(); len(p.Lists["volumes"]) != 99 || len(p.Say) == 0 || !strings.Contains(strings.Join(p.Say, " "), "not reachable: h") {
		t.Errorf("a volume went and a server was lost; lists %d, said %q", len(p.Lists["volumes"]), p.Say)
	}
}

// Who is shut out while looking sees nothing more.
func TestStreamEndsForRemovedUser(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	c := x.user("viewer")
	s := x.stream(c, "view=volume&volume=data")
	s.next()
	_ = x.people.Remove(context.Background(), "viewer")
	worse := statusOf(1, 3)
	worse.Volumes[0].Mirrors[0].State = "Paused"
	x.agent.set(worse)
	for {
		kind, p := s.next()
		if kind == "out" {
			return
		}
		for _, part := range p.Parts {
			if strings.Contains(part[1], "Paused") {
				t.Fatal("a removed user is shown a change")
			}
		}
	}
}

// A switchover is followed step by step, to the bytes of each resync.
func TestSwitchoverIsFollowed(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	c := x.user("operator")
	held := make(chan struct{})
	x.agent.OnSwitchover = func(ctx context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
		out := &api.SwitchoverResult{Volume: "data", From: "a", To: r.To, Millis: 12, Steps: []api.SwitchoverStep{{Name: "hold", Text: "holds writes", State: "planned"}, {Name: "commit", Text: "writes it down", State: "planned"}}}
		if r.Plan {
			return out, nil
		}
		step(api.SwitchoverStep{Name: "hold", State: "running"})
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return out, nil
	}
	_, plan := x.get(c, "/v/data/switchover?to=b")
	if !strings.Contains(plan, "holds writes") || !strings.Contains(plan, "Switch over to b") {
		t.Errorf("the plan: %s", plan)
	}
	answer, err := c.Do(x.form("/v/data/switchover", url.Values{"to": {"b"}}))
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	to := answer.Header.Get("Location")
	if !regexp.MustCompile(`^/task/[0-9a-f]{16}$`).MatchString(to) {
		t.Fatalf("status %d, to %q", answer.StatusCode, to)
	}
	s := x.stream(c, "view=task&id="+strings.TrimPrefix(to, "/task/"))
	until := func(want string) string {
		t.Helper()
		for {
			_, p := s.next()
			for _, part := range p.Parts {
				if strings.Contains(part[1], want) {
					return part[1]
				}
			}
		}
	}
	until(`<li class="running">`)
	close(held)
	until("switched over")
	now := statusOf(1, 3)
	now.Volumes[0].Source = "b"
	now.Volumes[0].Mirrors = []api.MirrorStatus{{Source: "b", Target: "a", State: "Mirroring",
		Resync: &api.ResyncStatus{Kind: "partial", Rule: "versions-differ", State: "finished", BytesSent: 3 << 20, Started: x.clock.Now()}}}
	x.agent.set(now)
	if html := until("<b>done</b>"); !strings.Contains(html, "3.0 MiB sent") || !strings.Contains(html, "held for 12 ms") || !strings.Contains(html, "versions-differ") {
		t.Errorf("the result: %s", html)
	}
}

// By force needs the volume's name.
func TestForceNeedsTheName(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	c := x.user("administrator")
	if status, body := x.post(c, "/v/data/switchover", url.Values{"to": {"b"}, "force": {"1"}, "confirm": {"dat"}}); status != http.StatusBadRequest || !strings.Contains(body, "nothing was changed") {
		t.Errorf("status %d, %s", status, body)
	}
	for path, form := range map[string]url.Values{"/v/data/split-brain": {"keep": {"a"}}, "/v/data/delete": {}, "/v/data/mirror": {"action": {"remove"}, "target": {"b"}}, "/v/data/salvage/b/s1": {"action": {"apply"}}} {
		if status, _ := x.post(c, path, form); status != http.StatusBadRequest {
			t.Errorf("%s without its confirmation: status %d", path, status)
		}
	}
	if x.agent.noted() != "" {
		t.Errorf("done: %s", x.agent.noted())
	}
}

func TestVerdicts(t *testing.T) {
	base := func(change func(*api.Status, *api.VolumeStatus)) string {
		s := statusOf(1, 3)
		change(s, &s.Volumes[0])
		v := judge(&state{Status: s}, &s.Volumes[0])
		return v.Class + " " + v.Word + ": " + v.Text
	}
	behind := func(v *api.VolumeStatus, i int, bytes int64, seconds float64) {
		v.Mirrors[i].State, v.Mirrors[i].LagBytes, v.Mirrors[i].LagSeconds = "Resync", bytes, seconds
		v.Switchover[i].OK = false
	}
	for name, c := range map[string]struct {
		change func(*api.Status, *api.VolumeStatus)
		want   string
	}{
		"all well":           {func(*api.Status, *api.VolumeStatus) {}, "ok safe: can switch over to b, c"},
		"one behind":         {func(_ *api.Status, v *api.VolumeStatus) { behind(v, 1, 3435973836, 40) }, "warn safe: can switch over to b; c is being resynced, 3.2 GiB behind, 40 s"},
		"all behind":         {func(_ *api.Status, v *api.VolumeStatus) { behind(v, 0, 1<<20, 0); behind(v, 1, 0, 0) }, "busy not safe yet: b is being resynced, 1.0 MiB behind; c is being resynced"},
		"one copy":           {func(_ *api.Status, v *api.VolumeStatus) { v.Mirrors = nil }, "bad not safe: there is one copy only, at a"},
		"split":              {func(_ *api.Status, v *api.VolumeStatus) { v.Mirrors[0].State = "SplitBrain" }, "bad split brain: two servers went on without each other; nothing is overwritten until you choose a side"},
		"source lost":        {func(s *api.Status, v *api.VolumeStatus) { s.Node, s.Nodes[0].Reachable, v.Role = "b", false, "target" }, "bad source lost: the source a can't be reached; b, c held everything answered when it was last heard"},
		"closed":             {func(_ *api.Status, v *api.VolumeStatus) { v.State, v.Reason = "Closed", "waits for c" }, "bad closed: the source a offers no device: waits for c"},
		"disk of the source": {func(_ *api.Status, v *api.VolumeStatus) { v.State, v.Reason = "Failed", "EIO" }, "bad failed: at the source a: EIO"},
		"no room there": {func(_ *api.Status, v *api.VolumeStatus) {
			v.State, v.Rule, v.Reason = "Failed", "no-room", "it is full"
		}, "bad no room: at the source a: it is full"},
		"switching": {func(_ *api.Status, v *api.VolumeStatus) { v.Plan = &api.PlanStatus{To: "b", Step: "hold"} }, "busy switching over: to b: hold"},
		"paused": {func(_ *api.Status, v *api.VolumeStatus) {
			for i := range v.Mirrors {
				v.Mirrors[i].State, v.Switchover[i].OK = "Paused", false
			}
		}, "bad not safe: b is paused; c is paused"},
		"held": {func(_ *api.Status, v *api.VolumeStatus) {
			for i := range v.Mirrors {
				v.Mirrors[i].State, v.Mirrors[i].Rule, v.Switchover[i].OK = "Paused", "held", false
			}
			v.Held = []string{"b", "c"}
		}, "bad not safe: b is held as it was; c is held as it was"},
		"none ready": {func(_ *api.Status, v *api.VolumeStatus) {
			for i := range v.Switchover {
				v.Switchover[i] = api.Candidate{To: v.Switchover[i].To, Reason: "nobody knows"}
			}
		}, "bad not safe: b is not ready; c is not ready"},
	} {
		if got := base(c.change); got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}

// A volume with held copies says what they wait for, and offers to accept the new source while that can be asked.
func TestHeldCopiesAreShown(t *testing.T) {
	s := statusOf(1, 3)
	for i := range s.Volumes[0].Mirrors {
		m := &s.Volumes[0].Mirrors[i]
		m.State, m.Rule, m.Reason = "Paused", "held", "kept as it was until the new source a is accepted"
	}
	s.Volumes[0].Held = []string{"b", "c"}
	x := newSite(t, s, "")
	var asked api.VolumeChange
	x.agent.OnSetVolume = func(_ context.Context, r api.VolumeChange) (*api.VolumeStatus, error) { asked = r; return nil, nil }
	c := x.user("operator")
	_, body := x.get(c, "/v/data")
	for _, want := range []string{"Paused, held", "Kept as it was until the new source a is accepted.", "Accept new source", "its file system mounts"} {
		if !strings.Contains(body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if strings.Contains(body, ">Continue") {
		t.Error("the page offers to continue a mirror that is held")
	}
	if _, body := x.get(x.user("viewer"), "/v/data"); strings.Contains(body, "Accept new source") {
		t.Error("who may only look is offered to accept")
	}
	if status, _ := x.post(c, "/v/data/accept", nil); status != http.StatusSeeOther || !asked.Accept || asked.Name != "data" || asked.HoldOldCopies != nil {
		t.Errorf("status %d, %+v", status, asked)
	}
	s = statusOf(1, 3)
	x.agent.set(s)
	if _, body := x.get(c, "/v/data"); strings.Contains(body, "Accept new source") {
		t.Error("nothing is held, and the page offers to accept")
	}
}

// A form that was wrong is shown again as it was filled in, with the reason.
func TestNewVolume(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	c := x.user("administrator")
	form := url.Values{"name": {"b<ad"}, "size": {"1GiB"}, "mode": {"async"}, "source": {"a"}, "source_path": {"/x"}, "target0": {"b"}, "target0_path": {"/y"}, "target1": {"c"}, "target1_path": {""}}
	if status, body := x.post(c, "/new", form); status != http.StatusBadRequest || !strings.Contains(body, `value="b&lt;ad"`) || !strings.Contains(body, `value="/y"`) || !strings.Contains(body, "no volume name") {
		t.Errorf("status %d\n%s", status, body)
	}
	var got api.CreateVolume
	x.agent.OnCreateVolume = func(_ context.Context, r api.CreateVolume) (*api.VolumeStatus, error) { got = r; return nil, nil }
	form.Set("name", "good")
	if status, _ := x.post(c, "/new", form); status != http.StatusSeeOther || fmt.Sprint(got) != fmt.Sprint(api.CreateVolume{Name: "good", Mode: "async", SizeBytes: 1 << 30, Source: api.Place{Node: "a", Path: "/x"}, Targets: []api.Place{{Node: "b", Path: "/y"}}}) {
		t.Errorf("status %d, %+v", status, got)
	}
}

// Every command is noted with who gave it and what became of it, logins too.
func TestCommandsAreAudited(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	x.post(x.visitor(), "/login", url.Values{"name": {"viewer"}, "password": {"x"}})
	if got := x.audited(); got != "stranger viewer Login  refused" {
		t.Errorf("a login that failed: %q", got)
	}
	c := x.user("administrator")
	if got := x.audited(); got != "page administrator Login  done" {
		t.Errorf("a login: %q", got)
	}
	x.post(c, "/v/data/mirror", url.Values{"action": {"pause"}, "target": {"b"}})
	if got := x.audited(); got != "page administrator ChangeMirror volume data done" {
		t.Errorf("a pause: %q", got)
	}
	x.post(c, "/v/data/accept", url.Values{})
	if got := x.audited(); got != "page administrator SetVolume volume data done" {
		t.Errorf("an acceptance: %q", got)
	}
	x.agent.OnDeleteVolume = func(ctx context.Context, _ api.DeleteVolume) error {
		return api.Refusal("in-use", "volume data", "called by "+api.CallerOf(ctx).Name, "")
	}
	if _, body := x.post(c, "/v/data/delete", url.Values{"confirm": {"data"}}); !strings.Contains(body, "called by administrator") {
		t.Errorf("the agent does not know who calls: %s", body)
	}
	if got := x.audited(); got != "page administrator DeleteVolume volume data refused" {
		t.Errorf("a refusal: %q", got)
	}
	x.post(c, "/users", url.Values{"action": {"put"}, "name": {"eve"}, "role": {"viewer"}, "password": {"correct horse battery"}})
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, l := range x.audit {
		if strings.Contains(l.Detail, "horse") {
			t.Errorf("a password is in the audit: %+v", l)
		}
	}
}
