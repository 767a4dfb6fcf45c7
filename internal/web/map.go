package web

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"keelson/internal/api"
)

// drawing is the map of a volume: its source, its targets and an arrow for each mirror. All lengths are in units of the
// drawing, which grows with the number of targets.
type drawing struct {
	Large         bool
	Label         string // for who does not see it
	Width, Height int
	Source        spot
	Targets       []spot
	Arrows        []arrow
}

// spot is a server.
type spot struct {
	X, Y, W, H int
	Name       string
	Class      string // ok | bad | idle, and what it is
	Role       string
	Note       string
	Sign       string
}

// TextX, TextY and so on are where texts stand.
func (s spot) TextX() int { return s.X + 12 }

// Mid is the middle of its height.
func (s spot) Mid() int { return s.Y + s.H/2 }

// Upper and Lower are the base lines of two lines of text.
func (s spot) Upper() int { return s.Y + s.H/2 - 4 }

// Lower is the base line of the second.
func (s spot) Lower() int { return s.Y + s.H/2 + 14 }

// Base is the base line of a single line of text.
func (s spot) Base() int { return s.Y + s.H/2 + 5 }

// SignX is where the sign of its state stands.
func (s spot) SignX() int { return s.X + s.W - 16 }

// arrow is a mirror.
type arrow struct {
	Path         string
	Head         string // points of the triangle
	Class        string
	State        string
	Stroke       string // width, by throughput
	TextX, TextY int
	Text, Sub    string
	BarX, BarY   int // of the sign across the line
}

// draw makes the map. On the small one texts are short.
func draw(st *state, v *api.VolumeStatus, large bool) drawing {
	d := drawing{Large: large}
	w, h, gap, left := 96, 34, 10, 96
	span := 110
	if large {
		w, h, gap, left = 150, 54, 22, 150
		span = 400
	}
	mirrors := slices.Clone(v.Mirrors)
	n := max(1, len(mirrors))
	d.Width, d.Height = left+span+w+2, n*h+(n-1)*gap+2
	class, role := "ok", "source"
	if !st.reachable(v.Source) && v.Source != "" {
		class = "bad"
	}
	if v.Source == "" {
		class, role = "idle", ""
	}
	name := v.Source
	if name == "" {
		name = "no source"
	}
	d.Source = spot{1, d.Height/2 - h/2, left, h, name, class + " source", role, "", signs[class]}
	if class == "ok" {
		d.Source.Sign = ""
	}
	d.Label = fmt.Sprintf("Volume %s: source %s", v.Name, name)
	for i, m := range mirrors {
		y := 1 + i*(h+gap)
		t := spot{left + span, y, w, h, m.Target, "ok target", "target", "", ""}
		if inSync(v, m.Target) {
			t.Role = "target, in sync"
		}
		if !st.reachable(m.Target) && st.node(m.Target) != nil {
			t.Class, t.Role, t.Sign = "bad target", "not reachable", signs["bad"]
		}
		d.Targets = append(d.Targets, t)
		d.Arrows = append(d.Arrows, arrowOf(st, v, m, d.Source, t, large))
		d.Label += fmt.Sprintf("; mirror to %s is %s%s", m.Target, m.State, after(", ", lagText(m)))
	}
	return d
}

func inSync(v *api.VolumeStatus, node string) bool { return slices.Contains(v.InSync, node) }

// lagText says how far a target is behind; "" if it is not.
func lagText(m api.MirrorStatus) string {
	if m.LagBytes == 0 && m.LagSeconds < 0.05 {
		return ""
	}
	text := formatBytes(m.LagBytes) + " behind"
	if m.LagSeconds >= 0.05 {
		text += ", " + formatSeconds(m.LagSeconds)
	}
	return text
}

func arrowOf(st *state, v *api.VolumeStatus, m api.MirrorStatus, from, to spot, large bool) arrow {
	rate := st.Rates[rateKey(v.Name, m.Source, m.Target)]
	x0, y0, x1, y1 := from.X+from.W+2, from.Mid(), to.X-10, to.Mid()
	bend := (x1 - x0) / 4
	if large {
		bend = (x1 - x0) / 6
	}
	a := arrow{Class: classOf(m.State), State: m.State, Stroke: fmt.Sprintf("%.1f", strokeOf(rate, large))}
	a.Path = fmt.Sprintf("M%d %d C%d %d %d %d %d %d", x0, y0, x0+bend, y0, x0+bend, y1, x0+2*bend, y1)
	a.Path += fmt.Sprintf(" L%d %d", x1, y1)
	a.Head = fmt.Sprintf("%d,%d %d,%d %d,%d", x1+8, y1, x1-2, y1-5, x1-2, y1+5)
	a.BarX, a.BarY = x1-14, y1
	a.TextX, a.TextY = x0+2*bend-6, y1-8
	if !large {
		a.TextX = x0 + 2*bend - 4
		if m.State != "Mirroring" && m.State != "Resync" && m.State != "ResyncPending" {
			a.TextX -= 14 // beside the sign across the line
		}
		a.TextY = y1 - 6
		a.Text = smallLabel(m)
		return a
	}
	a.Text = m.State
	if m.Mode != "" {
		a.Text = m.Mode + " · " + m.State
	}
	a.Sub = largeLabel(m, rate)
	return a
}

// strokeOf is wider the more is carried: from a hair line at rest to 5 units at 1 GiB/s.
func strokeOf(rate float64, large bool) float64 {
	w := 1.5
	if rate > 1024 {
		w += math.Min(3.5, math.Log2(rate/1024)/20*3.5)
	}
	if !large {
		w = math.Min(w, 3.5)
	}
	return w
}

func smallLabel(m api.MirrorStatus) string {
	switch {
	case m.State == "Resync" && m.Resync != nil && m.Resync.State == "running":
		return fmt.Sprintf("%d %%", percentOf(m.Resync.BytesSent+m.Resync.BytesSkipped, m.Resync.BytesTotal))
	case m.State == "Mirroring" && m.LagBytes > 0:
		return formatBytes(m.LagBytes)
	case m.State == "Mirroring":
		return ""
	case m.State == "ResyncPending":
		return "waits"
	case m.State == "SplitBrain":
		return "split"
	case m.State == "Paused":
		return "paused"
	case m.State == "Broken":
		return "broken"
	}
	return strings.ToLower(m.State)
}

func largeLabel(m api.MirrorStatus, rate float64) string {
	switch {
	case m.State == "Resync" && m.Resync != nil && m.Resync.State == "running":
		r := m.Resync
		text := fmt.Sprintf("%d %% of %s, %s", percentOf(r.BytesSent+r.BytesSkipped, r.BytesTotal), formatBytes(r.BytesTotal), formatRate(float64(r.BytesPerSec)))
		if r.SecondsLeft != nil {
			text += ", " + formatSeconds(*r.SecondsLeft) + " left"
		}
		return text
	case m.State == "Mirroring":
		text := "nothing behind"
		if lag := lagText(m); lag != "" {
			text = lag
		}
		if rate >= 1024 {
			text += " · " + formatRate(rate)
		}
		return text
	}
	return lagText(m)
}
