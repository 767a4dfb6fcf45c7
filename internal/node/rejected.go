package node

import (
	"sync"
	"time"
)

// Strangers cannot fill the log: of the connections that are turned away this many are written down in a minute, and of
// the others their number.
const (
	rejectedPerMinute = 20
	rejectedWindow    = time.Minute
)

// rejections counts the connections that were turned away.
type rejections struct {
	mu     sync.Mutex
	since  time.Time
	count  int
	silent int // of the last minute, not yet said
}

// note reports whether one more is to be written down, and how many before it were not.
func (r *rejections) note(now time.Time) (say bool, silent int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if age := now.Sub(r.since); age < 0 || age >= rejectedWindow {
		r.since, r.count = now, 0
	}
	if r.count >= rejectedPerMinute {
		r.silent++
		return false, 0
	}
	r.count++
	silent, r.silent = r.silent, 0
	return true, silent
}

// rejected notes a connection that was turned away.
func (n *Node) rejected(addr string, err error) {
	if say, silent := n.rejections.note(time.Now()); say {
		n.log.Warn("connection refused", "from", addr, "err", err, "not_shown_before", silent)
	}
}
