package mirror

import (
	"cmp"
	"slices"

	"keelson/internal/lineage"
)

func (m *Machine) reply(id uint64, rule, message string) {
	m.emit(Reply{ID: id, Rule: rule, Err: message, Fix: lineage.NextOf(rule)})
}

// command carries out an administrator's wish, or refuses it with a rule.
func (m *Machine) command(c Command) {
	switch {
	case c.Switch != nil:
		m.switchTo(c)
		return
	case c.Resolve != nil:
		m.resolve(c)
		return
	case m.st.Role != lineage.RoleSource:
		m.reply(c.ID, lineage.RuleNotSource, "this server is not the source of the volume")
		return
	case !m.open:
		m.reply(c.ID, lineage.RuleSourceClosed, "this server has not opened the volume again: "+m.boot.reason)
		return
	case m.newer != "":
		m.reply(c.ID, lineage.RuleSplitBrain, m.newer)
		return
	case m.plan != nil:
		m.reply(c.ID, lineage.RulePlanInProgress, "switchover "+m.plan.data.ID+" is under way")
		return
	case c.Set != nil:
		m.setVolume(c)
		return
	case c.Change.Target == m.cfg.Self:
		m.reply(c.ID, lineage.RuleIsSource, m.cfg.Self+" is the source")
		return
	}
	if rule, message := m.change(c.Change); rule != "" {
		m.reply(c.ID, rule, message)
		return
	}
	m.reply(c.ID, "", "")
}

// change carries out one Change at the source.
func (m *Machine) change(c Change) (rule, message string) {
	if c.Action == "add" {
		return m.add(c)
	}
	if m.member(c.Target) == nil {
		return lineage.RuleNotAMember, c.Target + " holds no copy of the volume"
	}
	for _, refuse := range []func(Change) (string, string){m.refuseLast, m.refuseFew} {
		if rule, message := refuse(c); rule != "" {
			return rule, message
		}
	}
	switch c.Action {
	case "set":
		return m.set(c)
	case "pause":
		if s := m.member(c.Target); s.Paused && !s.Held {
			return "", ""
		}
		m.stop(c.Target, "the mirror is paused", func(s *lineage.Member) { s.Paused, s.Held = true, false })
	case "break":
		if m.member(c.Target).Broken {
			return "", ""
		}
		m.stop(c.Target, "the mirror is broken", func(s *lineage.Member) { s.Broken = true })
	case "remove":
		m.stop(c.Target, "the mirror was removed", func(s *lineage.Member) { s.Removed = true })
		delete(m.links, c.Target)
	case "continue":
		if s := m.member(c.Target); s.Paused || s.Broken {
			m.changeMember(c.Target, func(s *lineage.Member) { s.Paused, s.Held, s.Broken = false, false, false })
			m.retrySoon(c.Target)
		}
	case "resync":
		m.stop(c.Target, "a full resync begins", func(s *lineage.Member) { s.FullAsked++; s.Broken = false })
		m.retrySoon(c.Target)
	default:
		return lineage.RuleBadSetting, "no such action: " + c.Action
	}
	return "", ""
}

func (m *Machine) add(c Change) (rule, message string) {
	if m.member(c.Target) != nil {
		return lineage.RuleAlreadyMember, c.Target + " is a member already"
	}
	if c.Path == "" {
		return lineage.RuleBadSetting, "the path of the copy at " + c.Target + " is missing"
	}
	mode := lineage.Sync
	if c.Mode != nil {
		mode = *c.Mode
	}
	if !validMode(mode) {
		return lineage.RuleBadSetting, "no such mode: " + string(mode)
	}
	m.changeSettings(func(st *lineage.Settings) {
		if old := st.Find(c.Target); old != nil {
			asked := old.FullAsked
			*old = lineage.Member{Node: c.Target, Path: c.Path, Mode: mode, FullAsked: asked, FullDone: asked}
			return
		}
		st.Members = append(st.Members, lineage.Member{Node: c.Target, Path: c.Path, Mode: mode})
		slices.SortFunc(st.Members, func(a, b lineage.Member) int { return cmp.Compare(a.Node, b.Node) })
	})
	delete(m.links, c.Target)
	return "", ""
}

func validMode(mode lineage.Mode) bool { return mode == lineage.Sync || mode == lineage.Async }

// set changes limits and mode. From async to sync the target first leaves the in-sync set and joins it again when it has
// caught up: as an async member it was believed without what was on its way to it.
func (m *Machine) set(c Change) (rule, message string) {
	if c.Mode != nil && !validMode(*c.Mode) {
		return lineage.RuleBadSetting, "no such mode: " + string(*c.Mode)
	}
	for _, n := range []*int64{c.Queue, c.Rate, c.Resync} {
		if n != nil && *n < 0 {
			return lineage.RuleBadSetting, "a limit cannot be negative"
		}
	}
	change := func(s *lineage.Member) {
		if c.Mode != nil {
			s.Mode = *c.Mode
		}
		setTo(&s.QueueBytes, c.Queue)
		setTo(&s.RateBytes, c.Rate)
		setTo(&s.ResyncBytes, c.Resync)
	}
	if s := m.member(c.Target); c.Mode != nil && *c.Mode == lineage.Sync && s.Mode == lineage.Async {
		m.stop(c.Target, "the mirror becomes a sync one", change)
		m.retrySoon(c.Target)
		return "", ""
	}
	m.changeMember(c.Target, change)
	m.emit(Tune{*m.member(c.Target)})
	return "", ""
}

func setTo(field, value *int64) {
	if value != nil {
		*field = *value
	}
}

// stop changes a member's settings, takes it out of the in-sync set and ends its session.
func (m *Machine) stop(node, why string, change func(*lineage.Member)) {
	inRecord := m.st.Record.Has(node)
	m.save(func(st *lineage.Standing) {
		bump(&st.Settings, st.Served)
		change(st.Settings.Find(node))
		if inRecord {
			m.leave(st, node)
		}
	})
	m.spreadSettings()
	m.hangup(node, why)
	if inRecord {
		m.spreadRecord()
	}
}

// bump gives settings their next version.
func bump(s *lineage.Settings, term lineage.Term) {
	s.Version = lineage.Epoch{Term: term, N: s.Version.N + 1}
}

func (m *Machine) changeMember(node string, change func(*lineage.Member)) {
	m.changeSettings(func(s *lineage.Settings) { change(s.Find(node)) })
}

// changeSettings saves new settings and tells every target with a session.
func (m *Machine) changeSettings(change func(*lineage.Settings)) {
	m.save(func(st *lineage.Standing) {
		bump(&st.Settings, st.Served)
		change(&st.Settings)
	})
	m.spreadSettings()
}

func (m *Machine) spreadSettings() {
	for node, l := range sortedLinks(m.links) {
		if l.phase >= comparing {
			m.emit(SendSettings{node, m.st.Settings.Clone()})
		}
	}
}
