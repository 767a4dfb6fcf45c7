package mirror

import (
	"fmt"
	"slices"
	"time"

	"keelson/internal/lineage"
)

// reckless is what a history with forced take-overs knows besides.
type reckless struct {
	mixed   bool                       // some mirrors are async
	answers map[int]answer             // by write
	waived  map[int]bool               // lost by an administrator's word
	forced  bool                       // somebody took over by force
	fenced  map[lineage.Term][]*server // who promised
	heard   map[lineage.Term][]*server // whose promise came back in time
	held    map[string]lineage.Term    // whose copy has to stay as it is, since the take-over in that term; nil: the volume has no hold-old-copies
}

// answer is how a write was answered.
type answer struct {
	by      string
	members []string // sync ones, and the source
	at      time.Time
	term    lineage.Term
	gen     lineage.GenID
}

// anchor is the consistent state of a target in the middle of a resync.
type anchor struct {
	history lineage.History
	pos     lineage.Position
	content []int
}

// wish is an administrator's force or resolve, with what was known when it was asked for.
type wish struct {
	noCatchUp bool
	careful   bool     // the plan said that nothing answered is at risk
	follow    *session // that it followed, in step
	resolve   string
}

func newReckless(seed uint64, omit string, verbose bool) *cluster {
	return startCluster(seed, omit, verbose, startReckless())
}

func startReckless() *reckless {
	return &reckless{answers: map[int]answer{}, waived: map[int]bool{}, fenced: map[lineage.Term][]*server{}, heard: map[lineage.Term][]*server{}}
}

func (x *session) sEnds() {
	if !x.sDead {
		x.sDead, x.sDeadAt = true, x.s.c.now
	}
}

func (c *cluster) newestPromise() lineage.Term {
	var top lineage.Term
	for _, s := range c.servers {
		if top.Less(s.st.Promised) {
			top = s.st.Promised
		}
	}
	return top
}

func (c *cluster) noteAnswer(s *server, w int) {
	if c.reckless == nil {
		return
	}
	a := answer{by: s.name, members: []string{s.name}, at: c.now, term: s.st.Served, gen: s.pos.Gen}
	for _, n := range s.st.Record.Members {
		if m := s.st.Settings.Find(n); n != s.name && m.Mode == lineage.Sync {
			a.members = append(a.members, n)
		}
	}
	c.reckless.answers[w] = a
	if s.st.Served.Less(c.newestPromise()) {
		c.reckless.waived[w] = true
	}
}

// -- the machine's wishes --------------------------------------------------------------------------------------------------

func (s *server) doForced(e Effect) {
	switch e := e.(type) {
	case Fence:
		for _, n := range e.Nodes {
			s.c.fence(s, s.c.find(n), e)
		}
	case RollBack:
		if a := s.anchor; a != nil {
			s.history, s.pos, s.content, s.consistent, s.anchor = a.history, a.pos, a.content, "yes", nil
			s.c.count["rolled back"]++
		}
	case GiveUp:
		s.c.giveUp(s, e)
	}
}

func (c *cluster) fence(s, t *server, e Fence) {
	if s == t {
		s.inbox = append(s.inbox, FenceAnswer{Plan: e.Plan, Node: s.name, OK: true, Survivor: s.own().Survivor(s.name, s.st.Clone().Record), Mine: s.own()})
		return
	}
	answer := func(a FenceAnswer) {
		a.Plan, a.Node = e.Plan, t.name
		c.post(t.name, s.name, func() { s.inbox = append(s.inbox, a) })
	}
	if !t.up || !c.linked(s.name, t.name) {
		c.post(s.name, s.name, func() { s.inbox = append(s.inbox, FenceAnswer{Plan: e.Plan, Node: t.name, Why: "no answer"}) })
		return
	}
	c.post(s.name, t.name, func() {
		c.nextID++
		t.tokens[c.nextID] = func(r Reply) {
			if r.Rule != "" {
				answer(FenceAnswer{Rule: r.Rule, Why: r.Err})
				return
			}
			t.said = later2(t.said, e.Term)
			if t.st.Promised.Less(e.Term) {
				c.fail("promise: %s says that it promised %s, durable is %s", t.name, e.Term, t.st.Promised)
			}
			if c.reckless != nil {
				c.reckless.fenced[e.Term] = append(c.reckless.fenced[e.Term], t)
			}
			answer(FenceAnswer{OK: true, Survivor: t.own().Survivor(t.name, t.st.Clone().Record)})
		}
		t.inbox = append(t.inbox, FenceAsked{ID: c.nextID, From: s.name, Term: e.Term, Mine: t.own()})
	})
}

func (c *cluster) heardAnswer(s *server, ev Event) {
	if a, ok := ev.(FenceAnswer); ok && c.reckless != nil && a.OK && s.m.force != nil && s.m.force.data.ID == a.Plan {
		c.reckless.heard[s.m.force.term] = append(c.reckless.heard[s.m.force.term], c.find(a.Node))
	}
}

func later2(a, b lineage.Term) lineage.Term {
	if a.Less(b) {
		return b
	}
	return a
}

func (c *cluster) giveUp(s *server, e GiveUp) {
	t := c.find(e.Node)
	answer := func(from string, a GiveUpAnswer) {
		a.Node, a.Term, a.New = t.name, e.Term, e.New
		c.post(from, s.name, func() { s.inbox = append(s.inbox, a) })
	}
	if !t.up || !c.linked(s.name, t.name) {
		answer(s.name, GiveUpAnswer{Why: "no answer"})
		return
	}
	c.post(s.name, t.name, func() {
		c.nextID++
		t.tokens[c.nextID] = func(r Reply) {
			c.count["give up "+r.Rule]++
			answer(t.name, GiveUpAnswer{OK: r.Rule == "", Rule: r.Rule, Why: r.Err})
		}
		t.inbox = append(t.inbox, GiveUpAsked{ID: c.nextID, From: s.name, Term: e.Term, New: e.New})
	})
}

// -- what must hold --------------------------------------------------------------------------------------------------------

// judgeOpen: only an administrator's force may open without an answered write, and not without one that a survivor which
// promised had to have; and where the plan says that nothing is at risk nothing is lost that the old source answered
// before its session ended.
func (c *cluster) judgeOpen(s *server) {
	r, w := c.reckless, c.opensByForce(s)
	if r.forced = r.forced || w != nil; w != nil {
		c.waive(s)
	}
	s.was = true
	if s.st.Served.Less(s.said) {
		c.fail("promise: %s opens in term %s though it promised %s", s.name, s.st.Served, s.said)
	}
	for _, o := range c.servers {
		if o == s || !o.serving {
			continue
		}
		if !r.forced && w == nil || slices.Contains(r.fenced[s.st.Served], o) && o.st.Served.Less(s.st.Served) {
			c.fail("two sources: %s opens in term %s while %s serves in term %s", s.name, s.st.Served, o.name, o.st.Served)
		}
	}
	for n, a := range r.answers {
		if !r.waived[n] && !s.holds(n) && c.mustHold(s, a) {
			c.fail("lost write: %s opens in term %s without write %d, answered by %s in term %s", s.name, s.st.Served, n, r.answers[n].by, r.answers[n].term)
		}
	}
}

// mustHold: whoever opens without force holds what was answered in its own line; and a source that opens again, what was
// answered in a newer term, unless that is so new that those whom it asked did not know of it yet.
func (c *cluster) mustHold(s *server, a answer) bool {
	if s.history.Find(a.gen) >= 0 {
		return true
	}
	return s.lazy && s.st.Served.Less(a.term) && c.now.Sub(a.at) > 5*time.Second
}

// judgeBecome: from here on a take-over is durable, whether or not the device is opened.
func (c *cluster) judgeBecome(s *server, before lineage.Epoch) {
	if w := c.opensByForce(s); w != nil {
		c.reckless.forced = true
		c.judgeForced(s, w, before)
		c.judgeHeld(s, w)
		c.waive(s)
	}
}

// waive: an administrator's force goes on without what this server does not hold.
func (c *cluster) waive(s *server) {
	for n := range c.answered {
		if !s.holds(n) && !c.reckless.waived[n] {
			c.reckless.waived[n] = true
			c.count["waived"]++
		}
	}
}

// opensByForce is the wish that the device is opened for; nil if it is none.
func (c *cluster) opensByForce(s *server) *wish {
	for _, e := range s.effects {
		if r, ok := e.(Reply); ok && c.commands[r.ID] != nil && c.commands[r.ID].server == s && c.commands[r.ID].force != nil {
			return c.commands[r.ID].force
		}
	}
	return nil
}

// judgeForced: before is the epoch of the record that the server leaves.
func (c *cluster) judgeForced(s *server, w *wish, before lineage.Epoch) {
	r := c.reckless
	c.count["forced"]++
	for n, a := range r.answers {
		if r.waived[n] || s.holds(n) || w.noCatchUp || s.st.Served.Less(a.term) || s.lazy { // lazy: nobody was asked to promise
			continue
		}
		for _, x := range r.heard[s.st.Served] {
			if slices.Contains(a.members, x.name) && x.holds(n) && !(forked(x.own().History, s.history) && x.st.Record.Epoch.Compare(before) < 0) {
				c.fail("forced: %s took over in term %s without write %d, which %s holds", s.name, s.st.Served, n, x.name)
			}
		}
		if x := w.follow; w.careful && a.by == x.s.name && a.term == x.asked.Term && a.at.Before(x.sDeadAt) {
			c.fail("careful: %s took over without write %d, though nothing was said to be at risk", s.name, n)
		}
	}
	if w.careful {
		c.count["careful"]++
	}
}

// forked reports whether x has a generation that s has not: if its record is older too, rule 25 decides.
func forked(x, s lineage.History) bool {
	return slices.ContainsFunc(x, func(g lineage.Generation) bool { return s.Find(g.ID) < 0 })
}

// judgeFollow: nobody follows below its promise, and no old source gives up what it answered unless it was told to.
func (c *cluster) judgeFollow(t *server, x *session) {
	if x.asked.Term.Less(t.said) {
		c.fail("promise: %s follows term %s though it promised %s", t.name, x.asked.Term, t.said)
	}
	if c.reckless == nil {
		return
	}
	c.judgeUntouched(t, x)
	async := slices.ContainsFunc(t.st.Settings.Members, func(m lineage.Member) bool { return m.Mode == lineage.Async })
	if was := t.was; was && !t.st.Discard && !c.reckless.mixed && !async { // (an async member's lag is surplus)
		for n, a := range c.reckless.answers {
			if a.by == t.name && t.holds(n) && !x.s.holds(n) {
				c.fail("surplus: %s follows %s by itself, which lacks write %d that it answered in term %s", t.name, x.s.name, n, a.term)
			}
		}
	}
	t.was = false
}

// judgeOverruled: only terms are overruled in which nobody serves who told this server so.
func (c *cluster) judgeOverruled(s *server, known []lineage.Term) {
	for _, e := range s.effects {
		n, ok := e.(Note)
		if !ok || n.Rule != lineage.RuleOverruled {
			continue
		}
		c.count["overruled"]++
		for _, t := range known {
			if o := c.find(t.Node); o != s && o.serving && o.st.Served == t {
				c.fail("overruled: %s goes on although %s serves in term %s", s.name, o.name, t)
			}
		}
	}
}

func (c *cluster) forceAnswered(s *server, w *wish, e Reply) {
	if w.resolve == "" || e.Rule != "" || w.resolve == s.name {
		return
	}
	for n := range c.answered { // an administrator chose to go on without these
		if s.holds(n) && !c.find(w.resolve).holds(n) {
			c.reckless.waived[n] = true
			c.count["given up"]++
		}
	}
}

// -- administrators --------------------------------------------------------------------------------------------------------

func (c *cluster) wishFor(at *server, noCatchUp bool) *wish {
	if c.reckless == nil {
		return nil
	}
	w := &wish{noCatchUp: noCatchUp, follow: at.lastIn}
	at.m.Know(at.own())
	if f := at.m.Facts(at.name); f.Risk != nil && at.lastIn != nil && at.in == nil && len(at.inbox)+len(at.effects) == 0 {
		f.Risk.NoCatchUp = noCatchUp
		risks, _ := f.Risk.AtRisk(f)
		w.careful = len(risks) == 0 && at.lastIn.sDead
	}
	return w
}

// careless is an administrator who forces whatever he likes.
func (c *cluster) careless() {
	at := c.servers[c.rng.IntN(len(c.servers))]
	if at.serving && c.rng.IntN(3) > 0 {
		at.crash()
		return
	}
	for _, s := range c.servers {
		if s.up && s.serving && c.rng.IntN(8) > 0 {
			return
		}
	}
	if !at.up {
		return
	}
	if v := at.m.View(); v.Rule == lineage.RuleSplitBrain || c.rng.IntN(20) == 0 {
		c.resolve(at, c.servers[c.rng.IntN(len(c.servers))].name)
		return
	}
	c.forceAt(at, c.rng.IntN(5) == 0)
}

func (c *cluster) forceAt(at *server, noCatchUp bool) {
	c.nextID++
	c.commands[c.nextID] = &ask{at, "force", c.wishFor(at, noCatchUp)}
	at.inbox = append(at.inbox, Command{ID: c.nextID, Mine: at.own(), Switch: &Switch{To: at.name, Plan: fmt.Sprint("plan", c.nextID), Force: true, NoCatchUp: noCatchUp}})
}

func (c *cluster) resolve(at *server, keep string) {
	c.nextID++
	c.commands[c.nextID] = &ask{at, "resolve", &wish{noCatchUp: true, resolve: keep}}
	at.inbox = append(at.inbox, Command{ID: c.nextID, Mine: at.own(), Resolve: &Resolve{keep}})
}

// reconcile is the administrator at the end: he forces the furthest if nobody serves, and of several sides keeps the newest.
func (c *cluster) reconcile() {
	var source *server
	for _, s := range c.servers {
		if s.serving && (source == nil || source.st.Served.Less(s.st.Served)) {
			source = s
		}
	}
	if source != nil {
		for _, s := range c.servers {
			if v := s.m.View(); s != source && (s.serving || v.Rule == lineage.RuleSplitBrain || v.Rule == lineage.RuleNewerThanSource) {
				c.resolve(s, source.name)
			}
		}
		c.resolve(source, source.name)
		return
	}
	best := c.servers[0]
	for _, s := range c.servers {
		if s.own().Survivor(s.name, s.st.Record).Compare(best.own().Survivor(best.name, best.st.Record)) > 0 {
			best = s
		}
	}
	if best.m.View().Rule == lineage.RuleSplitBrain || best.st.Discard {
		c.resolve(best, best.name)
		return
	}
	c.forceAt(best, false)
}
