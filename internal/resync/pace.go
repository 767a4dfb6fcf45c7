package resync

import "time"

// Pace is a token bucket of bytes a second. The zero value and NewPace are a full bucket. A piece larger than the bucket
// is paid for after it was taken, so that no limit is too small for a region. Not safe for concurrent use.
type Pace struct {
	owed float64 // bytes taken and not paid for
	at   time.Time
}

// paceBurst is how much of the rate may be taken at once after a rest.
const paceBurst = 100 * time.Millisecond

// NewPace makes a full bucket.
func NewPace() *Pace { return &Pace{} }

// Delay pays for that many bytes at now and returns how long to wait before the next piece. rate is in bytes a second and
// may change from call to call; 0 is no limit.
func (p *Pace) Delay(now time.Time, bytes, rate int64) time.Duration {
	if rate <= 0 {
		p.owed, p.at = 0, now
		return 0
	}
	if passed := now.Sub(p.at); !p.at.IsZero() && passed > 0 {
		p.owed = max(p.owed-passed.Seconds()*float64(rate), 0)
	}
	p.at = now
	p.owed += float64(bytes)
	wait := time.Duration(p.owed / float64(rate) * float64(time.Second))
	if wait <= paceBurst {
		return 0
	}
	return wait - paceBurst/2
}
