package webtest

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// views are all that there are, by the name of their picture.
var views = []struct{ name, path, selector, text string }{
	{"overview", "/", "#v-data", "safe: can switch over to b; c is being resynced, 3.2 GiB behind, 40 s"},
	{"volume", "/v/data", "#m-c", "1.6 GiB"},
	{"volume-troubled", "/v/logs", "#m-d", "disk of d failed"},
	{"volume-lost", "/v/archive", "#head", "Take over by force"},
	{"switchover", "/v/home/switchover?to=b", "main", "Switch over to b"},
	{"switchover-force", "/v/archive/switchover?to=b&force=1", "main", "Take over by force to b"},
	{"split-brain", "/v/mail/split-brain?keep=b", "main", "Keep the side of b"},
	{"new", "/new", "main", "Create volume"},
	{"mirror", "/v/data/mirror/c", "main", "Resync rate at most"},
	{"add", "/v/fresh/add", "main", "Path on that server"},
	{"delete", "/v/data/delete", "main", "Delete volume"},
	{"salvage", "/v/data/salvage/b/0f3a9c", "main", "Export"},
	{"check", "/check", "main", "May a server be rebooted now?"},
	{"users", "/users", "main", "carol"},
	{"events", "/events", "#events", "split-brain"},
	{"audit", "/audit", "#audit", "not-in-step"},
	{"missing", "/nothing", "main", "here is no page"},
}

// forms lead to what has no address of its own.
var forms = []struct {
	name, path string
	fill       map[string]string
	button     string
	text       string
}{
	{"check-report", "/check", nil, "Check now", "something would not work: 2 problems, 1 warning"},
	{"new-checked", "/new", map[string]string{"Name": "shop", "Size": "20GiB", "Path": "/dev/vg0/data"}, "Check first", "something would not work"},
	{"view", "/v/data/salvage/b/0f3a9c", nil, "Look at it", "End the view"},
}

// Every view shows what it should in light, in dark and on a phone, fits the screen, complains about nothing, and shuts
// nobody out as far as axe-core can tell.
func TestViews(t *testing.T) {
	x := newStage(t, cluster())
	b := browse(t)
	axe, err := os.ReadFile(filepath.Join("node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		t.Fatalf("%v; tools/deps.sh brings it", err)
	}
	for i, l := range looks {
		b.as(l)
		if i == 0 {
			b.open(x.url + "/login")
			b.sees("main", "Log in")
			b.check("login", l, string(axe))
			b.shot("login-" + l.name)
			x.enter(b, "/")
		}
		for _, v := range views {
			b.open(x.url + v.path)
			b.sees(v.selector, v.text)
			b.check(v.name, l, string(axe))
			b.shot(v.name + "-" + l.name)
		}
		for _, f := range forms {
			b.open(x.url + f.path)
			for label, text := range f.fill {
				b.fill(label, text)
			}
			b.click(f.button)
			b.sees("main", f.text)
			b.check(f.name, l, string(axe))
			b.shot(f.name + "-" + l.name)
		}
	}
	b.quiet()
}

// check looks for what does not fit and for what shuts people out: by all rules in the first look, by those that depend on
// it in the others.
func (b *tab) check(what string, l look, axe string) {
	b.t.Helper()
	rules := "{}"
	switch {
	case l.phone:
		rules = "{runOnly: ['target-size', 'scrollable-region-focusable', 'meta-viewport']}"
	case l.dark:
		rules = "{runOnly: ['color-contrast', 'link-in-text-block']}"
	}
	what += " " + l.name
	if wide := eval[int](b, "document.documentElement.scrollWidth") - int(l.width); wide > 0 { // innerWidth grows with what does not fit
		b.t.Errorf("%s: %d pixels wider than the screen", what, wide)
	}
	found := eval[string](b, "(() => { if (!window.axe) {"+axe+"}; return axe.run(document, "+rules+"); })().then((r) => JSON.stringify(r.violations.map((v) => [v.impact, v.id, v.help, v.nodes.map((n) => n.html.slice(0, 160) + ' ' + n.failureSummary.slice(0,300)).slice(0, 3)])))")
	var violations [][]any
	if err := json.Unmarshal([]byte(found), &violations); err != nil {
		b.t.Fatal(err)
	}
	for _, v := range violations {
		b.t.Errorf("%s: %s", what, fmt.Sprint(v...))
	}
}

// 100 volumes on 20 servers: the first paint comes within a second, and so does a change, which touches one volume of the
// document only. On a machine that has other things to do one of several tries has to do.
func TestManyVolumesInTheBrowser(t *testing.T) {
	x := newStage(t, large())
	b := browse(t)
	x.enter(b, "/")
	quick := func(what string, try func() float64) {
		best := math.Inf(1)
		for range 8 {
			if best = min(best, try()); best < 1000 {
				break
			}
		}
		t.Logf("%s after %.0f ms", what, best)
		if best >= 1000 {
			t.Errorf("%s after %.0f ms", what, best)
		}
	}
	quick("first paint", func() float64 {
		b.open(x.url + "/")
		b.sees("#v-volume099", "volume099")
		return eval[float64](b, `new Promise((ready) => { const look = () => { const e = performance.getEntriesByName("first-contentful-paint")[0]; if (e) ready(e.startTime); else setTimeout(look, 20); }; look(); })`)
	})
	eval[bool](b, `(() => { window.touched = new Map(); new MutationObserver((list) => { for (const m of list) { const e = m.target.nodeType === 1 ? m.target : m.target.parentElement; const v = e?.closest("article, section, #summary")?.id ?? "other"; touched.set(v, performance.now()); } }).observe(document.getElementById("main"), {subtree: true, childList: true, attributes: true, characterData: true}); return true; })()`)
	paused := large()
	paused.Volumes[42].Mirrors[0].State, paused.Volumes[42].Mirrors[0].Reason = "Paused", "paused by an administrator"
	paused.Volumes[42].Switchover = paused.Volumes[42].Switchover[1:]
	next, other := paused, large()
	quick("a change is shown", func() float64 {
		at := eval[float64](b, "touched.clear(); performance.now()")
		x.set(next)
		next, other = other, next
		b.until("the change is shown", func() bool { return eval[bool](b, `touched.has("v-volume042")`) })
		return eval[float64](b, `touched.get("v-volume042")`) - at
	})
	if others := eval[string](b, `[...touched.keys()].filter((id) => id !== "v-volume042" && id !== "summary" && id !== "other").join(" ")`); others != "" {
		t.Errorf("one volume changed, and these parts were touched: %s", others)
	}
	b.quiet()
}
