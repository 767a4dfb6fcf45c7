package web

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

func formatBytes(n int64) string {
	if n <= 0 {
		return "0 B"
	}
	return humanize.IBytes(uint64(n))
}

func formatRate(bytesPerSecond float64) string {
	if bytesPerSecond < 1 {
		return "0 B/s"
	}
	return humanize.IBytes(uint64(bytesPerSecond)) + "/s"
}

func formatCount(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.0fk", n/1e3)
	case n >= 1e3:
		return fmt.Sprintf("%.1fk", n/1e3)
	case n == 0 || n >= 10:
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.1f", n)
}

// formatSeconds writes a span for people: 0.4 s, 40 s, 3 min 20 s, 2 h 5 min.
func formatSeconds(s float64) string {
	switch {
	case s < 0.0005:
		return "0 s"
	case s < 0.1:
		return fmt.Sprintf("%.1f ms", s*1e3)
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 60:
		return fmt.Sprintf("%.0f s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", int(s)/60, int(s)%60)
	case s < 86400:
		return fmt.Sprintf("%d h %d min", int(s)/3600, int(s)/60%60)
	}
	return fmt.Sprintf("%d d %d h", int(s)/86400, int(s)/3600%24)
}

func formatClock(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format("15:04:05")
}

func formatDate(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format("2006-01-02 15:04:05")
}

// shortID is the beginning of a generation's id; "none" for that of a volume that nobody wrote to yet.
func shortID(id string) string {
	if strings.Trim(id, "0") == "" {
		return "none"
	}
	return id[:min(8, len(id))]
}

// percentOf is how much of the total is done, as a whole number; only what is finished is 100.
func percentOf(done, total int64) int {
	if total <= 0 {
		return 0
	}
	return int(math.Min(99, math.Floor(100*float64(done)/float64(total))))
}

func formatNumber(n uint64) string { return humanize.Comma(int64(n)) } // a volume's numbers have 48 bits

// pathOf is a branch of the fork: along the common line at mid, then to its own at y.
func pathOf(mid, y int) string {
	return fmt.Sprintf("M10 %d L200 %d C260 %d 260 %d 320 %d L450 %d", mid, mid, mid, y, y, y)
}
