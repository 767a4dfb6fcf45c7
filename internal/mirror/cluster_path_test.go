package mirror

import (
	"slices"
	"time"

	"keelson/internal/lineage"
)

// The simulated data path: sessions, frames, writes and answers.

func (c *cluster) dial(s *server, e Dial) {
	x := &session{s: s, t: c.find(e.Target), number: e.Session, dialed: c.now}
	x.asked = SessionAsked{From: s.name, Term: s.st.Served, Record: s.st.Clone().Record, History: slices.Clone(s.history), Position: s.pos}
	s.out[e.Target] = x
	c.post(s.name, e.Target, func() {
		t := x.t
		if x.accepted || x.tDead || x.asked.ID != 0 {
			return // a doubled message: the connection exists already
		}
		if c.disks != nil && s.out[e.Target] != x {
			return // who was split by an old word would need a session, which a source with a failed disk does not begin
		}
		c.nextID++
		ev := x.asked
		ev.ID, ev.Mine = c.nextID, t.own()
		x.id, x.asked.ID = c.nextID, c.nextID
		t.asked[ev.ID] = x
		t.inbox = append(t.inbox, ev)
	})
}

func (s *server) send(target string, frame any) {
	if x := s.out[target]; x != nil && !x.sDead && x.accepted {
		x.down = append(x.down, frame)
	}
}

func (s *server) hangup(target string) {
	if x := s.out[target]; x != nil {
		x.sEnds()
		delete(s.out, target)
		s.c.orphans(x)
	}
}

// orphans keeps the target's end of a stream alive whose source has gone: frames may still arrive.
func (c *cluster) orphans(x *session) {
	if !x.tDead {
		c.post(x.s.name, x.t.name, func() { x.t.endIn(x, "the source hung up") })
	}
}

func (s *server) accept(id uint64) {
	c, x := s.c, s.asked[id]
	delete(s.asked, id)
	if x == nil {
		return
	}
	if s.st.Promised.Less(x.asked.Term) {
		c.fail("promise: %s follows term %s before its promise is durable (%s)", s.name, x.asked.Term, s.st.Promised)
	}
	if x.asked.Term.Less(s.st.Promised) {
		c.fail("older term: %s follows %s of term %s though it promised %s", s.name, x.s.name, x.asked.Term, s.st.Promised)
	}
	if s.failed && s.m.failed != "" {
		c.fail("failed: %s follows %s with a copy that failed", s.name, x.s.name)
	}
	c.judgeFollow(s, x)
	s.dropIn()
	s.in, x.accepted = x, true
	x.up = append(x.up, frameUp{})
	if s.failed { // the data path takes none
		s.endIn(x, "the disk failed")
	}
}

func (s *server) refuse(e RefuseSession) {
	x := s.asked[e.ID]
	delete(s.asked, e.ID)
	if x == nil {
		return
	}
	s.c.count["refused "+e.Rule]++
	x.tDead = true
	promised := s.st.Promised
	s.c.post(s.name, x.s.name, func() {
		if x.s.out[s.name] != x {
			return // the connection is gone, perhaps with the process that made it
		}
		x.s.inbox = append(x.s.inbox, LinkRefused{Target: s.name, Session: x.number, Rule: e.Rule, Message: e.Message, Promised: promised})
	})
}

func (s *server) dropIn() {
	if s.in != nil {
		s.endIn(s.in, "dropped")
	}
}

func (s *server) endIn(x *session, why string) {
	x.tDead = true
	if s.in == x {
		s.in, s.lastIn = nil, x
		s.inbox = append(s.inbox, SessionEnded{x.id, why})
	}
}

// upkeep does one small piece of work of the session, at either end.
func (c *cluster) upkeep(x *session) {
	s, t := x.s, x.t
	if s.up && !x.sDead && s.out[t.name] == x && (x.tDead || !c.linked(s.name, t.name) || !t.up ||
		!x.accepted && c.now.Sub(x.dialed) > 500*time.Millisecond) {
		if c.rng.IntN(4) == 0 { // the source notices
			x.sEnds()
			delete(s.out, t.name)
			s.inbox = append(s.inbox, LinkDown{Target: t.name, Session: x.number, Why: "connection lost"})
		}
		return
	}
	if t.up && t.in == x && (x.sDead || !c.linked(s.name, t.name)) && len(x.down) == 0 && c.rng.IntN(4) == 0 {
		t.endIn(x, "connection lost")
	}
	switch c.rng.IntN(3) {
	case 0:
		if !x.sDead && s.serving && x.accepted && !x.ended && len(x.up) == 0 && !s.failed {
			s.resync(x)
		}
	case 1:
		if t.up && t.in == x && len(x.down) > 0 {
			f := x.down[0]
			x.down = x.down[1:]
			t.take(x, f)
		}
	case 2:
		if s.up && !x.sDead && s.out[t.name] == x && len(x.up) > 0 {
			f := x.up[0]
			x.up = x.up[1:]
			s.takeUp(x, f)
		}
	}
}

// resync sends everything, in two steps: the target is inconsistent in between.
func (s *server) resync(x *session) {
	if len(x.down) == 0 && s.c.rng.IntN(2) == 0 {
		x.down = append(x.down, frameBegin{})
		s.inbox = append(s.inbox, Compared{Target: x.t.name, Session: x.number, Kind: "partial"})
		return
	}
	x.ended = true
	x.down = append(x.down, frameEnd{slices.Clone(s.history), s.pos, slices.Clone(s.content), s.st.Clone().Record, s.st.Settings.Clone()})
}

// take applies a frame at the target.
func (t *server) take(x *session, f any) {
	switch f := f.(type) {
	case frameBegin:
		if t.anchor == nil {
			t.anchor = &anchor{t.history, t.pos, t.content}
		}
		agreed := lineage.CutBack(t.history, t.pos, x.asked.History, x.asked.Position)
		t.history, t.pos, t.consistent = lineage.CutHistory(t.history, agreed), agreed, "rolling"
		t.content = nil
	case frameEnd:
		t.history, t.pos, t.content, t.consistent = f.history, f.pos, f.content, "yes"
		t.anchor = nil
		if t.st.Record.Epoch.Compare(f.record.Epoch) < 0 {
			t.st.Record = f.record
		}
		if t.st.Settings.Version.Compare(f.settings.Version) < 0 {
			t.st.Settings = f.settings.Clone()
		}
		x.adopted, t.c.dirty = true, true
		t.inbox = append(t.inbox, Adopted{x.id, f.record, f.settings})
		x.up = append(x.up, frameEnded{last(t.content)})
	case frameWrite:
		if f.gen != nil {
			t.history = append(slices.Clone(t.history), *f.gen)
		}
		t.content = append(slices.Clone(t.content), f.write)
		t.pos = f.pos
		x.up = append(x.up, frameAck{f.write})
	case frameRecord:
		t.inbox = append(t.inbox, RecordCame{x.id, f.record})
	case frameSettings:
		t.inbox = append(t.inbox, SettingsCame{f.settings})
	case frameCheckpoint:
		x.up = append(x.up, frameChecked{t.pos.Number})
	}
}

func last(content []int) int {
	if len(content) == 0 {
		return 0
	}
	return content[len(content)-1]
}

// takeUp is a frame from the target at the source.
func (s *server) takeUp(x *session, f any) {
	var ev Event
	name := x.t.name
	switch f := f.(type) {
	case frameUp:
		ev = LinkUp{name, x.number}
	case frameEnded:
		x.inStep, x.acked = true, max(x.acked, f.last)
		x.need = s.lastAnswered()
		ev = InStep{name, x.number}
	case frameAck:
		x.acked = max(x.acked, f.last)
	case frameRecordAck:
		ev = RecordAcked{Target: name, Session: x.number, Epoch: f.epoch}
	case frameChecked:
		ev = CheckedThere{name, x.number, f.number}
	}
	if ev != nil {
		s.inbox = append(s.inbox, ev)
	}
	if x.inStep && !x.caught && x.acked >= x.need {
		x.caught = true
		s.inbox = append(s.inbox, Caught{name, x.number})
	}
}

// lastAnswered is the newest write of this content that was answered.
func (s *server) lastAnswered() int {
	n := 0
	for _, w := range s.content {
		if s.c.answered[w] && !slices.Contains(s.waiting, w) {
			n = w
		}
	}
	return n
}

// -- clients ---------------------------------------------------------------------------------------------------------------

func (s *server) client() {
	s.c.writes++
	if s.held || s.stands() {
		if len(s.holding) < 3 {
			s.holding = append(s.holding, s.c.writes)
		}
		return
	}
	s.write(s.c.writes)
}

func (s *server) write(w int) {
	var gen *lineage.Generation
	if !s.begun {
		gen = s.begin()
	}
	s.pos.Number++
	s.content = append(slices.Clone(s.content), w)
	s.waiting = append(s.waiting, w)
	for _, x := range s.out {
		if x.ended && !x.sDead {
			x.down = append(x.down, frameWrite{w, s.pos, gen})
		}
	}
}

// answer gives the answers that need to wait no longer.
func (s *server) answer() {
	for len(s.waiting) > 0 && !s.stands() {
		w := s.waiting[0]
		for _, n := range s.required {
			if x := s.out[n]; x == nil || !x.inStep || x.sDead {
				return
			}
		}
		for n, x := range s.out {
			if m := s.st.Settings.Find(n); x.inStep && !x.sDead && (m.Mode == lineage.Sync || s.failed && n == s.via) && x.acked < w {
				return
			}
		}
		s.waiting = s.waiting[1:]
		s.c.judgeAnswer(s, w)
		s.c.answered[w], s.c.dirty = true, true
		s.c.noteAnswer(s, w)
	}
}

// drained posts Drained when that is so.
func (s *server) drained() {
	if s.held && s.plan != "" && s.serving && len(s.waiting) == 0 && !s.stands() {
		s.inbox = append(s.inbox, Drained{s.plan, s.pos.Number})
		s.plan = ""
	}
}

// -- messages between agents -----------------------------------------------------------------------------------------------

func (c *cluster) deliverToken(s *server, h lineage.Heir) {
	c.post(s.name, h.Node, func() {
		t := c.find(h.Node)
		c.nextID++
		id := c.nextID
		t.tokens[id] = func(r Reply) {
			c.post(t.name, s.name, func() {
				s.inbox = append(s.inbox, TokenAnswer{Node: t.name, Plan: h.Plan, Taken: r.Rule == "", Rule: r.Rule, Why: r.Err})
			})
		}
		t.inbox = append(t.inbox, TokenCame{ID: id, From: s.name, Heir: h, Mine: t.own()})
	})
}

func (c *cluster) askPeers(s *server, nodes []string) {
	for _, n := range nodes {
		t := c.find(n)
		if !t.up || !c.linked(s.name, n) {
			c.post(s.name, s.name, func() { s.inbox = append(s.inbox, PeerLost{n, "no answer"}) })
			continue
		}
		c.post(s.name, n, func() { c.tell(t, s) })
	}
}

// tell sends one server's state to another.
func (c *cluster) tell(from, to *server) {
	info := from.info()
	c.post(from.name, to.name, func() { to.inbox = append(to.inbox, PeerSeen{from.name, info, to.own()}) })
}
