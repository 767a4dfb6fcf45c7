package resync

import "time"

// Progress of one resync in bytes of the volume. The zero value has not started. Not safe for concurrent use.
type Progress struct {
	total, sent, skipped int64
	started, ended       time.Time
	last                 time.Time // of the last call that moved something
	finished             bool
	samples              [progressSamples]sample // a ring
	taken                int                     // samples ever taken
}

// sample is what was done at one moment.
type sample struct {
	at   time.Time
	done int64
}

// The speed is that of the last progressSamples * sampleEvery = 8 s.
const (
	progressSamples = 32
	sampleEvery     = 250 * time.Millisecond
	windowMin       = time.Second // no speed is told from less
)

// Start begins a resync of total bytes.
func (p *Progress) Start(now time.Time, total int64) {
	*p = Progress{total: total, started: now, last: now, taken: 1}
	p.samples[0].at = now
}

// Sent counts bytes of the volume that were sent as data.
func (p *Progress) Sent(now time.Time, bytes int64) {
	p.sent += bytes
	p.tick(now)
}

// Skipped counts bytes that were found equal or empty.
func (p *Progress) Skipped(now time.Time, bytes int64) {
	p.skipped += bytes
	p.tick(now)
}

// Finish ends a resync that came to its end. Stop ends one that may not have: it changes nothing after Finish.
func (p *Progress) Finish(now time.Time) { p.ended, p.finished = now, true }

// Stop ends an interrupted resync at the last moment at which something moved.
func (p *Progress) Stop() {
	if !p.finished && p.ended.IsZero() {
		p.ended = p.last
	}
}

// Report of a resync.
type Report struct {
	Total, Sent, Skipped int64 // bytes; Total is never less than Sent + Skipped
	PerSecond            int64 // bytes sent or skipped a second: over the last 8 seconds, or of the whole once it ended; 0: not known
	Left                 time.Duration
	LeftKnown            bool // false: too little was seen, or nothing moves
	Started              time.Time
	Ended                time.Time // zero: it runs
	Finished             bool      // it came to its end
}

// Report says how far it is.
func (p *Progress) Report(now time.Time) Report {
	done := p.sent + p.skipped
	r := Report{Total: max(p.total, done), Sent: p.sent, Skipped: p.skipped, Started: p.started, Ended: p.ended, Finished: p.finished}
	if !p.ended.IsZero() {
		r.LeftKnown = p.finished
		if d := p.ended.Sub(p.started); d > 0 {
			r.PerSecond = int64(float64(done) / d.Seconds())
		}
		return r
	}
	if p.started.IsZero() {
		return r
	}
	oldest := p.samples[0]
	if p.taken > progressSamples {
		oldest = p.samples[p.taken%progressSamples]
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

// tick takes a sample if one is due. While nothing moves there are no samples, and the window grows: the speed sinks.
func (p *Progress) tick(now time.Time) {
	p.last = now
	if p.taken == 0 || now.Sub(p.samples[(p.taken-1)%progressSamples].at) < sampleEvery {
		return
	}
	p.samples[p.taken%progressSamples] = sample{now, p.sent + p.skipped}
	p.taken++
}
