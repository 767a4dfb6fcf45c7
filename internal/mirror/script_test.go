package mirror

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson/internal/lineage"
)

var update = flag.Bool("update", false, "write what the machine does now into testdata/*.txt")

// TestScripts runs testdata/*.txt: each line that begins with "> " is something that happens at one server; the lines below it,
// up to the next empty line, are what the server does about it, in its order. `> view` prints what status shows.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(text) {
				t.Errorf("%s: the machine does something else now (-update writes it):\n%s", file, firstDifference(string(text), got))
			}
		})
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	command := ""
	for i := range max(len(w), len(g)) {
		a, b := "(end)", "(end)"
		if i < len(w) {
			a = w[i]
		}
		if i < len(g) {
			b = g[i]
		}
		if strings.HasPrefix(a, "> ") {
			command = a
		}
		if a != b {
			return "after " + command + "\nwant " + a + "\ngot  " + b
		}
	}
	return ""
}

// runScript returns the script with what the machine did in place of what was expected.
func runScript(t *testing.T, text string) string {
	s := &script{t: t, now: time.Unix(0, 0)}
	var out strings.Builder
	skipping := false
	for _, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "> "):
			out.WriteString(line + "\n" + s.line(strings.TrimPrefix(line, "> ")))
			skipping = true
		case line == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
			skipping = false
		case !skipping:
			t.Fatalf("a line that is neither an event, a comment nor output: %q", line)
		}
	}
	return out.String()
}

// script is one machine, and what its events need to know of what it did.
type script struct {
	t       *testing.T
	now     time.Time
	m       *Machine
	saved   lineage.Standing
	session map[string]uint64 // the last one dialed
	gen     lineage.GenID
	id      uint64
	asked   GiveUp
	own     Own // as the start finds it, and every command
}

// line lets one line happen and returns what was done.
func (s *script) line(line string) string {
	w := &words{t: s.t, line: line, fields: strings.Fields(line)}
	verb := w.next()
	switch verb {
	case "machine":
		s.machine(w)
		return ""
	case "restart":
		s.m = New(s.m.cfg, s.saved)
		return s.step(Started{s.own})
	case "mine":
		s.own = s.mine(w)
		s.m.Know(s.own)
		w.end()
		return ""
	case "view":
		s.m.Know(s.own)
		return printView(s.m.View(), s.now)
	case "plan":
		s.m.Know(s.own)
		return printPlan(s.m.Facts(w.next()))
	case "after":
		d, err := time.ParseDuration(w.next())
		if err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		s.now = s.now.Add(d)
		return s.step(Tick{})
	}
	ev := s.event(verb, w)
	w.end()
	return s.step(ev)
}

func (s *script) step(ev Event) string {
	var out strings.Builder
	for _, e := range s.m.Step(s.now, ev) {
		out.WriteString(s.print(e) + "\n")
	}
	return out.String()
}

// machine makes the machine: machine SELF role=.. promised=.. served=.. record=.. members=..
func (s *script) machine(w *words) {
	self := w.next()
	s.gen, s.session = lineage.GenID{1}, map[string]uint64{}
	st := lineage.Standing{Role: lineage.Role(w.opt("role", "target")), Promised: w.term("promised", "0@-"), Served: w.term("served", "0@-"), Record: w.record("record", "")}
	st.Settings.Members = w.members("members")
	st.Settings.HoldCopies = w.flag("hold")
	st.Discard = w.flag("discard")
	st.Settings.Version.Term = lineage.Term{N: 1, Node: "a"}
	if st.Promised == (lineage.Term{Node: "-"}) {
		st.Promised = lineage.Term{}
	}
	if s.own = s.mine(w); len(s.own.History) == 0 && len(st.Record.Members) > 1 {
		s.own.History = lineage.History{{ID: s.gen, Term: lineage.Term{N: 1, Node: "a"}}}
		s.own.Position.Gen = s.gen
	}
	w.end()
	s.m = New(Config{Self: self}, st)
	s.saved = st.Clone()
}
