package webtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// waitMax is how long a browser may take to show something on a machine that has other things to do.
const waitMax = 60 * time.Second

// tab is one tab of a browser of its own.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	troubles []string // what the browser complained about
}

// browse starts a browser without cookies or anything else from before; it ends with the test.
func browse(t *testing.T) *tab {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.IgnoreCertErrors, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("no-first-run", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("hide-scrollbars", true))
	base, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	allocated, release := chromedp.NewExecAllocator(base, options...)
	t.Cleanup(release)
	ctx, end := chromedp.NewContext(allocated)
	t.Cleanup(end)
	b := &tab{t: t, ctx: ctx}
	if err := chromedp.Do(ctx); err != nil { // it lives as long as this context, and not only for one step
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, b.hear); err != nil {
		t.Fatal(err)
	}
	return b
}

// hear keeps what the browser complains about: errors of scripts, and what the content security policy refused.
func (b *tab) hear(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.troubles = append(b.troubles, e.ExceptionDetails.Text)
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError && !strings.Contains(e.Entry.Text, "ERR_CONNECTION") && !strings.Contains(e.Entry.Text, "net::ERR_") && !strings.Contains(e.Entry.Text, "status of ") {
			b.troubles = append(b.troubles, e.Entry.Text)
		}
	}
}

// quiet fails the test if the browser complained.
func (b *tab) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, x := range b.troubles {
		b.t.Errorf("the browser says: %s", x)
	}
	b.troubles = nil
}

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitMax)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.fail(err)
	}
}

func (b *tab) fail(err error) {
	b.t.Helper()
	b.shot("failed")
	b.t.Fatalf("%v\nthe page says:\n%s", err, eval[string](b, "location.href + '\\n' + document.body.innerText"))
}

func (b *tab) open(url string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url))
}

// eval is the value of a JavaScript expression.
func eval[T any](b *tab, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitMax)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%.200s: %v", expression, err)
	}
	return v
}

// holds is whether a JavaScript condition holds now; not while the tab goes from one page to another.
func (b *tab) holds(condition string) bool {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, waitMax)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[bool](condition, chromedp.EvalAwaitPromise))
	if err != nil && !strings.Contains(err.Error(), "navigated") && !strings.Contains(err.Error(), "context") {
		b.t.Fatalf("%.200s: %v", condition, err)
	}
	return err == nil && v
}

// click clicks what a person would: the first visible link or button with that text.
func (b *tab) click(text string) {
	b.t.Helper()
	find := fmt.Sprintf(`(() => { const e = [...document.querySelectorAll("a, button")].find((e) => e.innerText.replace(/\s+/g, " ").trim().startsWith(%q) && e.offsetParent);
		if (!e) return false; e.scrollIntoView({block: "center"}); e.click(); return true; })()`, text)
	b.until("there is "+text+" to click", func() bool { return b.holds(find) })
}

// fill types into the field whose label begins with that text.
func (b *tab) fill(label, text string) {
	b.t.Helper()
	find := fmt.Sprintf(`(() => { const l = [...document.querySelectorAll("label")].filter((l) => l.innerText.trim().startsWith(%q) && l.offsetParent); const e = l[0]?.control;
		if (!e) return false; if (e.tagName === "SELECT") { e.value = %q; return e.value === %q; } e.focus(); e.select(); return document.execCommand("insertText", false, %q) && e.value === %q; })()`, label, text, text, text, text)
	b.until("there is a field "+label, func() bool { return b.holds(find) })
}

// sees waits until the element has that text.
func (b *tab) sees(selector, text string) {
	b.t.Helper()
	b.until(fmt.Sprintf("%s says %q", selector, text), func() bool {
		return b.holds(fmt.Sprintf(`(document.querySelector(%q)?.textContent ?? "").replace(/\s+/g, " ").includes(%q)`, selector, text))
	})
}

// until waits for a condition.
func (b *tab) until(what string, look func() bool) {
	b.t.Helper()
	limit := time.NewTimer(waitMax)
	defer limit.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !look() {
		select {
		case <-limit.C:
			b.fail(fmt.Errorf("not within %s: %s", waitMax, what))
		case <-again.C:
		}
	}
}

// look of a screen.
type look struct {
	name          string
	width, height int64
	dark, phone   bool
}

var looks = []look{{"light", 1280, 900, false, false}, {"dark", 1280, 900, true, false}, {"phone", 390, 844, false, true}}

// as makes the tab look like that from the next page on.
func (b *tab) as(l look) {
	b.t.Helper()
	scheme := "light"
	if l.dark {
		scheme = "dark"
	}
	view := []chromedp.EmulateViewportOption{}
	if l.phone {
		view = append(view, chromedp.EmulateMobile)
	}
	b.do(chromedp.EmulateViewport(l.width, l.height, view...))
	features := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}}
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, features); err != nil {
		b.t.Fatal(err)
	}
}

// shot keeps a picture of the whole page if -shots says where.
func (b *tab) shot(name string) {
	b.t.Helper()
	if *shots == "" {
		return
	}
	// What is out of sight is not painted; a picture of the whole page has it in sight.
	eval[bool](b, `[...document.querySelectorAll(".volume")].every((e) => e.style.contentVisibility = "visible")`)
	ctx, cancel := context.WithTimeout(b.ctx, waitMax)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
