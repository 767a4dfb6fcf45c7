package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"keelson/internal/api"
)

// typed is a dialog whose agent notes what it is asked.
type typed struct {
	dialog
	asked []api.Switchover
	err   error
}

func newTyped() *typed {
	d := &typed{}
	d.redraw = func() {}
	d.switchover = func(_ context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
		d.asked = append(d.asked, r)
		if d.err != nil {
			return nil, d.err
		}
		if !r.Plan {
			step(api.SwitchoverStep{Name: "hold", State: "running"})
		}
		return &api.SwitchoverResult{Volume: r.Volume, From: "a", To: r.To, Done: !r.Plan, Millis: 12}, nil
	}
	return d
}

var shown = &api.Status{Volumes: []api.VolumeStatus{
	{Name: "data", Switchover: []api.Candidate{{To: "b", OK: true}, {To: "c", Reason: "paused"}}},
	{Name: "logs", Switchover: []api.Candidate{{To: "c", OK: true}}},
}}

// press types keys, each after what the one before began has ended.
func (d *typed) press(keys string) bool {
	for _, k := range []byte(keys) {
		if !d.key(context.Background(), k, shown) {
			return false
		}
		d.workers.Wait()
	}
	return true
}

func (d *typed) shows(t *testing.T, parts ...string) {
	t.Helper()
	text := strings.Join(d.lines(), "\n")
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

func TestKeysSwitchOver(t *testing.T) {
	d := newTyped()
	d.shows(t, "s switches over, q quits")
	d.press("s")
	d.shows(t, "1  data to b", "2  logs to c", "-  data to c: paused", "a digit chooses")
	d.press("2")
	d.shows(t, "switchover of logs from a to c", "at risk: nothing", "y switches over")
	d.press("y")
	d.shows(t, "logs switched over from a to c; writes were held for 12 ms", "q quits")
	want := []api.Switchover{{Volume: "logs", To: "c", Plan: true}, {Volume: "logs", To: "c"}}
	if !slices.Equal(d.asked, want) {
		t.Errorf("asked %+v", d.asked)
	}
}

// Nothing but y after a plan switches over, and nothing forces.
func TestOtherKeysDoNotSwitchOver(t *testing.T) {
	for _, keys := range []string{"y", "1", "sy", "s3", "s9", "s0", "s1n", "s1q", "s1\x1b", "s\x1b1y", "s1 y", "s1\ry"} {
		d := newTyped()
		if !d.press(keys) {
			t.Errorf("%q ends the screen", keys)
		}
		for _, r := range d.asked {
			if !r.Plan || r.Force {
				t.Errorf("%q: asked %+v", keys, r)
			}
		}
	}
}

func TestRefusedPlansAreShown(t *testing.T) {
	d := newTyped()
	d.err = errors.New("the mirror is paused (rule paused)")
	d.press("s1")
	d.shows(t, "the mirror is paused", "s switches over")
	d.press("s1y")
	if len(d.asked) != 2 {
		t.Errorf("asked %+v", d.asked)
	}
}

func TestKeysThatQuit(t *testing.T) {
	status := func() *api.Status { return shown }
	for _, keys := range []string{"q", "xyzQ", "\x03", "a\x04", "", "sq", "s\x03", "\x1b[A"} {
		newTyped().read(t.Context(), strings.NewReader(keys), status) // returns
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	(&screen{}).untilQuit(ctx) // returns
}

func TestTheDialogStandsBelow(t *testing.T) {
	over := strings.Split("1 2 3 4 5 6 7 8 9", " ")
	for height := 1; height < 14; height++ {
		lines := below(over, []string{"plan", "help"}, 40, height)
		if len(lines) > height || lines[len(lines)-1] != "help" {
			t.Errorf("height %d: %q", height, lines)
		}
	}
}
