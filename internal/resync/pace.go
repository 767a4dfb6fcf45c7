package resync

import "time"

// Pace is a token bucket of bytes: at most rate bytes a second, with a burst of a tenth of a second, but never
// less than one piece, so that a piece larger than the burst is paid for after it was taken.
type Pace struct {
	rate   int64 // bytes a second; 0: no limit
	tokens float64
	at     time.Time
}

const paceBurst = 100 * time.Millisecond

// SetRate changes the limit in bytes a second; 0 is none.
func (p *Pace) SetRate(rate int64, now time.Time) {
	p.fill(now)
	p.rate = max(rate, 0)
	p.tokens = min(p.tokens, p.burst())
}

// Take pays for n bytes and returns how long to wait before the next piece; 0: go on.
func (p *Pace) Take(n int64, now time.Time) time.Duration {
	if p.rate == 0 {
		return 0
	}
	p.fill(now)
	p.tokens -= float64(n)
	return p.owed()
}

// Wait is how long to wait before the next piece; 0: go on.
func (p *Pace) Wait(now time.Time) time.Duration {
	if p.rate == 0 {
		return 0
	}
	p.fill(now)
	return p.owed()
}

func (p *Pace) owed() time.Duration {
	if p.tokens >= 0 {
		return 0
	}
	return time.Duration(-p.tokens / float64(p.rate) * float64(time.Second))
}

func (p *Pace) burst() float64 { return float64(p.rate) * paceBurst.Seconds() }

func (p *Pace) fill(now time.Time) {
	if passed := now.Sub(p.at); !p.at.IsZero() && passed > 0 {
		p.tokens = min(p.tokens+passed.Seconds()*float64(p.rate), p.burst())
	}
	if p.at.IsZero() || now.After(p.at) {
		p.at = now
	}
}
