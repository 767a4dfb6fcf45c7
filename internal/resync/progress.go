package resync

import "time"

// Progress of one resync in bytes of the volume. Not safe for concurrent use.
type Progress struct {
	total, sent, skipped int64
	started, ended       time.Time
	samples              [progressSamples]sample // a ring, one slot every sampleEvery
	count                int                     // samples ever taken
}

type sample struct {
	at   time.Time
	done int64
}

const (
	progressSamples = 32
	sampleEvery     = 250 * time.Millisecond
	windowMin       = time.Second // no speed is told from less
)

// NewProgress begins a resync of total bytes.
func NewProgress(total int64, now time.Time) *Progress {
	p := &Progress{total: total, started: now}
	p.samples[0], p.count = sample{at: now}, 1
	return p
}

// Sent counts bytes of the volume that were sent as data; Skipped those found equal or empty.
func (p *Progress) Sent(bytes int64, now time.Time) { p.sent += bytes; p.tick(now) }

// Skipped counts bytes that did not have to be sent.
func (p *Progress) Skipped(bytes int64, now time.Time) { p.skipped += bytes; p.tick(now) }

// Grow adds bytes to the total: a write put regions into the set that are not in step.
func (p *Progress) Grow(bytes int64) { p.total += bytes }

// End stops the clock.
func (p *Progress) End(now time.Time) { p.ended = now }

// Report of a resync.
type Report struct {
	Total, Sent, Skipped int64 // bytes; Total is never less than Sent + Skipped
	PerSecond            int64 // bytes sent or skipped a second, over the last seconds; the average once it ended
	Left                 time.Duration
	LeftKnown            bool // false: too little was seen, or nothing moves
	Started, Ended       time.Time
}

// Report says how far it is now.
func (p *Progress) Report(now time.Time) Report {
	done := p.sent + p.skipped
	r := Report{Total: max(p.total, done), Sent: p.sent, Skipped: p.skipped, Started: p.started, Ended: p.ended}
	if !p.ended.IsZero() {
		r.LeftKnown = true
		if d := p.ended.Sub(p.started); d > 0 {
			r.PerSecond = int64(float64(done) / d.Seconds())
		}
		return r
	}
	oldest := p.samples[0]
	if p.count > progressSamples {
		oldest = p.samples[p.count%progressSamples]
	}
	window := now.Sub(oldest.at)
	if window < windowMin {
		return r
	}
	r.PerSecond = int64(float64(done-oldest.done) / window.Seconds())
	if r.PerSecond > 0 {
		r.Left = time.Duration(float64(r.Total-done) / float64(r.PerSecond) * float64(time.Second))
		r.LeftKnown = true
	}
	return r
}

func (p *Progress) tick(now time.Time) {
	last := p.samples[(p.count-1)%progressSamples]
	if now.Sub(last.at) < sampleEvery {
		return
	}
	p.samples[p.count%progressSamples] = sample{at: now, done: p.sent + p.skipped}
	p.count++
}
