package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"keelson/internal/api"
	"keelson/internal/api/apitest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve offers the service at a socket and returns its client.
func serve(t *testing.T, s api.Service) *api.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	apitest.Serve(t, path, s)
	c := api.NewSocketClient(path)
	t.Cleanup(c.Close)
	return c
}

func code(err error) api.Code {
	var e *api.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func TestEveryCallGoesThereAndBack(t *testing.T) {
	ctx := context.Background()
	mode, queue, rate := "async", int64(1<<20), int64(0)
	started := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	status := &api.Status{Cluster: "c", Node: "a", Nodes: []api.NodeStatus{{Name: "b", Heard: started}}, Volumes: []api.VolumeStatus{{Name: "data",
		InSync: []string{"a"}, Mirrors: []api.MirrorStatus{{Target: "b", Resync: &api.ResyncStatus{Kind: "partial", Started: started}}}}}}
	create := api.CreateVolume{Name: "data", Source: api.Place{Node: "a", Path: "/a"}, Targets: []api.Place{{Node: "b", Path: "/b"}}, Mode: "sync", SizeBytes: 1 << 30}
	change := api.MirrorChange{Volume: "data", Action: "set", Target: "b", Mode: &mode, QueueBytes: &queue, RateBytes: &rate}
	move := api.Switchover{Volume: "data", To: "b", Plan: true, Wait: true, Force: true, NoCatchUp: true}
	query := api.EventsQuery{Volume: "data", After: 3, Limit: 7, Follow: true}
	volume := &status.Volumes[0]
	sides := &api.SplitBrain{Volume: "data", Split: true, Common: "5f", At: 8, Both: []api.Run{{Offset: 1, Length: 2}},
		Sides: []api.Side{{Node: "a", Role: "source", Members: []string{"a"}, Writes: 3, Runs: []api.Run{{Offset: 1, Length: 4}}, AsOf: started}}}
	resolve := api.ResolveSplitBrain{Volume: "data", Keep: "b"}
	planned := &api.ResolvePlan{Volume: "data", Keep: "b", GivenUp: []api.GivenUp{{Node: "a", Bytes: 7, Runs: []api.Run{{Offset: 1, Length: 4}}}}}
	look := api.ViewChange{Volume: "data", Node: "a", Action: "attach", Salvage: "5f", Over: true}
	view := &api.View{Name: "data@5f", Since: started, Addresses: []string{"nbd+unix:///data@5f"}}
	salvages := &api.Salvages{Salvages: []api.Salvage{{ID: "5f", Node: "a", Time: started, Bytes: 7}}, Silent: []string{"c"}, RoomLow: []string{"a"}}
	salvage := api.SalvageChange{Volume: "data", Node: "a", ID: "5f", Action: "apply", Ranges: []api.Run{{Offset: 0, Length: 512}}}
	applied := &api.SalvageResult{Files: 1, Bytes: 512}
	result := &api.SwitchoverResult{Volume: "data", From: "a", To: "b", Done: true, Risks: []string{"none"}}
	same := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s arrived differently:\n%s", what, diff)
		}
	}
	c := serve(t, &apitest.Fake{
		OnStatus: func(context.Context) (*api.Status, error) { return status, nil },
		OnWatch: func(_ context.Context, fn func(*api.Status) error) error {
			return errors.Join(fn(status), fn(status))
		},
		OnEvents: func(_ context.Context, q api.EventsQuery, fn func(api.Event) error) error {
			same("query", q, query)
			return errors.Join(fn(api.Event{Seq: 4}), fn(api.Event{Seq: 5, Message: "x\ny"}))
		},
		OnCreateVolume: func(_ context.Context, r api.CreateVolume) (*api.VolumeStatus, error) {
			same("create", r, create)
			return volume, nil
		},
		OnDeleteVolume: func(_ context.Context, r api.DeleteVolume) error {
			same("delete", r, api.DeleteVolume{Name: "data"})
			return nil
		},
		OnChangeMirror: func(_ context.Context, r api.MirrorChange) (*api.VolumeStatus, error) {
			same("change", r, change)
			return volume, nil
		},
		OnSplitBrain: func(_ context.Context, r api.VolumeName) (*api.SplitBrain, error) {
			same("name", r, api.VolumeName{Name: "data"})
			return sides, nil
		},
		OnResolve: func(_ context.Context, r api.ResolveSplitBrain) error {
			same("resolve", r, resolve)
			return nil
		},
		OnPlanResolve: func(_ context.Context, r api.ResolveSplitBrain) (*api.ResolvePlan, error) {
			same("resolve", r, resolve)
			return planned, nil
		},
		OnView: func(_ context.Context, r api.ViewChange) (*api.View, error) {
			same("view", r, look)
			return view, nil
		},
		OnSalvages: func(_ context.Context, r api.VolumeName) (*api.Salvages, error) {
			same("name", r, api.VolumeName{Name: "data"})
			return salvages, nil
		},
		OnSalvage: func(_ context.Context, r api.SalvageChange) (*api.SalvageResult, error) {
			same("salvage", r, salvage)
			return applied, nil
		},
		OnSwitchover: func(_ context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
			same("switchover", r, move)
			step(api.SwitchoverStep{Name: "hold"})
			step(api.SwitchoverStep{Name: "flush"})
			return result, nil
		},
	})
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	s, err := c.Status(ctx)
	ok(err)
	same("status", s, status)
	n := 0
	ok(c.Watch(ctx, func(s *api.Status) error { n++; same("status", s, status); return nil }))
	var seqs []uint64
	ok(c.Events(ctx, query, func(e api.Event) error { seqs = append(seqs, e.Seq); return nil }))
	v, err := c.CreateVolume(ctx, create)
	ok(err)
	same("volume", v, volume)
	ok(c.DeleteVolume(ctx, api.DeleteVolume{Name: "data"}))
	v, err = c.ChangeMirror(ctx, change)
	ok(err)
	same("volume", v, volume)
	split, err := c.SplitBrain(ctx, api.VolumeName{Name: "data"})
	ok(err)
	same("sides", split, sides)
	ok(c.ResolveSplitBrain(ctx, resolve))
	plan, err := c.PlanResolve(ctx, resolve)
	ok(err)
	same("plan", plan, planned)
	looked, err := c.ChangeView(ctx, look)
	ok(err)
	same("view", looked, view)
	kept, err := c.Salvages(ctx, api.VolumeName{Name: "data"})
	ok(err)
	same("salvages", kept, salvages)
	done, err := c.ChangeSalvage(ctx, salvage)
	ok(err)
	same("applied", done, applied)
	var steps []string
	r, err := c.Switchover(ctx, move, func(s api.SwitchoverStep) { steps = append(steps, s.Name) })
	ok(err)
	same("result", r, result)
	if n != 2 || fmt.Sprint(seqs, steps) != "[4 5] [hold flush]" {
		t.Errorf("%d statuses, events and steps %v %v", n, seqs, steps)
	}
}

// Every method of the Service is a call, so none is left out of the table.
func TestTableHasEveryMethod(t *testing.T) {
	var names []string
	for _, call := range api.Calls() {
		names = append(names, call.Name)
		if call.Doc == "" || call.Request == nil || call.Result == nil {
			t.Errorf("%s is not described", call.Name)
		}
	}
	service := reflect.TypeFor[api.Service]()
	for i := range service.NumMethod() {
		if name := service.Method(i).Name; !strings.Contains(strings.Join(names, " ")+" ", name+" ") {
			t.Errorf("%s is not in the table of calls", name)
		}
	}
	if len(names) != service.NumMethod() {
		t.Errorf("calls %v", names)
	}
}

func TestErrorsKeepTheirParts(t *testing.T) {
	want := &api.Error{Code: api.Refused, Rule: "plan-in-progress", Object: "volume data", Message: "no", Next: "wait", Waits: "b"}
	c := serve(t, &apitest.Fake{
		OnStatus: func(context.Context) (*api.Status, error) { return nil, want },
		OnWatch: func(_ context.Context, fn func(*api.Status) error) error {
			return errors.Join(fn(&api.Status{}), want)
		},
		OnSwitchover: func(context.Context, api.Switchover, func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
			return nil, want
		},
		OnDeleteVolume: func(context.Context, api.DeleteVolume) error { return errors.New("plain") },
	})
	_, first := c.Status(context.Background())
	_, second := c.Switchover(context.Background(), api.Switchover{Volume: "data", To: "b"}, nil)
	third := c.Watch(context.Background(), func(*api.Status) error { return nil })
	for _, err := range []error{first, second, third} {
		if diff := cmp.Diff(error(want), err); diff != "" {
			t.Error(diff)
		}
	}
	if err := c.DeleteVolume(context.Background(), api.DeleteVolume{Name: "x"}); code(err) != api.Failed || err.Error() != "plain" {
		t.Errorf("got %v", err)
	}
	if s := want.Error(); s != "volume data: no (rule plan-in-progress); wait" {
		t.Error(s)
	}
}

func TestCallersOwnErrorEndsAStream(t *testing.T) {
	mine := errors.New("mine")
	ended := make(chan error, 1)
	c := serve(t, &apitest.Fake{OnWatch: func(ctx context.Context, fn func(*api.Status) error) error {
		_ = fn(&api.Status{})
		<-ctx.Done()
		ended <- ctx.Err()
		return ctx.Err()
	}})
	if err := c.Watch(context.Background(), func(*api.Status) error { return mine }); err != mine {
		t.Errorf("got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the service saw %v", err)
	}
}

func TestTimeLimitReachesTheService(t *testing.T) {
	c := serve(t, &apitest.Fake{
		OnStatus: func(ctx context.Context) (*api.Status, error) { <-ctx.Done(); return nil, ctx.Err() },
		OnSwitchover: func(ctx context.Context, _ api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
			step(api.SwitchoverStep{})
			<-ctx.Done()
			return nil, &api.Error{Code: api.Unfinished, Message: "it takes long", Waits: "mirror a->b"}
		},
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); code(err) != api.Unfinished {
		t.Errorf("got %v", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Switchover(ctx, api.Switchover{Volume: "data", To: "b"}, nil)
	if e := api.AsError(err); e.Code != api.Unfinished || e.Waits != "mirror a->b" {
		t.Errorf("got %+v", e)
	}
}

func TestInterruptedCallEndsAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := serve(t, &apitest.Fake{OnStatus: func(inner context.Context) (*api.Status, error) { cancel(); <-inner.Done(); return nil, inner.Err() }})
	if _, err := c.Status(ctx); code(err) != api.Unfinished || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("got %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	_, err := api.NewSocketClient(path).Status(context.Background())
	if code(err) != api.Unreachable || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "no such socket") {
		t.Errorf("got %v", err)
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	_, err = api.NewClient(other.Client(), other.URL, "agent b").Status(context.Background())
	if code(err) != api.Unreachable || !strings.Contains(err.Error(), "no Keelson agent") {
		t.Errorf("got %v", err)
	}
}

func TestStreamThatIsCutOff(t *testing.T) {
	for name, lines := range map[string]string{"ends early": `{"item":{"node":"a"}}` + "\n", "half a line": `{"item":{"no`, "rubbish": "x\n"} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, lines) }))
			defer server.Close()
			err := api.NewClient(server.Client(), server.URL, "agent b").Watch(context.Background(), func(*api.Status) error { return nil })
			if want := map[string]api.Code{"ends early": api.Unreachable, "half a line": api.Failed, "rubbish": api.Failed}[name]; code(err) != want {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnswersAreBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"node":%q}`, strings.Repeat("x", api.ResponseBytesMax))
	}))
	defer server.Close()
	c := api.NewClient(server.Client(), server.URL, "agent b")
	if _, err := c.Status(context.Background()); code(err) != api.Failed || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
	if err := c.Watch(context.Background(), nil); code(err) != api.Failed || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

func post(h http.Handler, method, path, kind string, body []byte) (int, *api.Error) {
	r := httptest.NewRequest(method, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var doc api.ErrorDocument
	_ = json.Unmarshal(w.Body.Bytes(), &doc) // an answer that is no error leaves it empty
	return w.Code, doc.Error
}

func TestBadRequests(t *testing.T) {
	h := api.NewHandler(&apitest.Fake{})
	big := []byte(`{"name":"` + strings.Repeat("x", api.RequestBytesMax) + `"}`)
	for _, c := range []struct {
		method, path, kind, body string
		status                   int
		want                     string
	}{
		{"GET", "/v1/Status", "application/json", "", 405, "made with POST"},
		{"POST", "/v1/Nothing", "application/json", "{}", 404, "no call"},
		{"POST", "/", "application/json", "{}", 404, "no call"},
		{"POST", "/v1/Status", "text/plain", "{}", 400, "content type"},
		{"POST", "/v1/Status", "application/json; charset=utf-8", "{}", 500, "not faked"},
		{"POST", "/v1/DeleteVolume", "application/json", `{"name":"data","forse":true}`, 400, `unknown field "forse"`},
		{"POST", "/v1/DeleteVolume", "application/json", `{"name":"data"} {}`, 400, "more than one value"},
		{"POST", "/v1/DeleteVolume", "application/json", ``, 400, "EOF"},
		{"POST", "/v1/DeleteVolume", "application/json", `{"name":7}`, 400, "cannot be understood"},
		{"POST", "/v1/DeleteVolume", "application/json", `{"name":"../x"}`, 400, "is no volume name"},
		{"POST", "/v1/DeleteVolume", "application/json", string(big), 413, "longer than 1048576 bytes"},
		{"POST", "/v1/Switchover", "application/json", `{"volume":"data"}`, 400, "no server to switch over to"},
		{"POST", "/v1/Events", "application/json", `{"limit":-1}`, 400, "a limit of -1 events"},
		{"POST", "/v1/ChangeMirror", "application/json", `{"volume":"data","action":"fix","target":"b"}`, 400, `action "fix" is none of add`},
		{"POST", "/v1/ChangeMirror", "application/json", `{"volume":"data","action":"set","target":"b"}`, 400, `nothing to set`},
		{"POST", "/v1/ChangeMirror", "application/json", `{"volume":"data","action":"add","target":"b","path":"x"}`, 400, `is not absolute`},
		{"POST", "/v1/ChangeMirror", "application/json", `{"volume":"data","action":"pause","target":"b","mode":"sync"}`, 400, `only add and set`},
		{"POST", "/v1/CreateVolume", "application/json", `{"name":"d","source":{"node":"a","path":"/x"},"targets":[{"node":"a","path":"/y"}]}`, 400, `named twice`},
		{"POST", "/v1/CreateVolume", "application/json", `{"name":"d","source":{"node":"a","path":"/x"},"size_bytes":7}`, 400, `no multiple of 512`},
		{"POST", "/v1/CreateVolume", "application/json", `{"name":"d","source":{"node":"a","path":"/x"},"mode":"fast"}`, 400, `neither sync nor async`},
		{"POST", "/v1/PlanResolve", "application/json", `{"volume":"data"}`, 400, `no server is named whose side is kept`},
		{"POST", "/v1/ChangeView", "application/json", `{"volume":"data","action":"show"}`, 400, `neither attach nor detach`},
		{"POST", "/v1/ChangeView", "application/json", `{"volume":"data","action":"attach","over":true}`, 400, `only a salvage is shown over a copy`},
		{"POST", "/v1/ChangeSalvage", "application/json", `{"volume":"data","id":"5f","action":"delete","plan":true}`, 400, `only apply takes ranges or has a plan`},
		{"POST", "/v1/ResolveSplitBrain", "application/json", `{"volume":"data"}`, 400, `no server is named whose side is kept`},
		{"POST", "/v1/ResolveSplitBrain", "application/json", `{"volume":"../x","keep":"a"}`, 400, `is no volume name`},
		{"POST", "/v1/ChangeSalvage", "application/json", `{"volume":"data","action":"delete"}`, 400, `no salvage is named`},
		{"POST", "/v1/ChangeSalvage", "application/json", `{"volume":"data","id":"5f","action":"eat"}`, 400, `action "eat" is none of export`},
		{"POST", "/v1/ChangeSalvage", "application/json", `{"volume":"data","id":"5f","action":"export","dir":"x"}`, 400, `no absolute path`},
		{"POST", "/v1/ChangeSalvage", "application/json", `{"volume":"data","id":"5f","action":"delete","ranges":[{"offset":0,"length":1}]}`, 400, `only apply takes ranges`},
		{"POST", "/v1/ChangeSalvage", "application/json", `{"volume":"data","id":"5f","action":"apply","ranges":[{"offset":0,"length":0}]}`, 400, `is no range`},
	} {
		status, e := post(h, c.method, c.path, c.kind, []byte(c.body))
		if status != c.status || e == nil || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s %s %.60s: %d %+v, want %d %q", c.method, c.path, c.body, status, e, c.status, c.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	p, err := api.ParsePlace("a:/dev/disk/by-id/x:y")
	if err != nil || p != (api.Place{Node: "a", Path: "/dev/disk/by-id/x:y"}) {
		t.Errorf("%+v, %v", p, err)
	}
	for _, s := range []string{"", "a", "a:", ":/x", "/x:y", "a:x", "a b:/x"} {
		if _, err := api.ParsePlace(s); code(err) != api.Usage {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// Streams beyond the limit are turned away, those within it are not disturbed.
func TestStreamsAreLimited(t *testing.T) {
	const max = 64
	started, release := make(chan struct{}), make(chan struct{})
	c := serve(t, &apitest.Fake{OnWatch: func(ctx context.Context, fn func(*api.Status) error) error {
		started <- struct{}{}
		<-release
		return nil
	}})
	ends := make(chan error)
	for range max {
		go func() { ends <- c.Watch(context.Background(), func(*api.Status) error { return nil }) }()
	}
	for range max {
		<-started
	}
	if err := c.Watch(context.Background(), func(*api.Status) error { return nil }); code(err) != api.Failed || !strings.Contains(err.Error(), "64 calls of this kind") {
		t.Errorf("got %v", err)
	}
	close(release)
	for range max {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	for _, call := range api.Calls() {
		f.Add(call.Name, []byte(`{"name":"data","volume":"data","action":"pause","target":"b","to":"b"}`))
		f.Add(call.Name, []byte(`{}`))
	}
	fake := &apitest.Fake{
		OnStatus:       func(context.Context) (*api.Status, error) { return &api.Status{}, nil },
		OnCreateVolume: func(context.Context, api.CreateVolume) (*api.VolumeStatus, error) { return &api.VolumeStatus{}, nil },
	}
	h := api.NewHandler(fake)
	f.Fuzz(func(t *testing.T, name string, body []byte) {
		r := httptest.NewRequest(http.MethodPost, "/v1/x", bytes.NewReader(body))
		r.URL.Path = "/v1/" + name
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var doc api.ErrorDocument
		if !json.Valid(w.Body.Bytes()) || w.Code != 200 && (json.Unmarshal(w.Body.Bytes(), &doc) != nil || doc.Error == nil || doc.Error.Message == "") {
			t.Fatalf("%d %q", w.Code, w.Body)
		}
	})
}
