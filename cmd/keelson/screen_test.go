package main

import (
	"fmt"
	"strings"
	"testing"

	"keelson/internal/api"
)

func TestScreenFitsAndRedraws(t *testing.T) {
	var out strings.Builder
	width, height := 20, 4
	s := &screen{out: &out, size: func() (int, int) { return width, height },
		overview: func(s *api.Status) string { return s.Node + "\nein längerer Text als das\n3\n4\n5\n" }}
	if err := s.show(&api.Status{Node: "a"}); err != nil {
		t.Fatal(err)
	}
	want := homeScreen + strings.Join([]string{"a", "ein längerer Text a>", "... 3 more lines: ma>", "s switches over, q >"}, clearLine+"\r\n") + clearLine + clearBelow
	want = strings.Replace(want, "... 3 more lines: ma>", "... 3 more lines: m>", 1)
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
	out.Reset()
	width, height = 200, 50
	s.draw()
	if !strings.Contains(out.String(), "ein längerer Text als das") || strings.Contains(out.String(), "more lines") {
		t.Errorf("after the window grew: %q", out.String())
	}
	s.close()
	if !strings.HasSuffix(out.String(), leaveScreen) {
		t.Error("the terminal is not given back")
	}
}

func TestFitNeverExceedsTheScreen(t *testing.T) {
	for width := range 12 {
		for height := 1; height < 6; height++ {
			lines := fit([]string{"0123456789abc", "b", "", "d", "e"}, width, height)
			if len(lines) > height {
				t.Errorf("%d lines on a screen of %d", len(lines), height)
			}
			for _, l := range lines {
				if len([]rune(l)) > max(width, 1) {
					t.Errorf("line %q on a screen %d wide", l, width)
				}
			}
		}
	}
}

func TestShellQuoting(t *testing.T) {
	for in, want := range map[string]string{"": "''", "/a/b.c": "/a/b.c", "a b": "'a b'", "it's": `'it'\''s'`,
		"nbd+unix:///data?socket=/x": "'nbd+unix:///data?socket=/x'", "$(x)": "'$(x)'"} {
		if got := quote(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

func TestSecondsLeftAndNoEstimate(t *testing.T) {
	r := &api.ResyncStatus{Kind: "full", State: "running", BytesTotal: 0}
	if got := resync(r); got != "full 100% of 0 B, 0 B/s" {
		t.Error(got)
	}
	left := 90.0
	r.BytesTotal, r.BytesSent, r.SecondsLeft = 100, 25, &left
	if got := resync(r); got != "full 25% of 100 B, 0 B/s, 1m30s left" {
		t.Error(got)
	}
	if got := fmt.Sprint(human(0), " ", human(-1024), " ", human(1<<40)); got != "0 B -1.0 KiB 1.0 TiB" {
		t.Error(got)
	}
}
