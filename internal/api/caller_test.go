package api_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"keelson/internal/api"
	"keelson/internal/api/apitest"
)

// serveAs offers the service over HTTP to callers whom the connection makes known as ctx says, and collects the audit.
func serveAs(t *testing.T, s api.Service, know func(context.Context) context.Context) (*api.Client, *[]api.AuditLine) {
	t.Helper()
	lines := new([]api.AuditLine)
	h := api.NewAuditedHandler(s, func(_ context.Context, l api.AuditLine) { *lines = append(*lines, l) })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(know(r.Context())))
	}))
	t.Cleanup(server.Close)
	return api.NewClient(server.Client(), server.URL, "agent b"), lines
}

// Who called is what the connection says: a peer's agent may name the one for whom it passes a call on, nobody else.
func TestCallerIsKnown(t *testing.T) {
	root := api.Caller{Kind: api.CallerLocal, Name: "root", From: "uid 0"}
	var caller api.Caller
	var via string
	fake := &apitest.Fake{OnStatus: func(ctx context.Context) (*api.Status, error) {
		caller, via = api.CallerOf(ctx), api.Via(ctx)
		return &api.Status{}, nil
	}}
	fromPeer, _ := serveAs(t, fake, func(ctx context.Context) context.Context { return api.WithPeer(ctx, "b") })
	local, _ := serveAs(t, fake, func(ctx context.Context) context.Context { return api.WithCaller(ctx, root) })
	nobody, _ := serveAs(t, fake, func(ctx context.Context) context.Context { return ctx })
	anna := api.WithCaller(t.Context(), api.Caller{Kind: api.CallerPage, Name: "anna", From: "10.0.0.9"})
	for name, test := range map[string]struct {
		client *api.Client
		caller api.Caller
		via    string
	}{
		"passed on":               {fromPeer.Via("b"), api.Caller{Kind: api.CallerPage, Name: "anna", From: "10.0.0.9"}, "b"},
		"passed on by another":    {fromPeer.Via("c"), api.Caller{Kind: api.CallerPage, Name: "anna", From: "10.0.0.9"}, "b"},
		"a peer's own":            {fromPeer, api.Caller{Kind: api.CallerPeer, Name: "b"}, ""},
		"a local user who forges": {local.Via("b"), root, ""},
		"nobody who forges":       {nobody.Via("b"), api.Caller{}, ""},
	} {
		if _, err := test.client.Status(anna); err != nil {
			t.Fatal(err)
		}
		if caller != test.caller || via != test.via {
			t.Errorf("%s: caller %+v via %q", name, caller, via)
		}
	}
}

// Every call that changes something leaves a line, whatever becomes of it; looking leaves none, and a call that was
// passed on is noted where it was made.
func TestAuditOfCalls(t *testing.T) {
	fake := &apitest.Fake{
		OnStatus:     func(context.Context) (*api.Status, error) { return &api.Status{}, nil },
		OnChangeUser: func(context.Context, api.UserChange) (*api.Users, error) { return &api.Users{}, nil },
		OnDeleteVolume: func(context.Context, api.DeleteVolume) error {
			return api.Refusal("in-use", "volume data", "clients use its device", "end them")
		},
		OnSwitchover: func(context.Context, api.Switchover, func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
			return nil, errors.New("broken")
		},
	}
	who := api.Caller{Kind: api.CallerLocal, Name: "root", From: "uid 0"}
	local, lines := serveAs(t, fake, func(ctx context.Context) context.Context { return api.WithCaller(ctx, who) })
	ctx := t.Context()
	_, _ = local.Status(ctx)
	_, _ = local.ChangeUser(ctx, api.UserChange{Action: "add", Name: "anna", Role: "viewer", Password: "correct horse battery"})
	_ = local.DeleteVolume(ctx, api.DeleteVolume{Name: "data"})
	_, _ = local.Switchover(ctx, api.Switchover{Volume: "data", To: "b"}, nil)
	line := func(what, object, result string) api.AuditLine {
		return api.AuditLine{Kind: "local", Who: "root", From: "uid 0", What: what, Object: object, Result: result}
	}
	user := line("ChangeUser", "user anna", "done")
	gone := line("DeleteVolume", "volume data", "refused")
	gone.Rule, gone.Message = "in-use", "clients use its device"
	move := line("Switchover", "volume data", "failed")
	move.Message = "broken"
	got := append([]api.AuditLine(nil), *lines...)
	for i := range got {
		if got[i].Detail == "" || strings.Contains(got[i].Detail, "correct horse") {
			t.Errorf("detail %q", got[i].Detail)
		}
		got[i].Detail = ""
	}
	if diff := cmp.Diff([]api.AuditLine{user, gone, move}, got); diff != "" {
		t.Error(diff)
	}
	peer, lines := serveAs(t, fake, func(ctx context.Context) context.Context { return api.WithPeer(ctx, "b") })
	_ = peer.Via("b").DeleteVolume(ctx, api.DeleteVolume{Name: "data"})
	if len(*lines) != 0 {
		t.Errorf("a call that was passed on is noted twice: %+v", *lines)
	}
	_ = peer.DeleteVolume(ctx, api.DeleteVolume{Name: "data"})
	if len(*lines) != 1 || (*lines)[0].Kind != api.CallerPeer || (*lines)[0].Who != "b" {
		t.Errorf("a call of a peer itself: %+v", *lines)
	}
}

// The calls of users and audit go there and back.
func TestUsersAndAuditGoThereAndBack(t *testing.T) {
	users := &api.Users{Users: []api.User{{Name: "anna", Role: "viewer", Password: true, By: "a"}}}
	change := api.UserChange{Action: "passwd", Name: "anna", Password: "correct horse battery"}
	query := api.AuditQuery{Node: "a", Who: "root", Object: "volume data", Limit: 3}
	want := []api.AuditLine{{Node: "a", Seq: 1, What: "Switchover", Result: "done"}, {Node: "b", Seq: 2, What: "CreateVolume", Result: "refused", Rule: "r"}}
	c := serve(t, &apitest.Fake{
		OnUsers: func(context.Context) (*api.Users, error) { return users, nil },
		OnChangeUser: func(_ context.Context, r api.UserChange) (*api.Users, error) {
			if r != change {
				t.Errorf("%+v", r)
			}
			return users, nil
		},
		OnAudit: func(_ context.Context, q api.AuditQuery, fn func(api.AuditLine) error) error {
			if q != query {
				t.Errorf("%+v", q)
			}
			return errors.Join(fn(want[0]), fn(want[1]))
		},
	})
	for _, call := range []func() (*api.Users, error){
		func() (*api.Users, error) { return c.Users(t.Context()) },
		func() (*api.Users, error) { return c.ChangeUser(t.Context(), change) },
	} {
		got, err := call()
		if diff := cmp.Diff(users, got); diff != "" || err != nil {
			t.Error(diff, err)
		}
	}
	var got []api.AuditLine
	err := c.Audit(t.Context(), query, func(l api.AuditLine) error { got = append(got, l); return nil })
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, bad := range []api.UserChange{{}, {Action: "add", Name: "x"}, {Action: "remove", Name: "x", Role: "viewer"}, {Action: "role", Name: "x", Role: "viewer", Password: "y"}, {Action: "passwd", Name: "x"}} {
		if code(bad.Check()) != api.Usage {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// Every call that changes something says of what, for the audit.
func TestEveryChangeHasAnObject(t *testing.T) {
	for _, c := range api.Calls() {
		if _, ok := reflect.New(c.Request).Interface().(interface{ About() string }); c.Changes && !ok {
			t.Errorf("the request of %s has no method About", c.Name)
		}
	}
}
