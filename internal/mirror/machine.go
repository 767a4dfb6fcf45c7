package mirror

import (
	"cmp"
	"slices"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/switchover"
)

// Machine decides for one volume at one server. It is not safe for concurrent use: the shell steps it from one goroutine.
//
// Its life: New from what the log held, Started, then any events in the order in which they happened. A target follows
// (target.go). A source asks every member before it opens (boot.go), then keeps its mirrors (links.go), the in-sync
// record (record.go) and its settings (command.go), until a plan hands the role over (plan.go) and another machine takes
// it (heir.go). What was durable is in Standing; everything else is forgotten at a stop, and that is always safe.
type Machine struct {
	cfg     Config
	now     time.Time
	out     []Effect
	st      lineage.Standing // as last saved, or as the last Save in out will have it
	own     Own              // as it was last told
	started bool
	failed  string // this copy's disk; "" while it works
	stalled string // why this copy's disk hangs; "" while it does not
	disk    lostDisk
	short   bool // fewer copies than min-copies would hold a write, as it was noted last

	open     bool   // the device is, or is being, opened
	newer    string // why an open source holds its writes: it met a newer one (rule 25); "" otherwise
	rival    string // the server of newer or split
	split    string // why this replica may not follow the source that asks; "" otherwise
	refused  string // rule of the session refused last, for Reason
	peers    map[string]*peer
	links    map[string]*link
	sessions uint64 // the last number given to a session
	required required
	boot     boot
	plan     *plan
	token    token
	in       incoming
	force    *takeover // nil: none is under way here
	over     overrule
	believed lineage.Term // the newest term in which another server was believed to serve; zero: none since the start
}

// peer is what another server last said, or did not say.
type peer struct {
	info PeerInfo
	ever bool // it answered since this machine started
	up   bool // its last answer is newer than its last silence
	why  string
	at   time.Time // of the last answer
}

// Defaults of Config.
const (
	defaultHoldMax  = 10 * time.Second
	defaultJoinWait = 5 * time.Second
	defaultBootWait = 30 * time.Second
	defaultFenceMax = 3 * time.Second
	defaultRetryMin = 100 * time.Millisecond
	defaultRetryMax = 5 * time.Second
)

// New makes the machine of a volume whose log holds that standing.
func New(cfg Config, s lineage.Standing) *Machine {
	cfg.HoldMax = cmp.Or(cfg.HoldMax, defaultHoldMax)
	cfg.JoinWait = cmp.Or(cfg.JoinWait, defaultJoinWait)
	cfg.BootWait = cmp.Or(cfg.BootWait, defaultBootWait)
	cfg.FenceMax = cmp.Or(cfg.FenceMax, defaultFenceMax)
	cfg.RetryMin = cmp.Or(cfg.RetryMin, defaultRetryMin)
	cfg.RetryMax = cmp.Or(cfg.RetryMax, defaultRetryMax)
	return &Machine{cfg: cfg, st: s.Clone(), peers: map[string]*peer{}, links: map[string]*link{}}
}

// Step takes one event and returns what has to be done, in this order (see the package comment).
func (m *Machine) Step(now time.Time, ev Event) []Effect {
	m.now, m.out = now, nil
	switch e := ev.(type) {
	case Started:
		m.start(e)
	case Tick: // settle does what is due
	case PeerSeen:
		m.peerSeen(e)
	case PeerLost:
		m.peerLost(e)
	case Command:
		m.command(e)
	case TokenCame:
		m.tokenCame(e)
	case TokenAnswer:
		m.tokenAnswer(e)
	case FenceAsked:
		m.fenceAsked(e)
	case FenceAnswer:
		m.fenceAnswer(e)
	case GiveUpAsked:
		m.giveUpAsked(e)
	case GiveUpAnswer:
		m.giveUpAnswer(e)
	case DiskFailed:
		m.diskFailed(e.Why)
	case DiskStalled:
		m.diskStalled(e.Why)
	case SessionAsked, SessionEnded, Adopted, RecordCame, SettingsCame, RolledBack:
		m.targetEvent(ev)
	default:
		m.sourceEvent(ev)
	}
	m.settle()
	return m.out
}

// settle does what became possible, or due, whatever the event was.
func (m *Machine) settle() {
	if !m.started {
		return
	}
	m.bootSettle()
	m.planSettle()
	m.forceSettle()
	m.diskSettle()
	if m.open {
		m.overruleSettle()
		m.requireSettle()
		m.dialDue()
		m.copiesSettle()
	}
	m.tokenSettle()
}

func (m *Machine) start(e Started) {
	if m.started {
		return
	}
	m.started, m.own = true, e.Mine
	if e.Mine.Failed {
		m.failed = "it failed before this start"
	}
	if m.st.Role == lineage.RoleSource {
		m.bootStart()
	}
}

// Know tells what the data path knows of this replica now: before View or Facts, so that they show what a forced take-over
// risks.
func (m *Machine) Know(mine Own) { m.own = mine }

func (m *Machine) emit(e ...Effect) { m.out = append(m.out, e...) }

// save changes the standing and has it made durable.
func (m *Machine) save(change func(*lineage.Standing)) {
	m.st = m.st.Clone()
	change(&m.st)
	m.emit(Save{m.st.Clone()})
}

// note tells the administrator; the rule's next step goes with it.
func (m *Machine) note(level, rule, message string) { m.noteOn("volume", level, rule, message) }

func (m *Machine) noteOn(object, level, rule, message string) {
	m.emit(Note{level, object, rule, message, lineage.NextOf(rule)})
}

func (m *Machine) omits(protection string) bool { return m.cfg.omit == protection }

// member returns the settings of a member that was not removed, or nil.
func (m *Machine) member(node string) *lineage.Member {
	if s := m.st.Settings.Find(node); s != nil && !s.Removed {
		return s
	}
	return nil
}

// others are the members that were not removed, without this server, sorted.
func (m *Machine) others() []string {
	var out []string
	for _, s := range m.st.Settings.Members {
		if s.Node != m.cfg.Self && !s.Removed {
			out = append(out, s.Node)
		}
	}
	slices.Sort(out)
	return out
}

func (m *Machine) peer(node string) *peer {
	p := m.peers[node]
	if p == nil {
		p = &peer{}
		m.peers[node] = p
	}
	return p
}

func (m *Machine) peerSeen(e PeerSeen) {
	if e.Node == m.cfg.Self {
		return
	}
	p := m.peer(e.Node)
	if p.overtaken(e.Info) && m.now.Sub(p.at) < overtakenMax {
		return
	}
	if !p.up {
		m.retrySoon(e.Node)
		if m.st.Role == lineage.RoleHanded && e.Node == m.st.Heir.Node {
			m.token.retryAt = m.now
		}
	}
	*p = peer{info: e.Info, ever: true, up: true, at: m.now}
	m.followByReport(e)
	m.adoptGossip(e.Info)
	m.heirSeen(e.Info)
	m.rivalSeen(e.Node, e.Info)
}

// overtakenMax is how late a report may arrive behind a newer one.
const overtakenMax = 5 * time.Second

// overtaken reports whether the report is older than what the peer said before: its terms never go down.
func (p *peer) overtaken(i PeerInfo) bool {
	return p.info.Known && i.Known && (i.Promised.Less(p.info.Promised) || i.Served.Less(p.info.Served))
}

func (m *Machine) peerLost(e PeerLost) {
	p := m.peer(e.Node)
	p.up, p.why = false, e.Why
}

// adoptGossip takes settings that a source of no older term spread (rule 19): a server that was removed learns it so.
func (m *Machine) adoptGossip(i PeerInfo) {
	if m.st.Role == lineage.RoleTarget && i.Known && i.Role == lineage.RoleSource && !i.Served.Less(m.st.Promised) {
		m.adoptSettings(i.Settings)
	}
}

func (m *Machine) adoptSettings(s lineage.Settings) {
	if m.st.Settings.Version.Compare(s.Version) < 0 {
		m.save(func(st *lineage.Standing) { st.Settings = s.Clone() })
	}
}

// rivalSeen makes a source of an older term hold its writes when it meets one that serves in a newer term (rule 25).
func (m *Machine) rivalSeen(node string, i PeerInfo) {
	if i.Known && i.Serving && m.st.Served.Less(i.Served) {
		m.holdFor(node, node+" serves the volume in the newer term "+i.Served.String())
	}
}

// holdFor lets an open source answer no further write until the split is resolved.
func (m *Machine) holdFor(rival, why string) {
	if !m.open || m.newer != "" {
		return
	}
	if m.plan != nil {
		m.abort(&switchover.Refusal{Rule: lineage.RuleSplitBrain, Message: why, Next: lineage.NextOf(lineage.RuleSplitBrain)})
	}
	m.newer, m.rival = why, rival
	m.emit(Hold{})
	m.note("error", lineage.RuleSplitBrain, why+"; this server answers no further write")
}
