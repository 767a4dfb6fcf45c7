package webtest

import (
	"context"
	"fmt"
	"math"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/api/apitest"
	"keelson/internal/web"
)

// everybody is a store of users with one administrator.
type everybody struct{}

func (everybody) Verify(_ context.Context, name, password string) (web.User, bool) {
	u, ok := everybody{}.Find(name)
	return u, ok && password == "correct horse"
}

func (everybody) Find(name string) (web.User, bool) {
	return web.User{Name: name, Role: web.Administrator, Epoch: "1"}, name == "alice"
}

func (everybody) List() []web.User {
	return []web.User{{Name: "alice", Role: web.Administrator}, {Name: "bob", Role: web.Operator}, {Name: "carol", Role: web.Viewer}}
}

// stage is a page with a made-up cluster behind it.
type stage struct {
	url string

	mu      sync.Mutex
	status  *api.Status
	changed chan struct{}
	step    chan struct{} // lets a switchover go on
}

func newStage(t *testing.T, s *api.Status) *stage {
	t.Helper()
	x := &stage{status: s, changed: make(chan struct{}), step: make(chan struct{})}
	page := web.New(web.Options{Service: x.service(), Users: everybody{}, Cluster: "5f0c1e0e9b3a4c63", Node: "a"})
	server := httptest.NewUnstartedServer(nil)
	server.Config = page.HTTP()
	server.StartTLS()
	x.url = server.URL
	t.Cleanup(func() { page.Close(); server.CloseClientConnections(); server.Close() })
	return x
}

func (x *stage) look() (*api.Status, chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.status, x.changed
}

func (x *stage) set(s *api.Status) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.status = s
	close(x.changed)
	x.changed = make(chan struct{})
}

// enter logs the tab in.
func (x *stage) enter(b *tab, path string) {
	b.t.Helper()
	b.open(x.url + "/login?next=" + url.QueryEscape(path))
	b.fill("Name", "alice")
	b.fill("Password", "correct horse")
	b.click("Log in")
	b.until("the login leads to "+path, func() bool {
		return eval[bool](b, fmt.Sprintf("location.pathname === %q && document.readyState === 'complete'", path))
	})
}

var began = time.Now().UTC().Add(-50 * time.Minute).Truncate(time.Second)

// service answers with everything that there can be.
func (x *stage) service() *apitest.Fake {
	return &apitest.Fake{
		OnStatus: func(context.Context) (*api.Status, error) { s, _ := x.look(); return s, nil },
		OnWatch: func(ctx context.Context, fn func(*api.Status) error) error {
			for {
				s, changed := x.look()
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
			for i, e := range []api.Event{
				{Node: "a", Level: "info", Volume: "data", Object: "mirror a->b", Rule: "versions-differ", Message: "partial resync ended: 10485760 bytes sent, 524288 found equal or empty"},
				{Node: "b", Level: "warning", Volume: "data", Object: "mirror a->c", Rule: "shrink", Message: "c left the in-sync set: it acknowledged nothing for 10s", Next: "bring c back"},
				{Node: "c", Level: "error", Volume: "mail", Object: "volume mail", Rule: "split-brain", Message: "two servers went on without each other", Next: "keelson split-brain show mail"},
			} {
				e.Seq, e.Time = uint64(i+1), began.Add(time.Duration(i)*9*time.Minute)
				if err := fn(e); err != nil {
					return err
				}
			}
			return nil
		},
		OnHistory: history, OnCheck: report,
		OnView: func(_ context.Context, r api.ViewChange) (*api.View, error) {
			return &api.View{Volume: r.Volume, Node: r.Node, Kind: "salvage", Salvage: r.Salvage, Addresses: []string{"nbd+unix:///data@0f3a9c?socket=/run/keelson/nbd.sock"}}, nil
		},
		OnSalvages: func(_ context.Context, r api.VolumeName) (*api.Salvages, error) {
			return &api.Salvages{Salvages: []api.Salvage{{ID: "0f3a9c", Volume: r.Name, Node: "b", Reason: "what only the old source had when it came back", From: "generation 853a1e9f, number 1144",
				Time: began, Regions: 160, Bytes: 10 << 20}}}, nil
		},
		OnSplitBrain: func(_ context.Context, r api.VolumeName) (*api.SplitBrain, error) {
			return &api.SplitBrain{Volume: r.Name, Split: true, At: 8141, Common: "5f0c1e0e9b3a4c63aa", Both: []api.Run{{Offset: 200 << 20, Length: 2 << 20}}, Sides: []api.Side{
				{Node: "a", Role: "source", Serving: true, Term: 3, Position: 9002, Members: []string{"a"}, Since: 8141, Writes: 861, Regions: 160, Bytes: 10 << 20, Runs: []api.Run{{Offset: 100 << 20, Length: 4 << 20}, {Offset: 200 << 20, Length: 6 << 20}}},
				{Node: "b", Role: "source", Serving: true, Term: 4, Position: 12310, Members: []string{"b", "c"}, Since: 8141, Writes: 4169, Regions: 1600, Bytes: 100 << 20, Runs: []api.Run{{Offset: 200 << 20, Length: 60 << 20}, {Offset: 700 << 20, Length: 40 << 20}}},
				{Node: "c", Role: "target", Term: 4, Position: 12310, Members: []string{"b", "c"}, Since: 8141, Writes: 4169, Regions: 1600, Bytes: 100 << 20},
			}}, nil
		},
		OnPlanResolve: func(_ context.Context, r api.ResolveSplitBrain) (*api.ResolvePlan, error) {
			return &api.ResolvePlan{Volume: r.Volume, Keep: r.Keep, GivenUp: []api.GivenUp{{Node: "a", Role: "source", Regions: 160, Bytes: 10 << 20, UnknownBytes: 1 << 20, RoomBytes: 40 << 30}}}, nil
		},
		OnAudit: func(_ context.Context, _ api.AuditQuery, fn func(api.AuditLine) error) error {
			return fn(api.AuditLine{Node: "a", Time: began, Kind: "page", Who: "bob", From: "10.0.0.9:5121", What: "Switchover", Object: "volume data", Detail: `{"volume":"data","to":"b"}`, Result: "refused", Rule: "not-in-step", Message: "b is being resynced"})
		},
		OnSwitchover: func(ctx context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
			out := &api.SwitchoverResult{Volume: r.Volume, From: "a", To: r.To, Millis: 14, Risks: []string{}, Steps: []api.SwitchoverStep{
				{Name: "hold", Text: "a holds new writes and answers those in flight", State: "planned"}, {Name: "checkpoint", Text: "a flushes its data and sees that b has everything on its disk, to the last write", State: "planned"},
				{Name: "commit", Text: "a writes down that b is the next source (until then any failure leaves a the source)", State: "planned"}, {Name: "serve", Text: "b begins a new term and offers the volume", State: "planned"}}}
			if r.Force {
				out.Risks = []string{"what c has not told: c can't be reached", "up to 3.2 GiB that were on their way when a died"}
			}
			if r.Plan {
				return out, nil
			}
			step(api.SwitchoverStep{Name: "hold", State: "done"})
			step(api.SwitchoverStep{Name: "checkpoint", State: "running"})
			select {
			case <-x.step:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			return out, nil
		},
	}
}

// report has something of each kind.
func report(_ context.Context, q api.CheckQuery) (*api.CheckReport, error) {
	items := []api.CheckItem{}
	if q.Reboot {
		if q.Node == "a" {
			items = append(items, api.CheckItem{Check: "reboot", Level: api.CheckProblem, Node: "a", Volume: "data", Rule: "in-use-here", Message: "a is its source, and it is in use here (1 client is connected)", Next: "switch over first: keelson switchover data --to b"},
				api.CheckItem{Check: "reboot", Level: api.CheckProblem, Node: "a", Volume: "mail", Rule: "split-brain", Message: "each side of its split brain may have writes that no other server has", Next: "compare both sides (keelson split-brain show mail), then choose one"})
		}
		return api.NewCheckReport(q.Node, began, items), nil
	}
	add := func(level, node, peer, check, object, message, next string) {
		items = append(items, api.CheckItem{Check: check, Level: level, Node: node, Peer: peer, Object: object, Message: message, Next: next})
	}
	add(api.CheckProblem, "c", "a", "reachable", "10.0.0.1:7401", "c cannot reach a: dial tcp 10.0.0.1:7401: connect: no route to host", "see that c can open connections to 10.0.0.1:7401 (firewall, routes, address in [[peer]] or node list)")
	add(api.CheckProblem, "b", "", "backing-size", "/dev/vg0/data", "has 10737418240 bytes, the volume needs 21474836480", "use a larger file or device, or a smaller volume (--size)")
	add(api.CheckWarning, "a", "b", "clock", "10.0.0.2:7401", "the clock of b is 1m30s behind that of a", "set the clocks (chrony, systemd-timesyncd): no decision needs it, but times in events, certificates of new servers and people do")
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}, {"a", "c"}} {
		add(api.CheckOK, pair[0], pair[1], "round-trip", "10.0.0.2:7401", "a message and its answer take 251µs", "")
		add(api.CheckOK, pair[0], pair[1], "bandwidth", "10.0.0.2:7401", "1.1 GiB/s over one connection; all 20 GiB would take 19s", "")
	}
	for _, node := range []string{"a", "b", "c"} {
		add(api.CheckOK, node, "", "state-room", "/var/lib/keelson", "68 GiB free for intent logs, undo logs and salvages", "")
		add(api.CheckOK, node, "", "state-sync", "/var/lib/keelson", "a small write is durable after 272µs, at worst after 624µs", "")
		add(api.CheckOK, node, "", "certificate", "", "its certificate is good until 2027-02-23", "")
	}
	return api.NewCheckReport("a", began, items), nil
}

func history(_ context.Context, r api.VolumeName) (*api.History, error) {
	h := &api.History{Volume: r.Name, Node: "a", EverySeconds: 5, Tenures: []api.Tenure{
		{Generation: "5f0c1e0e9b3a", Term: 1, Node: "a", Why: "created"}, {Generation: "853a1e9f11", Term: 2, Node: "b", Began: 1144, Why: "switchover", Time: began},
		{Generation: "1b2c3d4e5f", Term: 3, Node: "c", Began: 5000, Why: "forced", Time: began.Add(10 * time.Minute)}, {Generation: "99aabbccdd", Term: 4, Node: "a", Began: 8000, Why: "switchover", Time: began.Add(20 * time.Minute)}}}
	for i := range 500 {
		f := float64(i)
		latency := 0.0012 + 0.0004*math.Sin(f/31)
		h.Samples = append(h.Samples, api.Sample{Time: time.Now().Add(time.Duration(i-500) * 5 * time.Second), Writes: 1500 + 900*math.Sin(f/40) + 200*math.Sin(f/3), WriteBytes: 24e6 + 14e6*math.Sin(f/40) + 3e6*math.Sin(f/3), Latency: &latency,
			Mirrors: map[string]api.MirrorSample{"b": {LagBytes: int64(2e5 + 1e5*math.Sin(f/9)), LagSeconds: 0.02, QueuedBytes: int64(1e5 + 9e4*math.Sin(f/5))}, "c": {LagBytes: int64(3e9 * math.Max(0, math.Sin(f/160))), LagSeconds: 40 * math.Max(0, math.Sin(f/160)), QueuedBytes: 60e6}}})
	}
	return h, nil
}

// cluster has one volume in each state that there is.
func cluster() *api.Status {
	left := 42.0
	ended := began.Add(time.Minute)
	resync := &api.ResyncStatus{Kind: "partial", Rule: "versions-differ", State: "running", BytesTotal: 5 << 30, BytesSent: 1600 << 20, BytesSkipped: 300 << 20, BytesPerSec: 82 << 20, SecondsLeft: &left, Started: began}
	done := &api.ResyncStatus{Kind: "partial", Rule: "versions-differ", State: "finished", BytesTotal: 10 << 20, BytesSent: 10 << 20, BytesSkipped: 512 << 10, Started: began, Finished: &ended}
	mirror := func(target, mode, state, reason string, lag int64, seconds float64, r *api.ResyncStatus) api.MirrorStatus {
		return api.MirrorStatus{Source: "a", Target: target, Mode: mode, State: state, Reason: reason, Position: 8141, LagBytes: lag, LagSeconds: seconds, Resync: r, AsOf: time.Now(), BytesOnWire: 1 << 30, QueuedBytes: 80 << 10}
	}
	volume := func(name string, size int64, mirrors ...api.MirrorStatus) api.VolumeStatus {
		v := api.VolumeStatus{Name: name, SizeBytes: size, Role: "source", State: "Serving", Source: "a", Term: 4, Generation: "99aabbccdd00", Position: 8141, InSync: []string{"a"}, Encryption: "on", Mirrors: mirrors,
			Devices: []api.DeviceStatus{{Kind: "nbd", Address: "nbd+unix:///" + name + "?socket=/run/keelson/nbd.sock"}}, Clients: []api.ClientStatus{{Remote: "qemu-system-x86 (process 4711)", Since: began}}}
		for _, m := range mirrors {
			v.Switchover = append(v.Switchover, api.Candidate{To: m.Target, OK: m.State == "Mirroring", Reason: map[bool]string{true: "", false: m.Target + " is " + m.State}[m.State == "Mirroring"]})
			if m.State == "Mirroring" {
				v.InSync = append(v.InSync, m.Target)
			}
		}
		return v
	}
	s := &api.Status{Cluster: "5f0c1e0e9b3a4c63", Node: "a", Version: "1.0"}
	for i, n := range []string{"a", "b", "c", "d"} {
		s.Nodes = append(s.Nodes, api.NodeStatus{Name: n, Address: fmt.Sprintf("10.0.0.%d:7401", i+1), Reachable: n != "d", Heard: began})
	}
	lost := volume("archive", 8<<40, mirror("a", "sync", "ResyncPending", "no session with the source d", 0, 0, done), mirror("b", "sync", "ResyncPending", "no session with the source d", 0, 0, nil))
	lost.Source, lost.Role, lost.State, lost.InSync, lost.Devices, lost.Clients = "d", "target", "Target", []string{"a", "b", "d"}, nil, nil
	for i := range lost.Mirrors {
		lost.Mirrors[i].Source, lost.Mirrors[i].AsOf = "d", began
	}
	s.Volumes = []api.VolumeStatus{
		lost,
		volume("data", 1<<40, mirror("b", "sync", "Mirroring", "", 200<<10, 0.02, done), mirror("c", "async", "Resync", "", 3435973836, 40, resync)),
		volume("fresh", 100<<30, mirror("b", "sync", "Resync", "", 90<<30, 0, &api.ResyncStatus{Kind: "compare", Rule: "no-shared-history", State: "running", BytesTotal: 100 << 30, BytesSent: 10 << 30, BytesPerSec: 300 << 20, SecondsLeft: &left, Started: began})),
		volume("home", 2<<40, mirror("b", "sync", "Mirroring", "", 0, 0, done), mirror("c", "sync", "Mirroring", "", 0, 0, nil)),
		volume("logs", 200<<30, mirror("b", "async", "Paused", "paused by an administrator", 5<<30, 3600, done), mirror("c", "async", "Broken", "broken by an administrator", 0, 0, nil), mirror("d", "sync", "Failed", "the disk of d failed: input/output error", 0, 0, nil)),
		volume("mail", 1<<30, mirror("b", "sync", "SplitBrain", "b went on as source in term 4@b", 0, 0, nil), mirror("c", "sync", "ResyncPending", "c follows b", 0, 0, nil)),
	}
	return s
}

// large is a cluster of 20 servers with 100 volumes.
func large() *api.Status {
	base := cluster()
	s := &api.Status{Cluster: base.Cluster, Node: "a"}
	for i := range 20 {
		s.Nodes = append(s.Nodes, api.NodeStatus{Name: strings.Repeat(string(rune('a'+i)), 1), Address: fmt.Sprintf("10.0.0.%d:7401", i+1), Reachable: true})
	}
	for i := range 100 {
		v := base.Volumes[3]
		v.Name = fmt.Sprintf("volume%03d", i)
		v.Mirrors = append([]api.MirrorStatus(nil), v.Mirrors...)
		s.Volumes = append(s.Volumes, v)
	}
	return s
}
