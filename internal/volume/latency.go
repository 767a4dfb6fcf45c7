package volume

import (
	"math/bits"
	"sync/atomic"
	"time"

	"keelson/internal/block"
)

// Bounds of the latency histograms: 2^13 ns (8.2 µs), then doubling, up to 2^34 ns (17 s).
const (
	latencyFirst = 13
	latencyLast  = 34
)

// LatencyBuckets is the number of bounded buckets; the next one has what took longer.
const LatencyBuckets = latencyLast - latencyFirst + 1

// LatencyBound is the upper bound of a bounded bucket.
func LatencyBound(bucket int) time.Duration { return 1 << (latencyFirst + bucket) }

// histogram counts how long requests of one kind took, from Submit to their answer. A request costs two atomic additions.
type histogram struct {
	buckets [LatencyBuckets + 1]atomic.Uint64
	sum     atomic.Int64 // ns
}

func (h *histogram) observe(took time.Duration) {
	took = max(took, 0)
	bucket := bits.Len64(uint64(took)) - latencyFirst // took < 1<<Len
	h.buckets[min(max(bucket, 0), LatencyBuckets)].Add(1)
	h.sum.Add(int64(took))
}

// Latency is what a histogram holds; buckets are not cumulative.
type Latency struct {
	Op      block.Op
	Buckets [LatencyBuckets + 1]uint64
	Sum     time.Duration
}

// Latencies are the histograms of all operations since the volume was opened.
func (v *Volume) Latencies() []Latency {
	out := make([]Latency, len(v.latency))
	for op := range v.latency {
		out[op].Op, out[op].Sum = block.Op(op), time.Duration(v.latency[op].sum.Load())
		for i := range out[op].Buckets {
			out[op].Buckets[i] = v.latency[op].buckets[i].Load()
		}
	}
	return out
}

// clock is the time since the volume was opened: what Began of a request is.
func (v *Volume) clock() time.Duration { return time.Since(v.opened) }

// finish answers one request. What is answered within Submit is flushed by the submitter, else By.Flush follows.
func (v *Volume) finish(r *block.Request) {
	v.latency[r.Op].observe(v.clock() - r.Began)
	r.By.Complete(r)
}

// finishAll answers the requests of a queue, and flushes each of their completers once.
func (v *Volume) finishAll(q *queue) {
	if q.head == nil {
		return
	}
	now := v.clock()
	for r := q.head; r != nil; r = r.Next {
		v.latency[r.Op].observe(now - r.Began)
	}
	q.complete()
}

// OldestWait is how long the oldest write or flush that is not answered has waited; 0 if there is none.
func (v *Volume) OldestWait() time.Duration {
	now := v.clock()
	v.mu.Lock()
	defer v.mu.Unlock()
	oldest := now
	for _, q := range []*queue{&v.waiting, &v.flushes} {
		if q.head != nil {
			oldest = min(oldest, q.head.Began)
		}
	}
	return now - oldest
}
