package web

import (
	"fmt"
	"math"
	"sort"
	"strings"
	"time"

	"keelson/internal/api"
)

// chart is one figure of the last hour.
type chart struct {
	Title  string
	Unit   string
	Now    string // the newest value, in words
	Top    string // the greatest value of the scale
	Label  string // for who does not see it
	Lines  []line
	Empty  bool
	Width  int
	Height int
}

// line is one row of values of a chart.
type line struct {
	Name string
	N    int // its look
	Path string
	Area string
	Last string
}

const (
	chartWidth  = 480
	chartHeight = 90
	chartSpan   = time.Hour
)

// row is what a line is made of; a gap where ok is false.
type row struct {
	name   string
	values func(api.Sample) (v float64, ok bool)
}

// chartOf draws rows of samples; format writes a value.
func chartOf(title string, h *api.History, end time.Time, format func(float64) string, rows ...row) chart {
	c := chart{Title: title, Width: chartWidth, Height: chartHeight, Empty: true}
	top := 0.0
	for _, s := range h.Samples {
		for _, r := range rows {
			if v, ok := r.values(s); ok {
				top = math.Max(top, v)
				c.Empty = false
			}
		}
	}
	if c.Empty {
		c.Label = title + ": nothing was measured yet"
		return c
	}
	peak := top
	if top == 0 {
		top = 1
	}
	top *= 1.1
	begin := end.Add(-chartSpan)
	gap := 3 * time.Duration(h.EverySeconds*float64(time.Second))
	var last []string
	for i, r := range rows {
		l := line{Name: r.name, N: i}
		var path, area strings.Builder
		var before time.Time
		firstX, lastX := 0.0, 0.0
		closeArea := func() {
			if path.Len() > 0 && lastX > firstX {
				fmt.Fprintf(&area, "L%.1f %d L%.1f %dZ", lastX, chartHeight, firstX, chartHeight)
			}
		}
		for _, s := range h.Samples {
			v, ok := r.values(s)
			if !ok || s.Time.Before(begin) {
				continue
			}
			x := chartWidth * float64(s.Time.Sub(begin)) / float64(chartSpan)
			y := chartHeight * (1 - v/top)
			op := "L"
			if before.IsZero() || s.Time.Sub(before) > gap {
				closeArea()
				op, firstX = "M", x
			}
			fmt.Fprintf(&path, "%s%.1f %.1f", op, x, y)
			fmt.Fprintf(&area, "%s%.1f %.1f", op, x, y)
			before, lastX, l.Last = s.Time, x, format(v)
		}
		closeArea()
		l.Path = path.String()
		if i == 0 && len(rows) == 1 {
			l.Area = area.String()
		}
		if l.Path != "" {
			c.Lines = append(c.Lines, l)
			last = append(last, strings.TrimSpace(r.name+" "+l.Last))
		}
	}
	c.Top = format(peak)
	c.Now = strings.Join(last, ", ")
	c.Label = fmt.Sprintf("%s in the last hour: now %s, at most %s", title, c.Now, c.Top)
	return c
}

// chartsOf are the figures of a volume.
func chartsOf(h *api.History, end time.Time) []chart {
	targets := map[string]bool{}
	for _, s := range h.Samples {
		for name := range s.Mirrors {
			targets[name] = true
		}
	}
	names := make([]string, 0, len(targets))
	for name := range targets {
		names = append(names, name)
	}
	sort.Strings(names)
	names = names[:min(len(names), 4)] // more lines than four cannot be told apart
	of := func(get func(api.MirrorSample) float64) []row {
		var rows []row
		for _, name := range names {
			rows = append(rows, row{name, func(s api.Sample) (float64, bool) { m, ok := s.Mirrors[name]; return get(m), ok }})
		}
		return rows
	}
	bytes := func(v float64) string { return formatBytes(int64(v)) }
	return []chart{
		chartOf("Writes", h, end, formatRate, row{"", func(s api.Sample) (float64, bool) { return s.WriteBytes, true }}),
		chartOf("Writes a second", h, end, formatCount, row{"", func(s api.Sample) (float64, bool) { return s.Writes, true }}),
		chartOf("Latency of writes", h, end, formatSeconds, row{"", func(s api.Sample) (float64, bool) {
			if s.Latency == nil {
				return 0, false
			}
			return *s.Latency, true
		}}),
		chartOf("Lag", h, end, bytes, of(func(m api.MirrorSample) float64 { return float64(m.LagBytes) })...),
		chartOf("Lag in time", h, end, formatSeconds, of(func(m api.MirrorSample) float64 { return m.LagSeconds })...),
		chartOf("Queue", h, end, bytes, of(func(m api.MirrorSample) float64 { return float64(m.QueuedBytes) })...),
	}
}
