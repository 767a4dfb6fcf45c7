package mirror

import (
	"fmt"
	"strings"
	"time"

	"keelson/internal/lineage"
)

// boot is the wait of a server that was source: it opens only after every member has answered and none knows a newer
// source (rule 24).
type boot struct {
	waiting bool
	since   time.Time
	asked   time.Time
	noted   string // the reason noted last
	rule    string
	reason  string
	by      string // the server that rule is about; "" if it is none
}

const askEvery = 250 * time.Millisecond

func (m *Machine) bootStart() {
	if m.failed == "" && (m.omits("ask") || m.neverJoined() && !m.st.Served.Less(m.st.Promised)) {
		m.openAsSource()
		return
	}
	m.boot = boot{waiting: true, since: m.now}
}

// neverJoined reports whether no other server was ever a member of the in-sync set, nor can have followed: then nobody can
// have taken over.
func (m *Machine) neverJoined() bool {
	r := m.st.Record
	return (len(m.own.History) == 0 || len(m.others()) == 0) && len(r.Members) == 1 && r.Members[0] == m.cfg.Self && r.Epoch.N == 0 && r.Epoch.Term.N <= 1
}

// bootSettle asks those who have not answered and opens when nothing speaks against it.
func (m *Machine) bootSettle() {
	if !m.boot.waiting || m.force != nil {
		return
	}
	silent := m.judgePeers()
	if !m.boot.waiting { // a promise was overruled
		return
	}
	if m.boot.rule == "" {
		m.openAsSource()
		return
	}
	if m.now.Sub(m.boot.asked) >= askEvery {
		m.boot.asked = m.now
		m.emit(AskPeers{m.others()})
	}
	decided := !silent || m.now.Sub(m.boot.since) >= m.cfg.BootWait
	if decided && m.boot.noted != m.boot.rule {
		m.boot.noted = m.boot.rule
		m.note("warning", m.boot.rule, "the volume stays closed here: "+m.boot.reason)
	}
}

// judgePeers sets rule and reason to what speaks against opening, the gravest first; rule "" is nothing. silent: it is
// only that somebody has not answered yet.
func (m *Machine) judgePeers() (silent bool) {
	b := &m.boot
	b.rule, b.reason, b.by = "", "", ""
	var quiet, strangers []string
	twin := ""
	for _, node := range m.others() {
		p := m.peer(node)
		switch {
		case p.up && p.info.Known:
			if rule, reason := m.knowsNewer(node, p.info); rule != "" && (b.rule == "" || rule == lineage.RuleSplitBrain) {
				b.rule, b.reason, b.by = rule, reason, node
			}
			if strings.HasPrefix(p.info.Follows, m.cfg.Self+"/") && p.info.Follows != m.cfg.Self+"/"+m.cfg.Incarnation {
				twin = node
			}
		case p.up && !m.st.Record.Has(node):
		case p.up:
			strangers = append(strangers, node)
		default:
			quiet = append(quiet, node)
		}
	}
	if b.rule != "" {
		return false
	}
	if m.failed != "" && !m.omits("open-failed-copy") {
		b.rule, b.reason = lineage.RuleSourceDiskFailed, fmt.Sprintf("the disk of %s failed: %s", m.cfg.Self, m.failed)
		return false
	}
	if twin != "" {
		b.rule, b.reason = lineage.RuleNameTwice, fmt.Sprintf("%s is connected to another process that is %s by its name and certificate", twin, m.cfg.Self)
		return true
	}
	if m.own.Foreign && len(m.others()) > 0 {
		b.rule, b.reason = lineage.RuleForeignStore, fmt.Sprintf("what is under the copy of %s is not what it left; %s would be overwritten with it", m.cfg.Self, strings.Join(m.others(), ", "))
		return false
	}
	if top, by := m.unserved(); by != "" {
		return m.judgePromise(top, by, len(quiet)+len(strangers) == 0)
	}
	if len(strangers) > 0 {
		b.rule = lineage.RuleUnknownThere
		b.reason = strings.Join(strangers, ", ") + " of the in-sync set does not know the volume"
		return false
	}
	if len(quiet) > 0 {
		b.rule, b.reason = lineage.RuleBootWait, "waiting for "+strings.Join(quiet, ", ")+" to say whether somebody took over"
		return true
	}
	return false
}

// judgePromise: somebody promised a term in which nobody who answered serves. If all have answered it is overruled.
func (m *Machine) judgePromise(top lineage.Term, by string, all bool) (silent bool) {
	b := &m.boot
	b.rule, b.reason = lineage.RuleUnservedTerm, fmt.Sprintf("%s has promised to follow nobody below the newer term %s", by, top)
	if !all {
		return false
	}
	m.askToGiveUp()
	if m.over.why != "" {
		b.reason += "; " + m.over.why
	}
	return m.over.why == ""
}

// knowsNewer says by which rule the peer's answer forbids this server to open; "" if it does not.
func (m *Machine) knowsNewer(node string, i PeerInfo) (rule, reason string) {
	switch {
	case i.Serving && i.Served.Less(m.st.Served): // who returns never deposes who serves
		return lineage.RuleSplitBrain, fmt.Sprintf("%s serves in the older term %s, and this server was the source in %s", node, i.Served, m.st.Served)
	case m.st.Served.Less(i.Served) && i.Role == lineage.RoleSource:
		return lineage.RuleNewerTerm, fmt.Sprintf("%s became the source in term %s", node, i.Served)
	case m.st.Record.Epoch.Term.Less(i.Record.Epoch.Term):
		return lineage.RuleNewerTerm, fmt.Sprintf("%s has followed a source of the newer term %s", node, i.Record.Epoch.Term)
	case m.st.Record.Epoch.Compare(i.Record.Epoch) < 0:
		return lineage.RuleReverted, fmt.Sprintf("%s has a newer in-sync record than this server ever wrote", node)
	}
	mine := lineage.Replica{Node: m.cfg.Self, History: m.own.History, Position: m.own.Position, Record: m.st.Record, Reserved: m.own.Reserved}
	theirs := lineage.Replica{Node: node, History: i.History, Position: i.Position, Record: i.Record}
	if len(m.own.History) > 0 && lineage.Stand(mine, theirs).Rule == lineage.RuleReverted {
		return lineage.RuleReverted, fmt.Sprintf("%s holds writes of this server that this server does not know of", node)
	}
	return "", ""
}

// openAsSource serves again in the term that this server serves already; its next generation begins with the first write.
func (m *Machine) openAsSource() {
	m.boot = boot{}
	m.emit(BecomeSource{Standing: m.st.Clone(), Lazy: true})
	m.serve()
}

// serve opens the device after BecomeSource: answers wait for every member of the record that joins within JoinWait.
func (m *Machine) serve() {
	m.open, m.newer, m.split, m.rival, m.refused, m.over = true, "", "", "", "", overrule{}
	m.links, m.in, m.disk = map[string]*link{}, incoming{}, lostDisk{}
	m.required = required{sent: []string{"?"}, dropped: map[string]lineage.Epoch{}}
	m.requireSettle()
	m.emit(OpenDevice{})
	for _, node := range m.others() {
		m.link(node).expectUntil = m.now.Add(m.cfg.JoinWait)
	}
}

// CannotOpen reports that by this rule a source that was started neither opens by itself nor can hand over, whoever answers: it is the
// other servers that have what was answered.
func CannotOpen(rule string) bool {
	return rule == lineage.RuleReverted || rule == lineage.RuleForeignStore
}

// forced makes this server, which does not serve, the source because an administrator says so. A source that only waits for
// peers to answer opens as it is; everything else is a forced take-over in a new term.
func (m *Machine) forced(c Command) {
	rule := m.boot.rule
	switch {
	case m.boot.waiting && rule == lineage.RuleReverted:
		m.reply(c.ID, rule, m.boot.reason)
	case m.boot.waiting && (rule == lineage.RuleBootWait || rule == lineage.RuleUnknownThere):
		m.openAnyway(c)
	case m.boot.waiting && rule == lineage.RuleForeignStore && !m.promisedElsewhere():
		m.openAnyway(c)
	default:
		m.forceHere(c, c.Switch.Plan, c.Switch.NoCatchUp, false)
	}
}

// promisedElsewhere reports that somebody promised a newer term, this server included: it opens in no older one.
func (m *Machine) promisedElsewhere() bool {
	_, by := m.unserved()
	return by != ""
}

// openAnyway opens a source that waits for peers that do not answer, because an administrator says so.
func (m *Machine) openAnyway(c Command) {
	m.note("warning", m.boot.rule, "opened by an administrator although: "+m.boot.reason)
	m.openAsSource()
	m.reply(c.ID, "", "")
}
