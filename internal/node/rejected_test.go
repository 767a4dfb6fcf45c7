package node

import (
	"testing"
	"time"
)

// TestStrangersDoNotFillTheLog: so many a minute, and what was not said is counted.
func TestStrangersDoNotFillTheLog(t *testing.T) {
	var r rejections
	now := time.Unix(1000, 0)
	said := 0
	for range 1000 {
		if say, _ := r.note(now); say {
			said++
		}
		now = now.Add(time.Millisecond)
	}
	if said != rejectedPerMinute {
		t.Errorf("%d were written down in a minute, not %d", said, rejectedPerMinute)
	}
	if say, silent := r.note(now.Add(rejectedWindow)); !say || silent != 1000-rejectedPerMinute {
		t.Errorf("the next minute: %v, %d were not shown", say, silent)
	}
	if say, _ := r.note(now.Add(-time.Hour)); !say {
		t.Error("a clock that was set back silences the log")
	}
}
