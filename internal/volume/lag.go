package volume

import "time"

// lag knows how far a target is behind in bytes and seconds, by samples of what was sent when. Guarded by Volume.mu.
type lag struct {
	samples   []sample // oldest first; what is not acknowledged
	total     int64    // bytes sent in this session
	confirmed int64    // bytes acknowledged
}

type sample struct {
	number uint64
	total  int64
	at     time.Time // of the first write in it
}

// Samples are as fine as that, and at most so many are kept: then neighbours are merged.
const (
	sampleEvery = 5 * time.Millisecond
	samplesMax  = 4096
)

func (g *lag) sent(number uint64, n int64) {
	g.total += n
	if k := len(g.samples); k > 0 {
		last := &g.samples[k-1]
		if now := time.Now(); now.Sub(last.at) > sampleEvery {
			if k == samplesMax {
				for i := range samplesMax / 2 {
					g.samples[i] = g.samples[2*i+1]
					g.samples[i].at = g.samples[2*i].at
				}
				g.samples = g.samples[:samplesMax/2]
			}
			g.samples = append(g.samples, sample{number, g.total, now})
		} else {
			last.number, last.total = number, g.total
		}
		return
	}
	g.samples = append(g.samples, sample{number, g.total, time.Now()})
}

func (g *lag) acked(number uint64) {
	i := 0
	for i < len(g.samples) && g.samples[i].number <= number {
		g.confirmed = g.samples[i].total
		i++
	}
	if i > 0 {
		g.samples = append(g.samples[:0], g.samples[i:]...)
	}
}

// behind returns the bytes and the time by which the target is behind.
func (g *lag) behind(now time.Time) (int64, time.Duration) {
	if len(g.samples) == 0 {
		return 0, 0
	}
	return g.total - g.confirmed, now.Sub(g.samples[0].at)
}
