package volume

import (
	"testing"
	"time"
)

func TestLatencyHistogram(t *testing.T) {
	var h histogram
	for _, c := range []struct {
		took   time.Duration
		bucket int
	}{
		{-1, 0}, {0, 0}, {8 * time.Microsecond, 0}, {LatencyBound(0) - 1, 0}, {LatencyBound(0), 1}, {LatencyBound(1) - 1, 1},
		{LatencyBound(LatencyBuckets-1) - 1, LatencyBuckets - 1}, {LatencyBound(LatencyBuckets - 1), LatencyBuckets}, {time.Hour, LatencyBuckets},
	} {
		before := h.buckets[c.bucket].Load()
		h.observe(c.took)
		if h.buckets[c.bucket].Load() != before+1 {
			t.Errorf("%s is not in bucket %d", c.took, c.bucket)
		}
	}
	if got := testing.AllocsPerRun(100, func() { h.observe(time.Millisecond) }); got != 0 {
		t.Errorf("%v allocations", got)
	}
}
