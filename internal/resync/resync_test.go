package resync_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"keelson/internal/lineage"
	"keelson/internal/resync"
)

// TestSetIsASet compares Set with a map, over random operations.
func TestSetIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(1, 200).Draw(t, "size")
		region := rapid.Int64Range(0, size-1)
		set, want := resync.NewSet(size), map[int64]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				r := region.Draw(t, "region")
				if set.Add(r) == want[r] {
					t.Fatalf("Add(%d)", r)
				}
				want[r] = true
			},
			"remove": func(t *rapid.T) {
				r := region.Draw(t, "region")
				if set.Remove(r) != want[r] {
					t.Fatalf("Remove(%d)", r)
				}
				delete(want, r)
			},
			"add all": func(*rapid.T) {
				set.AddAll()
				for r := range size {
					want[r] = true
				}
			},
			"": func(t *rapid.T) {
				if set.Len() != int64(len(want)) {
					t.Fatalf("Len %d, %d regions", set.Len(), len(want))
				}
				next, ok := int64(0), false
				from := rapid.Int64Range(-1, size).Draw(t, "from")
				for r := max(from, 0); r < size && !ok; r++ {
					next, ok = r, want[r]
				}
				got, found := set.Next(from)
				if found != ok || ok && got != next {
					t.Fatalf("Next(%d) is %d %v, not %d %v", from, got, found, next, ok)
				}
				if ok && !set.Any(from, next) || from >= 0 && next > from && ok && set.Any(from, next-1) {
					t.Fatalf("Any(%d, %d)", from, next)
				}
			},
		})
	})
}

func TestEachKindNamesItsRule(t *testing.T) {
	for _, c := range []struct {
		facts resync.Facts
		kind  resync.Kind
		rule  string
	}{
		{resync.Facts{Full: true, Common: true}, resync.Full, lineage.RuleFullAsked},
		{resync.Facts{Common: true}, resync.None, lineage.RuleVersionsEqual},
		{resync.Facts{}, resync.None, lineage.RuleVersionsEqual},
		{resync.Facts{Common: true, Differ: 3}, resync.Partial, lineage.RuleVersionsDiffer},
		{resync.Facts{Differ: 3, OnlyZeroes: true}, resync.Partial, lineage.RuleOnlyZeroes},
		{resync.Facts{Differ: 3}, resync.Compare, lineage.RuleForeignContent},
	} {
		kind, rule := resync.Decide(c.facts)
		if kind != c.kind || rule != c.rule {
			t.Errorf("%+v: %s by %s, not %s by %s", c.facts, kind, rule, c.kind, c.rule)
		}
		if _, ok := lineage.FindRule(rule); !ok {
			t.Errorf("rule %s is not in the table", rule)
		}
	}
}

// TestPaceKeepsTheRate: over ten seconds of pieces of any size, what was taken is the rate, but for one burst and one piece.
func TestPaceKeepsTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1000, 1<<30).Draw(t, "rate")
		piece := rapid.Int64Range(1, 4<<20).Draw(t, "piece")
		start := time.Unix(0, 0)
		now, taken, pace := start, int64(0), resync.NewPace()
		for i := 0; i < 5000 && now.Sub(start) < 10*time.Second; i++ {
			taken += piece
			now = now.Add(pace.Delay(now, piece, rate) + time.Microsecond)
		}
		allowed := int64(now.Sub(start).Seconds()*float64(rate)) + rate/10 + 2*piece
		if taken > allowed {
			t.Fatalf("%d bytes in %s at %d bytes/s", taken, now.Sub(start), rate)
		}
		if now.Sub(start) >= 10*time.Second && taken < int64(8*float64(rate)) {
			t.Fatalf("only %d bytes in %s at %d bytes/s", taken, now.Sub(start), rate)
		}
	})
}

func TestPaceWithoutLimitNeverWaits(t *testing.T) {
	var pace resync.Pace
	for i := range 100 {
		if d := pace.Delay(time.Unix(int64(i), 0), 1<<30, 0); d != 0 {
			t.Fatalf("waits %s", d)
		}
	}
}

// TestEstimateIsHonest: none before enough was seen, then by the speed of the last seconds and not of the whole.
func TestEstimateIsHonest(t *testing.T) {
	const mib = 1 << 20
	now := time.Unix(0, 0)
	var p resync.Progress
	if r := p.Report(now); r.LeftKnown || r.Total != 0 {
		t.Errorf("before the start: %+v", r)
	}
	p.Start(now, 1000*mib)
	pass := func(seconds int, speed int64) {
		for range 10 * seconds {
			now = now.Add(100 * time.Millisecond)
			if speed > 0 {
				p.Sent(now, speed/10)
			}
		}
	}
	now = now.Add(500 * time.Millisecond)
	p.Sent(now, 5*mib)
	if r := p.Report(now); r.LeftKnown {
		t.Errorf("after half a second: %+v", r)
	}
	pass(10, 50*mib)
	if r := p.Report(now); !r.LeftKnown || r.PerSecond < 45*mib || r.PerSecond > 55*mib {
		t.Errorf("at 50 MiB/s: %+v", r)
	}
	pass(10, 5*mib) // the disk is busy now
	if r := p.Report(now); r.PerSecond > 6*mib || r.Left < 70*time.Second || r.Left > 100*time.Second {
		t.Errorf("at 5 MiB/s: %+v", r)
	}
	pass(60, 0)
	if r := p.Report(now); r.PerSecond > mib || r.LeftKnown && r.Left < 8*time.Minute {
		t.Errorf("stalled for a minute: %+v", r)
	}
	p.Skipped(now, 2000*mib)
	if r := p.Report(now); r.Total < r.Sent+r.Skipped || r.Left != 0 {
		t.Errorf("more done than was thought: %+v", r)
	}
	p.Finish(now)
	p.Stop()
	if r := p.Report(now.Add(time.Hour)); !r.Finished || r.Ended != now || r.Left != 0 || !r.LeftKnown {
		t.Errorf("finished: %+v", r)
	}
}

func TestStopEndsWhereItMovedLast(t *testing.T) {
	start := time.Unix(0, 0)
	var p resync.Progress
	p.Start(start, 100)
	p.Sent(start.Add(time.Second), 50)
	p.Stop()
	if r := p.Report(start.Add(time.Hour)); r.Finished || r.Ended != start.Add(time.Second) || r.PerSecond != 50 || r.LeftKnown {
		t.Errorf("%+v", r)
	}
}
