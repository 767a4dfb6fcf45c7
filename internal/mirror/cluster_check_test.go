package mirror

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"keelson/internal/lineage"
)

// judgeAnswer is guarantee 1 and rule 17 at the moment of an answer: every sync member holds the write, and none of those
// who remain believes of a server that does not hold it that it is in sync.
func (c *cluster) judgeAnswer(s *server, w int) {
	c.count["answers"]++
	if c.reckless != nil && s.st.Served.Less(c.newestPromise()) {
		return // somebody takes over meanwhile
	}
	for _, n := range s.st.Record.Members {
		y := c.find(n)
		if m := s.st.Settings.Find(n); m.Mode == lineage.Sync && y.lacks(w, s) {
			c.fail("sync: write %d is answered, %s is a member of %s's record and lacks it", w, n, s.name)
		}
		for _, x := range y.st.Record.Members {
			m := s.st.Settings.Find(x)
			if m.Mode == lineage.Sync && c.find(x).lacks(w, s) {
				c.fail("record: write %d is answered by %s, the durable record of its member %s (%v) names %s, which lacks it", w, s.name, n, y.st.Record, x)
			}
		}
	}
}

// holds reports whether the server's content has the write; content is in the order of the writes' names.
func (s *server) holds(w int) bool {
	if s.failed {
		return false
	}
	content := s.content
	if s.anchor != nil {
		content = s.anchor.content
	}
	_, found := slices.BinarySearch(content, w)
	return found
}

// lacks reports that the server does not hold a write which that source answers. A target whose disk failed has
// acknowledged it before; the source's own copy counts until its disk fails.
func (s *server) lacks(w int, source *server) bool {
	return !s.holds(w) && (!s.failed || s == source)
}

// judge looks at the effects of one step before they are carried out.
func (c *cluster) judge(s *server, effects []Effect) {
	for _, e := range effects {
		rule := ""
		switch e := e.(type) {
		case Reply:
			rule = e.Rule
		case RefuseSession:
			rule = e.Rule
		case Note:
			rule = e.Rule
		}
		if _, ok := lineage.FindRule(rule); rule != "" && !ok {
			c.fail("rules: %s uses rule %q, which is not in the table", s.name, rule)
		}
	}
}

// check is what holds after every step: no sync member of the durable record lacks an answered write.
func (c *cluster) check() {
	if !c.dirty {
		return
	}
	c.dirty = false
	for _, s := range c.servers {
		if !s.serving || c.reckless != nil && s.st.Served.Less(c.newestPromise()) {
			continue
		}
		for _, n := range s.st.Record.Members {
			t, m := c.find(n), s.st.Settings.Find(n)
			if m.Mode != lineage.Sync || t.failed {
				continue
			}
			for _, w := range s.content {
				if c.answered[w] && !t.holds(w) {
					c.fail("member: %s is in the in-sync record of %s (%v) and lacks answered write %d", n, s.name, s.st.Record, w)
				}
			}
		}
	}
}

// -- random histories ------------------------------------------------------------------------------------------------------

func (c *cluster) run(steps int) string {
	for range steps {
		c.act()
		if c.check(); c.broken != "" {
			return c.broken
		}
	}
	c.finale()
	return c.broken
}

// act is one random step.
func (c *cluster) act() {
	c.now = c.now.Add(time.Duration(c.rng.IntN(12)) * time.Millisecond)
	c.deliver()
	for _, s := range c.servers {
		if s.up && c.rng.IntN(2) == 0 {
			for range 1 + c.rng.IntN(4) {
				s.step()
				if s.up {
					c.pump(s)
				}
			}
		}
	}
	c.disksFail()
	s := c.servers[c.rng.IntN(len(c.servers))]
	if !s.up {
		if c.rng.IntN(40) == 0 {
			s.boot()
		}
		return
	}
	switch dice := c.rng.IntN(1000); {
	case dice < 300:
		if s.serving {
			s.client()
		}
	case dice < 700:
		if s.serving {
			s.answer()
			s.drained()
		}
	case dice < 800:
		c.tell(s, c.servers[c.rng.IntN(len(c.servers))])
	case dice < 850:
		c.admin()
	case dice < 853:
		s.crash()
	case dice < 870:
		if len(s.effects) > 0 { // in the middle of a step
			s.crash()
		}
	case dice < 873:
		c.toggle()
	case dice < 890 && c.reckless != nil:
		c.careless()
	}
}

func (c *cluster) deliver() {
	for i := 0; i < len(c.mail); i++ {
		m := c.mail[i]
		if m.at.After(c.now) {
			continue
		}
		c.mail = slices.Delete(c.mail, i, i+1)
		i--
		if c.find(m.to).up && c.linked(m.from, m.to) {
			m.deliver()
		}
	}
}

func (c *cluster) pump(s *server) {
	if s.in != nil {
		c.upkeep(s.in)
	}
	for _, o := range c.servers {
		if x := s.out[o.name]; x != nil {
			c.upkeep(x)
		}
	}
}

func (c *cluster) toggle() {
	a, b := c.rng.IntN(len(c.servers)), c.rng.IntN(len(c.servers))
	if a != b {
		pair := [2]string{min(c.servers[a].name, c.servers[b].name), max(c.servers[a].name, c.servers[b].name)}
		c.cut[pair] = !c.cut[pair]
		c.log("link %v cut: %v", pair, c.cut[pair])
	}
}

// admin is one of several administrators, who know nothing of each other.
func (c *cluster) admin() {
	at, target := c.servers[c.rng.IntN(len(c.servers))], c.servers[c.rng.IntN(len(c.servers))].name
	for _, s := range c.servers {
		if s.serving && c.rng.IntN(5) > 0 {
			at = s
		}
	}
	if at.serving && c.rng.IntN(3) > 0 {
		for _, can := range at.m.View().Candidates {
			if can.OK && c.rng.IntN(2) == 0 {
				target = can.To
			}
		}
	}
	if at.st.Role == lineage.RoleSource && !at.serving && c.rng.IntN(3) == 0 { // rule 24: an administrator says that nobody took over
		c.command(at, "force", Change{}, &Switch{To: at.name, Plan: fmt.Sprint("plan", c.nextID), Force: true})
		return
	}
	if c.reckless != nil && c.reckless.held != nil && c.rng.IntN(6) == 0 {
		c.accept(at)
		return
	}
	switch c.rng.IntN(14) {
	case 0:
		c.command(at, "pause", Change{Action: "pause", Target: target}, nil)
	case 1:
		c.command(at, "break", Change{Action: "break", Target: target}, nil)
	case 2, 3:
		c.command(at, "continue", Change{Action: "continue", Target: target}, nil)
	case 4:
		mode := []lineage.Mode{lineage.Sync, lineage.Async}[c.rng.IntN(2)]
		c.command(at, "set", Change{Action: "set", Target: target, Mode: &mode}, nil)
	case 5:
		if c.rng.IntN(4) == 0 {
			c.command(at, "remove", Change{Action: "remove", Target: target}, nil)
		} else {
			c.command(at, "add", Change{Action: "add", Target: target, Path: "/" + target}, nil)
		}
	default:
		c.command(at, "switch", Change{}, &Switch{To: target, Plan: fmt.Sprint("plan", c.nextID)})
	}
}

func (c *cluster) command(at *server, text string, change Change, sw *Switch) {
	if !at.up {
		return
	}
	c.nextID++
	c.commands[c.nextID] = &ask{server: at, text: text}
	if sw != nil && sw.Force {
		c.commands[c.nextID].force = c.wishFor(at, false)
	}
	at.inbox = append(at.inbox, Command{ID: c.nextID, Change: change, Switch: sw, Mine: at.own()})
}

// finale: all failures end, the administrator continues every mirror; exactly one source and equal copies must come out.
func (c *cluster) finale() {
	c.log("FINALE")
	c.calm, c.cut = true, map[[2]string]bool{}
	for _, s := range c.servers {
		if !s.up {
			s.boot()
		}
	}
	rounds := 60
	if c.disks != nil { // two disks may have to be replaced, one step in eight rounds
		rounds = 120
	}
	for round := range rounds {
		c.rounds()
		if c.broken != "" || round > 3 && c.settled() == "" {
			break
		}
		if round%8 == 1 {
			c.repair()
		}
		if c.reckless != nil && round%8 == 5 {
			c.reconcile()
		}
		if c.disks != nil && round%8 == 5 {
			c.replace()
		}
	}
	if why := c.settled(); why != "" {
		c.fail("finale: %s", why)
	}
	for id, a := range c.commands {
		c.fail("replies: command %d (%s at %s) was never answered", id, a.text, a.server.name)
	}
}

// rounds lets half a second pass, with everybody at work.
func (c *cluster) rounds() {
	for range 50 {
		c.now = c.now.Add(10 * time.Millisecond)
		c.deliver()
		for _, s := range c.servers {
			for range 6 {
				for len(s.effects) > 0 || len(s.inbox) > 0 || c.now.Sub(s.tick) >= 250*time.Millisecond {
					s.step()
				}
				c.pump(s)
			}
			if s.serving {
				s.answer()
				s.drained()
			}
		}
		if c.check(); c.broken != "" {
			return
		}
	}
	for _, s := range c.servers {
		c.tell(s, c.servers[c.rng.IntN(len(c.servers))])
		if s.serving {
			s.client()
		}
	}
}

// repair continues and adds what administrators had paused, broken and removed.
func (c *cluster) repair() {
	for _, s := range c.servers {
		if !s.serving {
			continue
		}
		for _, m := range s.st.Settings.Members {
			if c.find(m.Node).failed {
				continue // replace gives it another disk first
			}
			if m.Removed {
				if c.disks != nil { // somebody may have taken over by force since: an addition makes a new replica
					c.find(m.Node).renew(s)
				}
				c.command(s, "add", Change{Action: "add", Target: m.Node, Path: m.Path}, nil)
			} else if m.Held {
				c.accept(s)
			} else if m.Paused || m.Broken {
				c.command(s, "continue", Change{Action: "continue", Target: m.Node}, nil)
			}
		}
	}
}

// settled says what is still missing at the end; "" if nothing is.
func (c *cluster) settled() string {
	var source *server
	var all []string
	for _, s := range c.servers {
		all = append(all, fmt.Sprintf("%s %s promised %s served %s serving %v (%s)", s.name, s.st.Role, s.st.Promised, s.st.Served, s.serving, s.m.View().Reason))
		if s.serving {
			if source != nil {
				return "two sources: " + strings.Join(all, "; ")
			}
			source = s
		}
	}
	if source != nil && source.failed {
		return "the source has no copy: " + strings.Join(all, "; ")
	}
	if source == nil {
		return "no source: " + strings.Join(all, "; ")
	}
	v := source.m.View()
	if len(v.Mirrors) != len(c.servers)-1 {
		return fmt.Sprintf("%s has %d mirrors", source.name, len(v.Mirrors))
	}
	for _, m := range v.Mirrors {
		if m.State != Mirroring {
			return fmt.Sprintf("mirror %s->%s is %s: %s (%s)", m.Source, m.Target, m.State, m.Reason, strings.Join(all, "; "))
		}
		if own := c.find(m.Target).m.View().Mirrors; len(own) != 1 || own[0].State != Mirroring || own[0].Source != source.name {
			return fmt.Sprintf("%s sees its mirror as %+v", m.Target, own)
		}
		if t := c.find(m.Target); len(source.waiting) == 0 && len(t.in.down) == 0 && !slices.Equal(t.content, source.content) {
			return fmt.Sprintf("%s and %s differ: %v, %v", source.name, t.name, source.content, t.content)
		}
	}
	return ""
}
