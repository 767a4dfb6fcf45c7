package mirror

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"keelson/internal/lineage"
)

// A cluster of machines, wired together by a small simulated data path, from a seed. Messages are lost, late and doubled,
// servers crash between any two effects, administrators pause, set, remove and switch over whenever they like. What is durable of a server is
// what its last Save or BecomeSource had, and its content: a list of writes, each as durable as it is applied.
type cluster struct {
	rng     *rand.Rand
	omit    string
	now     time.Time
	servers []*server
	mail    []mail
	calm    bool
	cut     map[[2]string]bool // links that are down

	writes   int          // the last one's name
	answered map[int]bool // to a client
	disks    *rand.Rand   // histories with failing disks; nil: none fails
	reckless *reckless    // histories with forced take-overs: what they need to know besides; nil: there are none
	gens     uint64
	commands map[uint64]*ask // not answered
	nextID   uint64
	dirty    bool // something changed that check looks at
	trace    []string
	verbose  bool
	broken   string // the first broken invariant
	count    map[string]int
}

// mail is a message on its way that may be lost, late, doubled or overtaken.
type mail struct {
	from, to string
	at       time.Time
	deliver  func()
}

type ask struct {
	server *server
	text   string
	force  *wish // a take-over without the old source, or a resolve
}

type server struct {
	c    *cluster
	name string
	up   bool

	// durable
	st         lineage.Standing
	history    lineage.History
	pos        lineage.Position
	consistent string
	content    []int
	anchor     *anchor      // while consistent is "rolling"
	failed     bool         // its disk
	said       lineage.Term // the greatest term that it promised to anybody
	lazy       bool         // it opens again what it had opened before
	was        bool         // it served since it last followed somebody

	// lost in a crash
	m        *Machine
	inbox    []Event
	effects  []Effect
	tick     time.Time
	serving  bool
	via      string // whom it serves from after its disk failed
	held     bool
	plan     string
	begun    bool // its generation of this tenure
	waiting  []int
	holding  []int
	required []string
	out      map[string]*session
	in       *session
	asked    map[uint64]*session
	lastIn   *session // the incoming session before
	tokens   map[uint64]func(Reply)
	terms    [2]lineage.Term // greatest promised and served ever durable
}

// session is one stream, FIFO, with two ends that close on their own.
type session struct {
	s, t         *server
	number       uint64 // the source's
	id           uint64 // the target's
	asked        SessionAsked
	down, up     []any
	sDead, tDead bool
	accepted     bool
	ended        bool // the end of the resync is in the stream
	inStep       bool // as the source knows
	caught       bool
	dialed       time.Time
	sDeadAt      time.Time // zero: it is not
	need, acked  int       // writes: the newest that must be there, and is there
	adopted      bool
}

type (
	frameBegin struct{}
	frameEnd   struct {
		history  lineage.History
		pos      lineage.Position
		content  []int
		record   lineage.Record
		settings lineage.Settings
	}
	frameWrite struct {
		write int
		pos   lineage.Position
		gen   *lineage.Generation
	}
	frameRecord     struct{ record lineage.Record }
	frameSettings   struct{ settings lineage.Settings }
	frameCheckpoint struct{ number uint64 }
	frameUp         struct{}
	frameEnded      struct{ last int }
	frameAck        struct{ last int }
	frameRecordAck  struct{ epoch lineage.Epoch }
	frameChecked    struct{ number uint64 }
)

var clusterConfig = Config{FenceMax: time.Second, HoldMax: 2 * time.Second, JoinWait: time.Second, BootWait: 3 * time.Second, RetryMin: 50 * time.Millisecond, RetryMax: time.Second}

func newCluster(seed uint64, omit string, verbose bool) *cluster {
	return startCluster(seed, omit, verbose, nil)
}

func startCluster(seed uint64, omit string, verbose bool, r *reckless) *cluster {
	c := &cluster{rng: rand.New(rand.NewPCG(seed, 7)), omit: omit, now: time.Unix(1e9, 0), verbose: verbose,
		cut: map[[2]string]bool{}, answered: map[int]bool{}, commands: map[uint64]*ask{}, count: map[string]int{}, reckless: r}
	names := []string{"a", "b", "c", "d"}[:3+c.rng.IntN(2)]
	first := lineage.Term{N: 1, Node: "a"}
	settings := lineage.Settings{Version: lineage.Epoch{Term: first}}
	mixed := c.rng.IntN(3) == 0
	if r != nil {
		r.mixed, settings.HoldCopies = mixed, r.held != nil
	}
	for _, n := range names {
		mode := lineage.Sync
		if mixed && c.rng.IntN(2) == 0 {
			mode = lineage.Async
		}
		settings.Members = append(settings.Members, lineage.Member{Node: n, Path: "/" + n, Mode: mode})
	}
	for _, n := range names {
		s := &server{c: c, name: n, consistent: "yes"}
		s.st = lineage.Standing{Role: lineage.RoleTarget, Settings: settings.Clone()}
		if n == "a" {
			s.st.Role, s.st.Promised, s.st.Served = lineage.RoleSource, first, first
			s.st.Record = lineage.Record{Epoch: lineage.Epoch{Term: first}, Members: []string{"a"}}
		}
		c.servers = append(c.servers, s)
		s.boot()
	}
	if c.rng.IntN(5) > 0 {
		c.calm = true
		for range 3 {
			c.rounds()
		}
		c.calm = false
	}
	return c
}

func (c *cluster) find(name string) *server {
	for _, s := range c.servers {
		if s.name == name {
			return s
		}
	}
	return nil
}

func (c *cluster) log(format string, args ...any) {
	if c.verbose {
		c.trace = append(c.trace, fmt.Sprintf("%8.3f ", c.now.Sub(time.Unix(1e9, 0)).Seconds())+fmt.Sprintf(format, args...))
	}
}

func (c *cluster) fail(format string, args ...any) {
	if c.broken == "" {
		c.broken = fmt.Sprintf(format, args...)
		c.log("BROKEN %s", c.broken)
	}
}

func (c *cluster) linked(a, b string) bool {
	return !c.cut[[2]string{min(a, b), max(a, b)}]
}

// post sends a message: perhaps late, twice or never.
func (c *cluster) post(from, to string, deliver func()) {
	times := 1
	if !c.calm {
		if c.rng.IntN(12) == 0 {
			return
		}
		if c.rng.IntN(12) == 0 {
			times = 2
		}
	}
	for range times {
		late := time.Duration(1+c.rng.IntN(5)) * time.Millisecond
		if !c.calm && c.rng.IntN(8) == 0 {
			late = time.Duration(c.rng.IntN(3000)) * time.Millisecond
		}
		c.mail = append(c.mail, mail{from, to, c.now.Add(late), deliver})
	}
}

// -- one server's life ------------------------------------------------------------------------------------------------------

func (s *server) boot() {
	cfg := clusterConfig
	cfg.Self, cfg.omit = s.name, s.c.omit
	s.up, s.m = true, New(cfg, s.st)
	s.inbox, s.effects, s.serving, s.held, s.begun, s.via = nil, nil, false, false, false, ""
	s.waiting, s.holding, s.required, s.in = nil, nil, nil, nil
	s.out, s.asked, s.tokens = map[string]*session{}, map[uint64]*session{}, map[uint64]func(Reply){}
	s.inbox = append(s.inbox, Started{s.own()})
	s.c.log("%s starts: %s promised %s served %s record %v", s.name, s.st.Role, s.st.Promised, s.st.Served, s.st.Record)
}

func (s *server) crash() {
	c := s.c
	c.log("%s CRASHES", s.name)
	c.count["crashes"]++
	s.up, s.serving, s.inbox, s.effects = false, false, nil, nil
	for _, o := range c.servers {
		for _, x := range o.out {
			if x.s == s {
				x.sEnds()
			}
			if x.t == s {
				x.tDead = true
			}
		}
	}
	if s.in != nil {
		s.in.tDead = true
	}
	for _, x := range s.asked {
		x.tDead = true
	}
	for id, a := range c.commands {
		if a.server == s {
			delete(c.commands, id)
		}
	}
}

func (s *server) own() Own {
	history, pos := s.history, s.pos
	if s.anchor != nil {
		history, pos = s.anchor.history, s.anchor.pos
	}
	return Own{History: slices.Clone(history), Position: pos, Floor: pos, Consistent: s.consistent, Reserved: pos.Number + 1, Failed: s.failed}
}

func (s *server) info() PeerInfo {
	o := s.own()
	return PeerInfo{Known: true, Role: s.st.Role, Serving: s.serving, Promised: s.st.Promised, Served: s.st.Served,
		Record: s.st.Clone().Record, Settings: s.st.Settings.Clone(), History: o.History, Position: o.Position, Floor: o.Floor, Consistent: s.consistent, Failed: s.failed}
}

// step lets the server do one thing: the next effect, or else the next event.
func (s *server) step() {
	if !s.up {
		return
	}
	if len(s.effects) > 0 {
		e := s.effects[0]
		s.effects = s.effects[1:]
		s.do(e)
		if !s.c.calm && s.c.rng.IntN(crashOneIn(e)) == 0 {
			s.crash()
		}
		return
	}
	var ev Event
	switch {
	case s.c.now.Sub(s.tick) >= 250*time.Millisecond:
		s.tick = s.c.now
		ev = Tick{}
	case len(s.inbox) > 0:
		ev = s.inbox[0]
		s.inbox = s.inbox[1:]
	default:
		return
	}
	var known []lineage.Term
	s.m.promises(func(t lineage.Term, _ string) { known = append(known, t) })
	s.c.heardAnswer(s, ev)
	s.c.judgeRelease(ev)
	s.effects = s.m.Step(s.c.now, ev)
	s.c.judge(s, s.effects)
	s.c.judgeOverruled(s, known)
	if _, tick := ev.(Tick); tick {
		s.answersWait()
	} else {
		s.c.log("%s <- %T%+v", s.name, ev, ev)
	}
}

// crashOneIn is how likely a server crashes right after the effect: most likely where a hand-over hangs on it.
func crashOneIn(e Effect) int {
	switch e := e.(type) {
	case CloseDevice, DeliverToken, BecomeSource, DropSession, AcceptSession:
		return 15
	case Save:
		if e.Standing.Role == lineage.RoleHanded {
			return 8
		}
	}
	return 600
}

func (s *server) save(st lineage.Standing) {
	c := s.c
	if st.Promised.Less(s.said) {
		c.fail("promise: %s saves promise %s though it said %s", s.name, st.Promised, s.said)
	}
	if st.Promised.Less(s.terms[0]) || st.Served.Less(s.terms[1]) {
		c.fail("terms: %s goes down from promised %s served %s to %s, %s", s.name, s.terms[0], s.terms[1], st.Promised, st.Served)
	}
	s.terms = [2]lineage.Term{st.Promised, st.Served}
	s.st, c.dirty = st.Clone(), true
}

// begin makes a new generation, durably.
func (s *server) begin() *lineage.Generation {
	s.c.gens++
	if s.anchor != nil {
		s.c.fail("rolling: %s begins a generation in the middle of a resync", s.name)
	}
	g := lineage.Generation{ID: lineage.GenID{byte(s.c.gens >> 8), byte(s.c.gens), 1}, Term: s.st.Served, Began: s.pos.Number, Held: s.pos.Number, After: s.st.Record.After}
	s.history = append(slices.Clone(s.history), g)
	s.pos = lineage.Position{Gen: g.ID, Number: s.pos.Number + 1}
	s.begun = true
	return &g
}

// do carries out one effect.
func (s *server) do(e Effect) {
	c := s.c
	if _, note := e.(Note); !note {
		c.log("%s -> %T%+v", s.name, e, e)
	}
	switch e := e.(type) {
	case Save:
		s.save(e.Standing)
	case BecomeSource:
		before := s.st.Record.Epoch
		s.save(e.Standing)
		if c.reckless != nil {
			s.lazy = e.Lazy
			c.judgeBecome(s, before)
		}
		if s.begun = false; !e.Lazy {
			s.begin()
		}
	case OpenDevice:
		s.openDevice()
	case CloseDevice:
		s.serving, s.held, s.waiting, s.holding = false, false, nil, nil
	case Dial:
		if s.failed && s.m.failed != "" {
			c.fail("failed: %s wants to bring %s up to date", s.name, e.Target)
		}
		c.dial(s, e)
	case ServeFrom:
		s.serveFrom(e.Target)
	case Hangup:
		s.hangup(e.Target)
	case Require:
		s.required = e.Members
	case SendRecord:
		s.send(e.Target, frameRecord{e.Record})
	case SendSettings:
		s.send(e.Target, frameSettings{e.Settings})
	case SendCheckpoint:
		s.send(e.Target, frameCheckpoint{s.pos.Number})
	case Hold:
		s.held, s.plan = true, e.Plan
	case Release:
		if s.held = false; !s.stands() {
			s.letGo()
		}
	case Checkpoint:
		s.inbox = append(s.inbox, CheckedHere{e.Plan, s.pos})
	case DeliverToken:
		c.deliverToken(s, e.Heir)
	case AskPeers:
		c.askPeers(s, e.Nodes)
	case AcceptSession:
		s.accept(e.ID)
	case RefuseSession:
		s.refuse(e)
	case DropSession:
		s.dropIn()
	case AckRecord:
		if s.in != nil {
			s.in.up = append(s.in.up, frameRecordAck{e.Epoch})
		}
	case Reply:
		s.reply(e)
	default:
		s.doForced(e)
	}
}

func (s *server) openDevice() {
	c := s.c
	s.serving = true
	c.count["opened"]++
	if s.st.Served.Node != s.name || s.st.Role != lineage.RoleSource {
		c.fail("open: %s opens while its standing is %s, served %s", s.name, s.st.Role, s.st.Served)
	}
	if s.failed && s.m.failed != "" {
		c.fail("failed: %s opens a copy that failed", s.name)
	}
	if c.reckless != nil {
		c.judgeOpen(s)
		return
	}
	for _, o := range c.servers {
		if o != s && o.serving {
			c.fail("two sources: %s opens in term %s while %s serves in term %s", s.name, s.st.Served, o.name, o.st.Served)
		}
	}
	for w := range c.answered {
		if !s.holds(w) && !s.failed { // it failed just now: nothing is answered
			c.fail("lost write: %s opens in term %s without answered write %d", s.name, s.st.Served, w)
		}
	}
}

func (s *server) reply(e Reply) {
	c := s.c
	if answer := s.tokens[e.ID]; answer != nil {
		delete(s.tokens, e.ID)
		answer(e)
		return
	}
	if c.commands[e.ID] == nil {
		c.fail("replies: %s answers command %d, which nobody waits for", s.name, e.ID)
		return
	}
	text := c.commands[e.ID].text
	c.count[text+" "+e.Rule]++
	if w := c.commands[e.ID].force; w != nil {
		c.forceAnswered(s, w, e)
	}
	delete(c.commands, e.ID)
}

func (s *server) answersWait() {
	if len(s.waiting) == 0 || !s.serving {
		return
	}
	var lost []string
	for _, n := range s.required {
		if x := s.out[n]; x == nil || !x.inStep || x.sDead {
			lost = append(lost, n)
		}
	}
	if len(lost) > 0 {
		s.inbox = append(s.inbox, AnswersWait{lost})
	}
}
