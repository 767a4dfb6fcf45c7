package peer

import "time"

// Limits of pacing.
const (
	pacedBytesMin = 4 << 10
	paceCredit    = 20 * time.Millisecond // a late sender may catch up so much
	burstsASecond = 20
)

// SetRate limits sending to so many bytes a second from now on, 0: without limit. While there is a limit only the sender
// goroutine sends.
func (c *Conn) SetRate(bytesPerSecond int64) {
	c.mu.Lock()
	c.rate = max(0, bytesPerSecond)
	c.mu.Unlock()
	select {
	case c.repace <- struct{}{}:
	default:
	}
}

// pace waits until what was just sent has been paid for, and returns how much may be sent next. Only the sender goroutine
// calls it.
func (c *Conn) pace(sent int) (bytesMax int) {
	for {
		c.mu.Lock()
		rate := c.rate
		c.mu.Unlock()
		if rate == 0 {
			return gatherBytesMax
		}
		now := time.Now()
		if oldest := now.Add(-paceCredit); c.paced.Before(oldest) {
			c.paced = oldest
		}
		c.paced = c.paced.Add(time.Duration(float64(sent) / float64(rate) * float64(time.Second)))
		sent = 0
		wait := c.paced.Sub(now)
		if wait <= 0 {
			return int(min(max(rate/burstsASecond, pacedBytesMin), gatherBytesMax))
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-c.repace:
			c.paced = time.Time{}
		case <-c.done:
			timer.Stop()
			return gatherBytesMax // next sees the end
		}
		timer.Stop()
	}
}
