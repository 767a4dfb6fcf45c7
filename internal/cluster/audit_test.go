package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson/internal/vfs"
)

// exchange gives each what it lacks of the other's lines, until neither lacks any.
func exchange(t *testing.T, a, b *Store) {
	t.Helper()
	for more := true; more; {
		more = false
		for _, way := range [][2]*Store{{a, b}, {b, a}} {
			lines, err := way[0].AuditAfter(way[1].AuditHeads())
			must(t, err)
			must(t, way[1].AuditMerge(lines))
			more = more || len(lines) > 0
		}
	}
}

func lines(t *testing.T, s *Store, q AuditQuery) []string {
	t.Helper()
	all, err := s.AuditQuery(q)
	must(t, err)
	var out []string
	for _, l := range all {
		out = append(out, l.Node+" "+l.Who+" "+l.What+" "+l.Object+" "+l.Result)
	}
	return out
}

// Every member has every line, also those of a server that it never met, each once.
func TestAuditIsOnEveryMember(t *testing.T) {
	a, b, c := open(t, vfs.NewMem(1), "a"), open(t, vfs.NewMem(2), "b"), open(t, vfs.NewMem(3), "c")
	must(t, a.Audit(Line{Kind: WhoLocal, Who: "root", What: "CreateVolume", Object: "volume data", Result: Done}))
	must(t, b.Audit(Line{Kind: WhoPage, Who: "anna", What: "Switchover", Object: "volume data", Result: Refused, Rule: "needs-force"}))
	exchange(t, a, b)
	exchange(t, b, c)
	exchange(t, b, c)
	must(t, c.Audit(Line{Kind: WhoLocal, Who: "root", What: "RemoveNode", Object: "node a", Result: Done}))
	exchange(t, c, a)
	want := []string{"a root CreateVolume volume data done", "b anna Switchover volume data refused", "c root RemoveNode node a done"}
	if got := lines(t, a, AuditQuery{}); len(got) != 3 || !slices.Equal(sorted(got), want) {
		t.Errorf("a has %q", got)
	}
	if got := lines(t, c, AuditQuery{Object: "volume data", Who: "anna"}); len(got) != 1 || got[0] != want[1] {
		t.Errorf("c answers %q", got)
	}
	if got := lines(t, c, AuditQuery{Limit: 1}); len(got) != 1 {
		t.Errorf("limit 1 gives %q", got)
	}
}

func sorted(s []string) []string { s = slices.Clone(s); slices.Sort(s); return s }

// Numbers never go back: after a restart with a clock that was set back, and after the log of a server was lost.
func TestAuditNumbersGoUp(t *testing.T) {
	mem := vfs.NewMem(1)
	a, b := open(t, mem, "a"), open(t, vfs.NewMem(2), "b")
	must(t, a.Audit(Line{What: "first", Result: Done}))
	exchange(t, a, b)
	must(t, a.Close())
	a, err := Open(mem, dir, "a", Options{Now: func() time.Time { return time.Unix(0, 0) }})
	must(t, err)
	must(t, a.Audit(Line{What: "second", Result: Done}))
	exchange(t, a, b)
	if got := lines(t, b, AuditQuery{}); len(got) != 2 {
		t.Errorf("b has %q", got)
	}
	must(t, a.Close())
	a = open(t, vfs.NewMem(3), "a") // an empty disk
	exchange(t, a, b)
	must(t, a.Audit(Line{What: "third", Result: Done}))
	exchange(t, a, b)
	if got := lines(t, b, AuditQuery{}); len(got) != 3 {
		t.Errorf("b has %q", got)
	}
	if got := lines(t, a, AuditQuery{}); len(got) != 3 {
		t.Errorf("a has %q: its own lines did not come back", got)
	}
}

// The log is bounded, and what was forgotten is not sent again by members that still have it.
func TestAuditIsBounded(t *testing.T) {
	mem := vfs.NewMem(1)
	a, b := open(t, mem, "a"), open(t, vfs.NewMem(2), "b")
	a.audit.max = 1 << 20
	must(t, b.Audit(Line{What: "the oldest", Result: Done}))
	exchange(t, a, b)
	for range 2*a.audit.max/(AuditBatchMax*2*fieldBytesMax) + 1 {
		var batch []Line
		heads := a.AuditHeads()
		for i := range AuditBatchMax {
			batch = append(batch, Line{Node: "z", Seq: heads["z"] + uint64(i) + 1, What: strings.Repeat("x", fieldBytesMax), Detail: strings.Repeat("y", fieldBytesMax), Result: Done})
		}
		must(t, a.AuditMerge(batch))
	}
	if got := lines(t, a, AuditQuery{Node: "b"}); len(got) > 0 {
		t.Errorf("the oldest line is still there: %q", got)
	}
	total := int64(0)
	for _, name := range []string{auditFile, auditOld} {
		st, err := mem.Stat(dir + "/" + name)
		must(t, err)
		total += st.Size
	}
	if total > 2*a.audit.max {
		t.Errorf("the log has %d bytes", total)
	}
	must(t, a.Close())
	a = open(t, mem, "a")
	if more, err := b.AuditAfter(a.AuditHeads()); err != nil || len(more) > 0 {
		t.Errorf("what a has forgotten is sent again: %d lines, %v", len(more), err)
	}
}

// Damage costs what is behind it until the next exchange, and no start.
func TestDamagedAuditComesBack(t *testing.T) {
	mem := vfs.NewMem(1)
	a, b := open(t, mem, "a"), open(t, vfs.NewMem(2), "b")
	for i := range 5 {
		must(t, b.Audit(Line{What: fmt.Sprint("call ", i), Result: Done}))
	}
	exchange(t, a, b)
	must(t, a.Close())
	for _, at := range []int64{0, 200} { // its first line; one of the others
		f, err := mem.Open(dir+"/"+auditFile, 0)
		must(t, err)
		_, err = f.WriteAt([]byte("!"), at)
		must(t, err)
		must(t, f.Close())
		a = open(t, mem, "a")
		if got := lines(t, a, AuditQuery{}); len(got) >= 5 {
			t.Fatalf("the damage at %d did nothing", at)
		}
		if _, err := mem.Stat(dir + "/" + auditDamaged); err != nil {
			t.Errorf("what was damaged was thrown away: %v", err)
		}
		exchange(t, a, b)
		if got := lines(t, a, AuditQuery{}); len(got) != 5 {
			t.Errorf("after damage at %d and an exchange a has %q", at, got)
		}
		must(t, a.Close())
	}
}

// A disk without room refuses the line, keeps what is there, and takes lines again when there is room.
func TestAuditWithoutRoom(t *testing.T) {
	mem := vfs.NewMem(1)
	a := open(t, mem, "a")
	must(t, a.Audit(Line{What: "before", Result: Done}))
	mem.SetFree(0)
	refused := false
	for range 50 {
		if a.Audit(Line{What: strings.Repeat("x", 500), Result: Done}) != nil {
			refused = true
			break
		}
	}
	mem.SetFree(-1)
	must(t, a.Audit(Line{What: "after", Result: Done}))
	got := lines(t, a, AuditQuery{})
	if !refused || !strings.Contains(got[0], "before") || !strings.Contains(got[len(got)-1], "after") {
		t.Errorf("refused %v, then %q", refused, got)
	}
}

// What callers give is cut to size and made text; what members give must be right.
func TestAuditTexts(t *testing.T) {
	a := open(t, vfs.NewMem(1), "a")
	must(t, a.Audit(Line{What: "x\xff\n", Detail: strings.Repeat("ä", 1000), Result: Done}))
	got, err := a.AuditQuery(AuditQuery{})
	must(t, err)
	if len(got) != 1 || got[0].What != "x?\n" || len(got[0].Detail) > fieldBytesMax {
		t.Errorf("%+v", got)
	}
	bad := Line{Node: "../b", Seq: 1, What: "x", Result: Done}
	long := Line{Node: "b", Seq: 1, What: strings.Repeat("x", fieldBytesMax+1), Result: Done}
	for _, l := range []Line{bad, long, {Node: "b"}} {
		if err := a.AuditMerge([]Line{l}); err == nil {
			t.Errorf("%.100v was taken", l)
		}
	}
	if err := a.AuditMerge(make([]Line, AuditBatchMax+1)); err == nil {
		t.Error("more lines than there may be at once were taken")
	}
}
