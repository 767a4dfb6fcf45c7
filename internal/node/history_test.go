package node

import (
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/volume"
)

// Who was source when: by the generations, and by what the servers said when they took the role.
func TestTenures(t *testing.T) {
	at := func(minute int) time.Time { return time.Date(2026, 11, 25, 12, minute, 0, 0, time.UTC) }
	gen := func(id byte, n uint64, node string) lineage.Generation {
		return lineage.Generation{ID: lineage.GenID{id}, Term: lineage.Term{N: n, Node: node}, Began: uint64(id) * 100}
	}
	history := lineage.History{gen(1, 1, "a"), gen(2, 1, "a"), gen(3, 2, "b"), gen(4, 23, "c")}
	events := []api.Event{
		{Node: "a", Time: at(1), Message: "switchover: b serves in term 2@b"},
		{Node: "a", Time: at(2), Message: "promised, term 23@c"}, // not its own
		{Node: "c", Time: at(3), Rule: lineage.RuleForced, Message: "c became the source by force, term 23@c; not reached: b"},
		{Node: "b", Time: at(4), Message: "took the role of source over from a, term 2@bb"}, // another server
	}
	want := []struct {
		why  string
		when time.Time
	}{{"created", time.Time{}}, {"restarted", time.Time{}}, {"switchover", at(1)}, {"forced", at(3)}}
	for i, got := range tenures(history, events) {
		if got.Why != want[i].why || !got.Time.Equal(want[i].when) || got.Node != history[i].Term.Node || got.Began != history[i].Began {
			t.Errorf("generation %d: %+v, not %v", i, got, want[i])
		}
	}
}

// A sample has the rates of its stretch, and the oldest make room.
func TestSamples(t *testing.T) {
	var s samples
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	status := func(n int64) volume.Status {
		return volume.Status{Counters: map[string]int64{"writes": n, "write_bytes": n << 12}, Links: map[string]volume.LinkStatus{"b": {LagBytes: n, Queued: 7}}}
	}
	took := func(n uint64) volume.Latency {
		l := volume.Latency{Op: block.Write, Sum: time.Duration(n) * time.Millisecond}
		l.Buckets[3] = n
		return l
	}
	for i := range api.SamplesMax + 10 {
		s.add(now.Add(time.Duration(i)*sampleEvery), status(int64(i)*50), took(uint64(i)))
	}
	list := s.list()
	last := list[len(list)-1]
	if len(list) != api.SamplesMax || last.Writes != 10 || last.WriteBytes != 40960 || last.Mirrors["b"].QueuedBytes != 7 || last.Latency == nil || *last.Latency != 0.001 {
		t.Errorf("%d samples, the last %+v", len(list), last)
	}
	s.add(now.Add(time.Hour*2), status(0), took(api.SamplesMax+9))
	if last = s.list()[api.SamplesMax-1]; last.Latency != nil {
		t.Errorf("a latency of no write: %v", *last.Latency)
	}
}
