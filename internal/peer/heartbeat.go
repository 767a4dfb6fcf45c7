package peer

import (
	"time"

	"keelson/internal/lineage"
	"keelson/internal/wire"
)

// heartbeat is the goroutine that says that this side lives when nothing else does, and ends the stream when the peer is
// silent. It sets no deadlines and costs frames nothing: it looks at counters.
//
// Only silence that the reader waited through counts: a reader that is busy with the disk sees nothing, which says nothing
// about the peer. Time in which this process did not run does not count either.
func (c *Conn) heartbeat() {
	defer c.wg.Done()
	every := max(min(c.o.HeartbeatEvery, c.o.DeadAfter)/4, time.Millisecond)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var silent, idle time.Duration
	var frames uint64
	var got int64
	for last := time.Now(); ; {
		var now time.Time
		select {
		case <-c.done:
			return
		case now = <-ticker.C:
		}
		passed := min(now.Sub(last), 2*every)
		last = now

		silent += passed
		if n := c.got.Load(); n != got || !c.reading.Load() {
			got, silent = n, 0
		}
		if silent >= c.o.DeadAfter {
			_ = c.tcp.SetLinger(0) // nobody is there to take what the kernel still has
			c.fail(&SilentError{c.peer, c.o.DeadAfter})
			return
		}

		idle += passed
		if n := c.frames.Load(); n != frames || c.QueuedBytes() > 0 {
			frames, idle = n, 0
		}
		if idle >= c.o.HeartbeatEvery {
			c.Queue(wire.Header{Type: wire.TypePing, Number: c.sinceBegan()}, nil, nil)
			c.TryFlush()
		}
	}
}

// sinceBegan is the time of pings, in microseconds.
func (c *Conn) sinceBegan() uint64 {
	return uint64(time.Since(c.began).Microseconds()) & lineage.NumberMax
}
