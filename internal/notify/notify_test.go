package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/journal"
	"keelson/internal/vfs"
)

type world struct {
	events *journal.Log
	log    *lockedBuffer
	stop   func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// begin runs the notifier beside a journal that holds one old event.
func begin(t *testing.T, o Options) *world {
	t.Helper()
	w := &world{log: &lockedBuffer{}}
	o.Log = slog.New(slog.NewTextHandler(w.log, nil))
	w.events = journal.Open(journal.Options{FS: vfs.NewMem(1), Dir: "/e", Node: "a", Max: 100, Now: time.Now, Log: o.Log})
	w.events.Add(api.Event{Level: "error", Message: "from before"})
	ready := make(chan struct{})
	var once sync.Once
	o.After = func(q api.EventsQuery) ([]api.Event, <-chan struct{}) {
		events, more := w.events.After(q)
		if q.Limit == 0 {
			once.Do(func() { close(ready) })
		}
		return events, more
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); Run(ctx, o) }()
	w.stop = func() { cancel(); <-done }
	t.Cleanup(func() { w.stop(); w.events.Close() })
	<-ready
	return w
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 60 s: %s", what)
		}
	}
}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCommandGetsTheEvent(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	w := begin(t, Options{Level: "warning", Command: script(t, `{ echo "$KEELSON_EVENT_LEVEL|$KEELSON_EVENT_VOLUME|$KEELSON_EVENT_RULE|$KEELSON_EVENT_MESSAGE"; cat; } >>`+out+"\n")})
	w.events.Add(api.Event{Level: "info", Message: "not grave enough"})
	w.events.Add(api.Event{Level: "error", Volume: "data", Rule: "disk-failed", Message: "the disk; $(echo is gone)"})
	var got string
	await(t, "two lines", func() bool {
		text, _ := os.ReadFile(out)
		got = string(text)
		return strings.Count(got, "\n") >= 2
	})
	head, line, _ := strings.Cut(got, "\n")
	if head != "error|data|disk-failed|the disk; $(echo is gone)" {
		t.Errorf("environment: %q", head)
	}
	var e api.Event
	if err := json.Unmarshal([]byte(line), &e); err != nil || e.Message != "the disk; $(echo is gone)" || e.Node != "a" {
		t.Errorf("standard input: %q, %v", line, err)
	}
}

func TestAFailedCommandDoesNotKeepLaterEvents(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	w := begin(t, Options{Level: "info", Command: script(t, `echo "$KEELSON_EVENT_MESSAGE" >>`+out+"; echo no such pager >&2; exit 3\n")})
	w.events.Add(api.Event{Level: "info", Message: "one"})
	w.events.Add(api.Event{Level: "info", Message: "two"})
	await(t, "both told", func() bool { text, _ := os.ReadFile(out); return string(text) == "one\ntwo\n" })
	await(t, "the failure is logged", func() bool { return strings.Contains(w.log.String(), "exit status 3: no such pager") })
}

func TestWebhookIsTriedAgain(t *testing.T) {
	var mu sync.Mutex
	var got []string
	failures := 1
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if failures > 0 {
			failures--
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		body, _ := io.ReadAll(r.Body)
		var e api.Event
		if err := json.Unmarshal(body, &e); err != nil || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %v", r.Method, body, err)
		}
		got = append(got, e.Message)
	}))
	defer server.Close()
	w := begin(t, Options{Level: "info", Webhook: server.URL})
	w.events.Add(api.Event{Level: "info", Message: "one"})
	w.events.Add(api.Event{Level: "info", Message: "two"})
	await(t, "both told, in order", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(got, ",") == "one,two"
	})
}

func TestAWebhookThatRefusesIsNotAskedAgain(t *testing.T) {
	var mu sync.Mutex
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		asked++
		mu.Unlock()
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	w := begin(t, Options{Level: "info", Webhook: server.URL})
	w.events.Add(api.Event{Level: "info", Message: "one"})
	await(t, "the refusal is logged", func() bool { return strings.Contains(w.log.String(), "403 Forbidden") })
	w.stop()
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func TestTheEndInterruptsADelivery(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	w := begin(t, Options{Level: "info", Command: script(t, "touch "+started+"; exec sleep 600\n")})
	w.events.Add(api.Event{Level: "info", Message: "one"})
	await(t, "the command runs", func() bool { _, err := os.Stat(started); return err == nil })
	w.stop() // would not come back within the test's time
}
