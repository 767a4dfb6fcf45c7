package web

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func contains(t *testing.T, what, body string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(body, w) {
			t.Errorf("%s: %q is missing in\n%s", what, w, body)
		}
	}
}

// The check as a report: of all servers, of a volume, of what is about to be made, which is not made then; and who may be rebooted.
func TestCheckReport(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	admin := x.user("administrator")
	status, body := x.get(admin, "/check?volume=data")
	if status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	contains(t, "the form", body, "May a server be rebooted now?", "it is &lt;in use&gt; here", "Next: switch over first", `<option value="data" selected>`)
	if strings.Count(body, "✓</span> yes") != 2 || strings.Count(body, "✕</span> no") != 1 {
		t.Errorf("who may be rebooted:\n%s", body)
	}
	_, body = x.post(admin, "/check", url.Values{})
	contains(t, "all servers", body, "this works</b>: 0 problems, 0 warnings, 1 ok", "a → b", "A message and its answer take 1ms")
	_, body = x.post(admin, "/check", url.Values{"volume": {"data"}})
	contains(t, "a volume", body, "this works, with warnings</b>: 0 problems, 1 warning, 1 ok", "set the clocks")

	form := url.Values{"check": {"1"}, "name": {"fresh"}, "source": {"a"}, "source_path": {"/dev/x"}, "target0": {"b"}, "target0_path": {"/dev/y"}, "mode": {"async"}}
	_, body = x.post(admin, "/new", form)
	contains(t, "a new volume", body, "something would not work</b>: 2 problems", "/dev/y is in use", `value="fresh"`, `value="/dev/y"`, `value="async" checked`)
	_, body = x.post(admin, "/v/data/add", url.Values{"check": {"1"}, "node": {"c"}, "path": {"/dev/z"}, "mode": {"sync"}})
	if !strings.Contains(body, "Every known server has a copy already") {
		contains(t, "a mirror", body, "/dev/z is in use", `value="/dev/z"`)
	}
	if calls := x.agent.noted(); calls != "" {
		t.Errorf("a check made something: %s", calls)
	}
}

// A view is attached from a salvage and from a side of a split brain, shows its address, and is ended again.
func TestViewsAreAttached(t *testing.T) {
	x := newSite(t, statusOf(1, 3), "")
	admin := x.user("administrator")
	_, body := x.get(admin, "/v/data/salvage/b/s1")
	contains(t, "the salvage", body, "Look at it", `action="/v/data/view"`)
	_, body = x.get(admin, "/v/data/split-brain")
	contains(t, "the split brain", body, "a read-only view of the copy on b")
	status, body := x.post(admin, "/v/data/view", url.Values{"action": {"attach"}, "node": {"b"}, "salvage": {"s1"}, "over": {"1"}})
	contains(t, "the view", body, "nbd&#43;unix:///data@s1?socket=/x", "End the view", `name="over" value="1"`)
	if status != http.StatusOK || x.audited() != "page administrator ChangeView volume data done" {
		t.Errorf("status %d, audit %q", status, x.audited())
	}
	if status, _ := x.post(admin, "/v/data/view", url.Values{"action": {"detach"}, "node": {"b"}, "salvage": {"s1"}}); status != http.StatusSeeOther {
		t.Errorf("status %d", status)
	}
	if status, _ := x.post(admin, "/v/data/view", url.Values{"action": {"dance"}, "node": {"b"}}); status != http.StatusBadRequest {
		t.Errorf("nonsense: status %d", status)
	}
	if calls := x.agent.noted(); calls != "attach view on b of s1, detach view on b of s1" {
		t.Errorf("calls: %s", calls)
	}
}
