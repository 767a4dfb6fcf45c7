package mirror

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"keelson/internal/lineage"
)

// event reads one line of a script.
func (s *script) event(verb string, w *words) Event {
	switch verb {
	case "start":
		return Started{s.own}
	case "seen":
		return PeerSeen{w.next(), s.info(w), s.own}
	case "silent":
		return PeerLost{w.next(), "no answer"}
	case "add", "set", "pause", "continue", "break", "resync", "remove":
		return Command{ID: s.nextID(), Change: change(verb, w)}
	case "switchover":
		limit, _ := time.ParseDuration(w.opt("limit", "0s"))
		force, noCatchUp := w.flag("force"), w.flag("no-catch-up")
		return Command{ID: s.nextID(), Mine: s.own, Switch: &Switch{To: w.next(), Plan: w.opt("plan", "p1"), Limit: limit, Force: force, NoCatchUp: noCatchUp}}
	case "resolve":
		return Command{ID: s.nextID(), Mine: s.own, Resolve: &Resolve{w.opt("keep", "")}}
	case "disk-failed":
		return DiskFailed{w.rest()}
	case "disk-stalled":
		return DiskStalled{w.rest()}
	case "set-volume":
		set := &Set{Accept: w.flag("accept")}
		if text := w.opt("min-copies", ""); text != "" {
			n := int(w.number(text))
			set.MinCopies = &n
		}
		if text := w.opt("hold", ""); text != "" {
			on := text == "on"
			set.HoldCopies = &on
		}
		return Command{ID: s.nextID(), Set: set}
	}
	if ev := s.linkEvent(verb, w); ev != nil {
		return ev
	}
	if ev := s.forceEvent(verb, w); ev != nil {
		return ev
	}
	return s.targetLine(verb, w)
}

func (s *script) nextID() uint64 { s.id++; return s.id }

func change(verb string, w *words) Change {
	c := Change{Action: verb, Target: w.next()}
	if node, path, ok := strings.Cut(c.Target, ":"); ok {
		c.Target, c.Path = node, path
	}
	if v := w.opt("mode", ""); v != "" {
		mode := lineage.Mode(v)
		c.Mode = &mode
	}
	if v := w.opt("rate", ""); v != "" {
		n := w.number(v)
		rate := int64(n)
		c.Rate = &rate
	}
	return c
}

// linkEvent: events of a source's sessions are of the last one dialed unless #N names another.
func (s *script) linkEvent(verb string, w *words) Event {
	target, session := "", uint64(0)
	node := func() {
		name, number, other := strings.Cut(w.next(), "#")
		target, session = name, s.session[name]
		if other {
			session = w.number(number)
		}
	}
	switch verb {
	case "up":
		node()
		return LinkUp{target, session}
	case "refused":
		node()
		promised := w.term("promised", "0@-")
		return LinkRefused{Target: target, Session: session, Promised: promised, Rule: w.next(), Message: w.rest()}
	case "down":
		node()
		return LinkDown{Target: target, Session: session, Failed: w.flag("failed"), Rule: w.opt("rule", ""), Why: w.rest()}
	case "compared":
		node()
		return Compared{target, session, w.next(), int64(w.number(w.next()))}
	case "in-step":
		node()
		return InStep{target, session}
	case "caught":
		node()
		return Caught{target, session}
	case "acked":
		node()
		epoch := s.m.st.Record.Epoch
		if n := w.opt("n", ""); n != "" {
			epoch.N = w.number(n)
		}
		return RecordAcked{target, session, epoch}
	case "answers-wait":
		return AnswersWait{strings.Split(w.next(), ",")}
	case "drained":
		return Drained{w.opt("plan", "p1"), w.number(w.next())}
	case "checked-here":
		return CheckedHere{w.opt("plan", "p1"), lineage.Position{Gen: s.gen, Number: w.number(w.next())}}
	case "checked-there":
		node()
		return CheckedThere{target, session, w.number(w.next())}
	case "token-answer":
		e := TokenAnswer{Node: w.next(), Plan: w.opt("plan", "p1")}
		if e.Rule = w.next(); e.Rule == "taken" {
			e.Taken, e.Rule = true, ""
		}
		e.Why = w.rest()
		return e
	}
	return nil
}

// targetLine: events at a target.
func (s *script) targetLine(verb string, w *words) Event {
	switch verb {
	case "session-asked":
		e := SessionAsked{ID: s.nextID(), From: w.next(), Term: w.term("term", ""), Record: w.record("record", ""), Mine: s.mine(w)}
		e.History = w.history("history")
		e.Position = lineage.Position{Gen: e.History.Last().ID, Number: w.number(w.opt("at", "0"))}
		return e
	case "session-ended":
		return SessionEnded{Why: w.rest()}
	case "adopted":
		return Adopted{Record: w.record("record", ""), Settings: s.m.st.Settings}
	case "record":
		return RecordCame{Record: parseRecord(w, w.next())}
	case "rolled-back":
		return RolledBack{Record: parseRecord(w, w.next())}
	case "token":
		h := lineage.Heir{Node: w.opt("heir", s.m.cfg.Self), Term: w.term("term", ""), Plan: w.opt("plan", "p1"), Record: w.record("record", "")}
		h.Last = lineage.Position{Gen: w.gen("gen", "1"), Number: w.number(w.opt("last", "0"))}
		return TokenCame{ID: s.nextID(), From: w.opt("from", "a"), Heir: h, Mine: s.mine(w)}
	}
	s.t.Fatalf("no such event: %q", w.line)
	return nil
}

// mine is this replica: mine=1@a,2@b (the terms of its generations) holds=NUMBER, and inconsistent, unknown, failed, foreign.
func (s *script) mine(w *words) Own {
	own := Own{History: w.history("mine"), Consistent: "yes", Unknown: w.flag("unknown"), Failed: w.flag("failed"), Foreign: w.flag("foreign")}
	own.Position = lineage.Position{Gen: own.History.Last().ID, Number: w.number(w.opt("holds", "0"))}
	own.Floor = own.Position
	if w.flag("inconsistent") {
		own.Consistent = "no"
	}
	if w.flag("rolling") {
		own.Consistent = "rolling"
	}
	return own
}

func (s *script) info(w *words) PeerInfo {
	i := PeerInfo{Known: !w.flag("unknown"), Serving: w.flag("serving"), Failed: w.flag("failed"), Foreign: w.flag("foreign"), Stuck: w.opt("stuck", ""), Follows: w.opt("follows", ""), Role: lineage.Role(w.opt("role", "target")),
		Promised: w.term("promised", "0@-"), Served: w.term("served", "0@-"), Record: w.record("record", ""), Consistent: "yes"}
	if w.flag("settings-without-me") {
		i.Settings = s.m.st.Settings.Clone()
		i.Settings.Version.N += 10
		i.Settings.Find(s.m.cfg.Self).Removed = true
	}
	if holds := w.flag("holds-me"); holds || w.flag("accepted") {
		i.Settings = s.m.st.Settings.Clone()
		i.Settings.Version = lineage.Epoch{Term: i.Served, N: s.m.st.Settings.Version.N + 1}
		self := i.Settings.Find(s.m.cfg.Self)
		self.Paused, self.Held = holds, holds
	}
	if i.History = w.history("history"); len(i.History) > 0 {
		s.gen = i.History.Last().ID
	}
	i.Split = strings.ReplaceAll(w.opt("split", ""), "_", " ")
	i.Position = lineage.Position{Gen: s.gen, Number: w.number(w.opt("at", "0"))}
	return i
}

// words are the fields of one line: options and flags are taken out by name, the rest in order.
type words struct {
	t      *testing.T
	line   string
	fields []string
}

func (w *words) opt(name, otherwise string) string {
	for i, f := range w.fields {
		if v, ok := strings.CutPrefix(f, name+"="); ok {
			w.fields = slices.Delete(w.fields, i, i+1)
			return v
		}
	}
	return otherwise
}

func (w *words) flag(name string) bool {
	i := slices.Index(w.fields, name)
	if i >= 0 {
		w.fields = slices.Delete(w.fields, i, i+1)
	}
	return i >= 0
}

func (w *words) next() string {
	if len(w.fields) == 0 {
		w.t.Fatalf("%q: something is missing", w.line)
	}
	f := w.fields[0]
	w.fields = w.fields[1:]
	return f
}

func (w *words) rest() string {
	r := strings.Join(w.fields, " ")
	w.fields = nil
	return r
}

func (w *words) end() {
	if len(w.fields) > 0 {
		w.t.Fatalf("%q: what is %q?", w.line, w.fields[0])
	}
}

func (w *words) number(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		w.t.Fatalf("%q: %v", w.line, err)
	}
	return n
}

func (w *words) term(name, otherwise string) lineage.Term {
	n, node, _ := strings.Cut(w.opt(name, otherwise), "@")
	return lineage.Term{N: w.number(n), Node: node}
}

func (w *words) gen(name, otherwise string) lineage.GenID {
	return lineage.GenID{byte(w.number(w.opt(name, otherwise)))}
}

// record reads a,b/2@b.3: members a and b, epoch 3 of term 2@b.
func (w *words) record(name, otherwise string) lineage.Record {
	return parseRecord(w, w.opt(name, otherwise))
}

func parseRecord(w *words, s string) lineage.Record {
	if s == "" {
		return lineage.Record{}
	}
	members, epoch, _ := strings.Cut(s, "/")
	term, counter, _ := strings.Cut(epoch, ".")
	n, node, _ := strings.Cut(term, "@")
	return lineage.Record{Members: strings.Split(members, ","), Epoch: lineage.Epoch{Term: lineage.Term{N: w.number(n), Node: node}, N: w.number(counter)}}
}

// history reads 1@a,2@b: the n-th generation of each, beginning at 100 times n.
func (w *words) history(name string) lineage.History {
	var h lineage.History
	s := w.opt(name, "")
	if s == "" {
		return nil
	}
	for _, f := range strings.Split(s, ",") {
		n, node, _ := strings.Cut(f, "@")
		number := w.number(n)
		h = append(h, lineage.Generation{ID: lineage.GenID{byte(number), node[0]}, Term: lineage.Term{N: number, Node: node}, Began: 100 * number, Held: 100 * number})
	}
	h[0].ID = lineage.GenID{1}
	return h
}

// members reads a,b,c:async,d:paused.
func (w *words) members(name string) []lineage.Member {
	var out []lineage.Member
	for _, f := range strings.Split(w.opt(name, ""), ",") {
		parts := strings.Split(f, ":")
		m := lineage.Member{Node: parts[0], Path: "/vol/" + parts[0], Mode: lineage.Sync}
		for _, p := range parts[1:] {
			switch p {
			case "async":
				m.Mode = lineage.Async
			case "paused":
				m.Paused = true
			case "removed":
				m.Removed = true
			default:
				w.t.Fatalf("%q: what is %s?", w.line, p)
			}
		}
		out = append(out, m)
	}
	return out
}

func recordText(r lineage.Record) string {
	return fmt.Sprintf("%s (record %s.%d)", strings.Join(r.Members, ", "), r.Epoch.Term, r.Epoch.N)
}
