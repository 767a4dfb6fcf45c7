package journal

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/vfs"
)

const dir = "/state/events"

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func open(t *testing.T, fs vfs.FS, most int) *Log {
	t.Helper()
	now := start
	return Open(Options{FS: fs, Dir: dir, Node: "a", Max: most, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { now = now.Add(time.Second); return now }})
}

func closeLog(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func messages(l *Log, q api.EventsQuery) []string {
	var out []string
	events, _ := l.After(q)
	for _, e := range events {
		out = append(out, e.Message)
	}
	return out
}

func same(t *testing.T, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEventsOutliveARestart(t *testing.T) {
	fs := vfs.NewMem(1)
	l := open(t, fs, 10)
	l.Add(api.Event{Level: "info", Message: "one", Object: "volume data", Rule: "forced", Next: "look"})
	l.Add(api.Event{Level: "error", Message: "two"})
	closeLog(t, l)

	l = open(t, fs, 10)
	l.Add(api.Event{Level: "info", Message: "three"})
	same(t, messages(l, api.EventsQuery{}), "one", "two", "three")
	events, _ := l.After(api.EventsQuery{})
	first := api.Event{Seq: 1, Time: start.Add(time.Second), Node: "a", Level: "info", Object: "volume data", Rule: "forced", Message: "one", Next: "look"}
	if events[0] != first {
		t.Errorf("got %+v", events[0])
	}
	if events[2].Seq != 2+restartGap+1 {
		t.Errorf("the number after a restart is %d: one of the last before a crash could be used twice", events[2].Seq)
	}
	closeLog(t, l)
	l.Add(api.Event{Message: "after the end"}) // harmless
}

func TestNoMoreThanTheNewestAreKept(t *testing.T) {
	fs := vfs.NewMem(1)
	want := []string{}
	for round := range 6 {
		l := open(t, fs, 5)
		for i := range 4 {
			m := fmt.Sprint(round, "-", i)
			l.Add(api.Event{Level: "info", Message: m})
			want = append(want, m)
		}
		same(t, messages(l, api.EventsQuery{}), want[max(0, len(want)-5):]...)
		closeLog(t, l)
	}
	for _, name := range []string{current, before} {
		data, err := readFile(fs, dir+"/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(data, []byte("\n")); lines == 0 || lines > 9 {
			t.Errorf("%s has %d lines", name, lines)
		}
	}
}

func TestQueries(t *testing.T) {
	l := open(t, vfs.NewMem(1), 10)
	defer closeLog(t, l)
	l.Add(api.Event{Level: "info", Volume: "x", Message: "1"})
	l.Add(api.Event{Level: "warning", Volume: "y", Message: "2", Rule: "forced"})
	l.Add(api.Event{Level: "error", Volume: "x", Message: "3"})
	l.Add(api.Event{Level: "info", Volume: "x", Message: "4", Rule: "forced"})
	same(t, messages(l, api.EventsQuery{Volume: "x"}), "1", "3", "4")
	same(t, messages(l, api.EventsQuery{Level: "warning"}), "2", "3")
	same(t, messages(l, api.EventsQuery{Rule: "forced"}), "2", "4")
	same(t, messages(l, api.EventsQuery{After: 2}), "3", "4")
	same(t, messages(l, api.EventsQuery{Limit: 1}), "4")
	same(t, messages(l, api.EventsQuery{Since: start.Add(3 * time.Second)}), "3", "4")
}

func TestWhoFollowsIsWoken(t *testing.T) {
	l := open(t, vfs.NewMem(1), 10)
	defer closeLog(t, l)
	_, more := l.After(api.EventsQuery{})
	l.Add(api.Event{Level: "info", Message: "new"})
	select {
	case <-more:
	case <-time.After(30 * time.Second):
		t.Fatal("not woken")
	}
}

// A power cut at any call: what comes back is what was told, in order, without gaps at the front; and telling goes on.
func TestPowerCutAtEveryCall(t *testing.T) {
	for cut := int64(1); ; cut++ {
		fs := vfs.NewMem(cut)
		var n atomic.Int64
		fs.Inject(func(string, string, int64, int) error {
			if n.Add(1) >= cut {
				return errors.New("the power is gone")
			}
			return nil
		})
		l := open(t, fs, 3)
		for i := range 5 {
			l.Add(api.Event{Level: "info", Message: fmt.Sprint(i)})
			for len(l.wake) > 0 && n.Load() < cut { // each in a write of its own, as far as it goes
				runtime.Gosched()
			}
		}
		_ = l.Close()
		calls := n.Load()
		fs.Inject(nil)
		fs.CrashPower()
		l = open(t, fs, 3)
		got := messages(l, api.EventsQuery{})
		for i, m := range got {
			if i > 0 && m <= got[i-1] {
				t.Fatalf("cut at call %d: %q", cut, got)
			}
		}
		l.Add(api.Event{Level: "info", Message: "again"})
		if got := messages(l, api.EventsQuery{}); got[len(got)-1] != "again" {
			t.Fatalf("cut at call %d: %q", cut, got)
		}
		closeLog(t, l)
		if calls < cut {
			same(t, got, "2", "3", "4")
			break
		}
	}
}

func TestABrokenDiskIsTold(t *testing.T) {
	fs := vfs.NewMem(1)
	fs.Inject(func(op, path string, _ int64, _ int) error {
		if strings.HasSuffix(path, current) && op == "write" {
			return errors.New("no such luck")
		}
		return nil
	})
	l := open(t, fs, 10)
	l.Add(api.Event{Level: "info", Message: "one"})
	closeLog(t, l)
	got := messages(l, api.EventsQuery{Level: "warning"})
	if len(got) != 1 || !strings.Contains(got[0], "no such luck") {
		t.Errorf("got %q", got)
	}
}

func TestDamagedLinesAreCounted(t *testing.T) {
	fs := vfs.NewMem(1)
	l := open(t, fs, 10)
	l.Add(api.Event{Level: "info", Message: "one"})
	l.Add(api.Event{Level: "info", Message: "two"})
	closeLog(t, l)
	f, err := fs.Open(dir+"/"+current, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("{{{"), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l = open(t, fs, 10)
	defer closeLog(t, l)
	got := messages(l, api.EventsQuery{})
	if len(got) != 2 || got[0] != "two" || !strings.Contains(got[1], "1 lines") {
		t.Errorf("got %q", got)
	}
}

// Golden: a line as format 1 has it.
func TestLineIsAsDocumented(t *testing.T) {
	fs := vfs.NewMem(1)
	l := open(t, fs, 10)
	l.Add(api.Event{Level: "warning", Volume: "data", Object: "mirror a->b", Rule: "in-sync-shrinks", Message: "lost", Next: "wait"})
	closeLog(t, l)
	got, err := readFile(fs, dir+"/"+current)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"seq":1,"time":"2026-11-25T12:00:01Z","node":"a","level":"warning","volume":"data","object":"mirror a-\u003eb","rule":"in-sync-shrinks","message":"lost","next":"wait"}` + "\n"
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestLongTextIsShortened(t *testing.T) {
	fs := vfs.NewMem(1)
	l := open(t, fs, 10)
	l.Add(api.Event{Level: "info", Message: strings.Repeat("\x00", 100_000)})
	closeLog(t, l)
	l = open(t, fs, 10)
	defer closeLog(t, l)
	if got := messages(l, api.EventsQuery{}); len(got) != 1 || len(got[0]) > 5000 {
		t.Errorf("%d events came back", len(got))
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"seq":1,"message":"x"}` + "\n" + `{"seq":2}` + "\n{"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		events, damaged, whole := parse(data)
		if whole > len(data) || whole > 0 && data[whole-1] != '\n' || len(events)+damaged != bytes.Count(data, []byte("\n")) {
			t.Fatalf("%d events, %d damaged, %d bytes of %d", len(events), damaged, whole, len(data))
		}
		for i := 1; i < len(events); i++ {
			if events[i].Seq <= events[i-1].Seq {
				t.Fatal("not in order")
			}
		}
	})
}
