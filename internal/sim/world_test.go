package sim

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/peer"
)

// world is one history: servers, network, clients, administrators, and what the checkers know. One goroutine, the driver, decides what
// happens next, while all others wait; random numbers of the driver come from rng, those that others need from chance.
//
// Locks: mu guards what answers to clients change (writes, tenures, what was safe); logMu is a leaf. Agents' goroutines that
// hold locks of their own never take mu.
type world struct {
	t         *testing.T
	seed      uint64
	rng       *rand.Rand
	net       *network
	servers   []*server
	encrypted bool
	mode      string // of the volume's mirrors at first
	began     time.Time
	serial    int
	lives     []*process
	calm      bool // no more faults
	mutant    *mutant
	steps     int
	faults    atomic.Int64 // so far
	among     []int64      // only these sectors are written, one at a time; nil: any. For scripts
	mix       mix
	admins    sync.WaitGroup

	mu       sync.Mutex
	ids      int
	writes   []*write
	byID     map[int]*write
	zeroes   map[int64][]*write // by sector, writes of zeroes
	safe     []*write
	force    forcing
	held     holding
	opened   map[lineage.Term]string
	newest   lineage.Term // of opened
	broken   string
	commands map[int]command // under way
	commandN int

	logMu sync.Mutex
	told  []string
	count map[string]int
}

// mix is what kind of history it is: how often, in 10000 steps, what happens.
type mix struct {
	crash, power, armed, stop, cut, refuse, disk, fail, admin, member, force, reckless, hold int
	pause                                                                                    int // ms, the longest ordinary pause
	lag                                                                                      int // ms that every delay of the network is longer; -1: any
}

func newWorld(t *testing.T, seed uint64, m *mutant) *world {
	w := &world{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x5349)), began: time.Now(), mutant: m,
		byID: map[int]*write{}, zeroes: map[int64][]*write{}, opened: map[lineage.Term]string{}, count: map[string]int{}, commands: map[int]command{}, held: holding{copies: map[*server]heldCopy{}},
	}
	w.net = newNetwork(w)
	for i := range w.pick(2, 3, 3, 3, 3, 4, 5) {
		w.servers = append(w.servers, newServer(w, i))
	}
	w.encrypted = w.rng.IntN(4) == 0
	w.mode = []string{"sync", "sync", "async"}[w.rng.IntN(3)]
	w.steps = 120 + w.rng.IntN(200)
	w.mix = mix{
		crash: w.pick(0, 0, 60, 200), power: w.pick(0, 0, 60, 200), armed: w.pick(0, 0, 150, 400), stop: w.pick(0, 30, 60), cut: w.pick(0, 0, 150, 300), refuse: w.pick(0, 0, 50),
		disk: w.pick(0, 0, 0, 60), fail: w.pick(0, 0, 0, 60), member: w.pick(0, 0, 0, 150), lag: -1, admin: w.pick(0, 200, 500), force: w.pick(0, 0, 100, 200), reckless: w.pick(0, 0, 60), pause: w.pick(5, 20, 60),
	}
	if w.mix.force > 0 && w.chance("hold")%2 == 0 {
		w.mix.hold = 200
	}
	if m != nil { // rough, so that it shows soon
		w.mix = mix{crash: 60, power: 150, armed: 400, stop: 30, cut: 200, refuse: 20, disk: w.pick(60, 300), lag: -1, admin: 300, force: w.pick(0, 150), reckless: w.pick(0, 40), pause: w.pick(4, 15, 40)}
		if m.tune != nil {
			m.tune(&w.mix)
		}
	}
	return w
}

// pick chooses one of the numbers.
func (w *world) pick(of ...int) int { return of[w.rng.IntN(len(of))] }

// chance is a random number that depends on what it is for alone, not on when it is asked for.
func (w *world) chance(what ...any) int64 {
	h := fnv.New64a()
	fmt.Fprint(h, w.seed)
	for _, x := range what {
		fmt.Fprint(h, x, "/")
	}
	return int64(rand.New(rand.NewPCG(h.Sum64(), 1)).Uint64() >> 1)
}

func (w *world) byName(name string) *server {
	for _, s := range w.servers {
		if s.name == name {
			return s
		}
	}
	return nil
}

func sortedBy[K comparable](set map[K]struct{}, key func(K) string) []K {
	list := make([]K, 0, len(set))
	for k := range set {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b K) int { return cmp.Compare(key(a), key(b)) })
	return list
}

// -- the story -------------------------------------------------------------------------------------------------------------

const toldMax = 20000

func (w *world) story(format string, args ...any) {
	line := fmt.Sprintf("%9.4f ", time.Since(w.began).Seconds()) + fmt.Sprintf(format, args...)
	w.logMu.Lock()
	defer w.logMu.Unlock()
	if len(w.told) < toldMax {
		w.told = append(w.told, line)
	}
}

func (w *world) log(server, format string, args ...any) {
	w.story("%s %s", server, fmt.Sprintf(format, args...))
}

// tally counts what happened.
func (w *world) tally(what string) {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	w.count[what]++
}

func (w *world) counted(what string) int {
	w.logMu.Lock()
	defer w.logMu.Unlock()
	return w.count[what]
}

// logger puts what an agent says into the story.
func (w *world) logger(server string) *slog.Logger {
	return slog.New(&teller{w: w, server: server})
}

type teller struct {
	w      *world
	server string
}

func (t *teller) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (t *teller) WithAttrs([]slog.Attr) slog.Handler           { return t }
func (t *teller) WithGroup(string) slog.Handler                { return t }
func (t *teller) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	r.Attrs(func(a slog.Attr) bool {
		if text := a.Value.String(); text != "" && a.Key != "volume" && a.Key != "plan" {
			fmt.Fprintf(&b, " %s=%q", a.Key, text)
		}
		return true
	})
	t.w.log(t.server, "%s:%s", r.Message, b.String())
	return nil
}

// fail notes the first guarantee that is broken.
func (w *world) fail(rule, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failLocked(rule, format, args...)
}

func (w *world) failLocked(rule, format string, args ...any) {
	if w.broken == "" {
		w.broken = rule + ": " + fmt.Sprintf(format, args...)
		w.story("BROKEN %s", w.broken)
	}
}

func (w *world) isBroken() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.broken != ""
}

// -- certificates ----------------------------------------------------------------------------------------------------------

var certificates struct {
	mu  sync.Mutex
	ca  *peer.CA
	pem map[string][2][]byte
}

// identityOf is the server's identity. Certificates are made once, in the bubble's time, which is the same in each.
func identityOf(t *testing.T, name string) peer.Identity {
	c := &certificates
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ca == nil {
		ca, err := peer.NewCA()
		if err != nil {
			t.Fatal(err)
		}
		c.ca, c.pem = ca, map[string][2][]byte{}
	}
	pair, ok := c.pem[name]
	if !ok {
		cert, key, err := c.ca.Issue(name)
		if err != nil {
			t.Fatal(err)
		}
		pair = [2][]byte{cert, key}
		c.pem[name] = pair
	}
	id, err := peer.NewIdentity(c.ca.PEM(), pair[0], pair[1])
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// -- the history -----------------------------------------------------------------------------------------------------------

// run is the whole history. It returns what broke, "" if nothing did.
func (w *world) run() string {
	w.calm = true
	w.boot()
	w.create()
	w.calm = false
	for step := 0; step < w.steps && !w.isBroken(); step++ {
		w.rest()
		w.check()
		if !w.isBroken() {
			w.act()
		}
	}
	if !w.isBroken() {
		w.finale()
	}
	w.end()
	return w.broken
}

// boot starts everybody, with empty disks.
func (w *world) boot() {
	for _, s := range w.servers {
		_ = s.mem.MkdirAll("/disk")
		_ = s.mem.MkdirAll("/state/volumes")
		s.start()
	}
}

// rest lets time pass, until everybody waits.
func (w *world) rest() {
	d := time.Duration(w.rng.IntN(w.mix.pause*1000)) * time.Microsecond
	if w.resyncing() && w.rng.IntN(8) > 0 { // the windows in which most can go wrong
		d = time.Duration(w.rng.IntN(4000)) * time.Microsecond
	} else if w.rng.IntN(20) == 0 {
		d = time.Duration(w.rng.IntN(2500)) * time.Millisecond
	}
	w.pause(d)
}

// resyncing reports whether a resync runs.
func (w *world) resyncing() bool {
	src := w.source()
	return src != nil && slices.ContainsFunc(src.shown().Mirrors, func(m mirror.MirrorView) bool { return m.State == mirror.Resync })
}

func (w *world) pause(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// create makes the volume; nothing fails yet.
func (w *world) create() {
	r := api.CreateVolume{Name: volumeName, Source: api.Place{Node: "a", Path: w.servers[0].path}, Mode: w.mode, SizeBytes: volumeBytes}
	for i, s := range w.servers[1:] {
		if i > 0 && w.mix.member > 0 && w.rng.IntN(3) == 0 { // it is added later
			s.out.Store(true)
		}
		if s.out.Load() {
			continue
		}
		r.Targets = append(r.Targets, api.Place{Node: s.name, Path: s.path})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := w.servers[0].up().Service().CreateVolume(ctx, r); err != nil {
		w.fail("create", "%v", err)
		return
	}
	if on := true; w.mix.hold > 0 {
		if _, err := w.servers[0].up().Service().SetVolume(ctx, api.VolumeChange{Name: volumeName, HoldOldCopies: &on}); err != nil {
			w.fail("create", "%v", err)
		}
	}
	w.story("created: %d servers, %s, encryption %v, mix %+v, %d steps", len(w.servers), w.mode, w.encrypted, w.mix, w.steps)
	if w.rng.IntN(4) > 0 {
		w.pause(time.Second)
	}
	if rate := int64(w.pick(0, 1<<20, 4<<20)); rate > 0 {
		for _, p := range r.Targets {
			change := api.MirrorChange{Volume: volumeName, Target: p.Node, Action: "set", ResyncRate: &rate}
			if _, err := w.servers[0].up().Service().ChangeMirror(ctx, change); err != nil {
				w.fail("create", "%v", err)
			}
		}
	}
	w.net.mu.Lock()
	w.net.slow = time.Duration(w.pick(0, 0, 3, 12)) * time.Millisecond
	if w.mix.lag >= 0 {
		w.net.slow = time.Duration(w.mix.lag) * time.Millisecond
	}
	w.net.mu.Unlock()
	if w.rng.IntN(3) == 0 {
		for _, s := range w.servers {
			s.slow.Store(int64(w.pick(0, 1, 4)) * int64(time.Millisecond))
		}
	}
}

// end stops everything, so that no goroutine is left in the bubble.
func (w *world) end() {
	w.calm = true
	for _, s := range w.servers {
		if s.up() != nil {
			s.proc.die(false, "at the end")
		}
	}
	for _, p := range w.lives {
		<-p.closed
	}
	w.admins.Wait()
	time.Sleep(10 * time.Second) // what was on its way
}

// act is one thing that happens.
func (w *world) act() {
	s := w.servers[w.rng.IntN(len(w.servers))]
	for _, x := range w.servers {
		if x.up() == nil && !time.Now().Before(x.backAt) && w.rng.IntN(8) == 0 {
			w.mayReturn(x)
			return
		}
	}
	m, dice := w.mix, w.rng.IntN(10000)
	if w.resyncing() && w.rng.IntN(3) > 0 {
		w.client()
		w.client()
		if w.rng.IntN(25) == 0 {
			w.drama()
		}
		return
	}
	for _, c := range []struct {
		often int
		do    func(*server)
	}{
		{m.crash, func(s *server) { w.down(s, false, 0) }},
		{m.power, func(s *server) { w.down(s, true, 0) }},
		{m.power / 8, func(*server) { w.blackout() }},
		{m.armed, func(s *server) { w.down(s, w.rng.IntN(2) == 0, 1+w.rng.Int64N(w.rng.Int64N(200)+1)) }},
		{m.stop, w.stop},
		{m.cut, w.cut},
		{m.cut * 2, w.heal},
		{m.refuse, w.refuse},
		{m.disk, w.disk},
		{m.fail, w.failSource},
		{m.admin, w.administer},
		{m.member, w.changeMembers},
		{m.force, w.takeOver},
		{m.reckless, w.reckless},
		{m.hold, w.hold},
		{60, w.stranger},
	} {
		if dice -= c.often; dice < 0 {
			c.do(s)
			return
		}
	}
	for range 1 + w.rng.IntN(4) {
		w.client()
	}
}

// drama: in the middle of a resync its target dies at one of its next I/Os, or its source dies and the target is to take over.
func (w *world) drama() {
	src := w.source()
	if src == nil {
		return
	}
	mirrors := src.shown().Mirrors
	i := slices.IndexFunc(mirrors, func(m mirror.MirrorView) bool { return m.State == mirror.Resync })
	if i < 0 {
		return
	}
	target := w.byName(mirrors[i].Target)
	power := w.mix.power > 0 && w.rng.IntN(2) == 0
	if w.mix.armed > 0 {
		w.down(target, power, 1+w.rng.Int64N(40))
	}
	if w.mix.force > 0 && w.rng.IntN(2) == 0 {
		w.down(src, power, 0)
		w.pause(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
		if target.up() == nil {
			w.mayReturn(target)
		}
		w.switchover(target, api.Switchover{Volume: volumeName, To: target.name, Force: true, NoCatchUp: w.rng.IntN(3) == 0})
	}
}

// client submits something at a server that serves.
func (w *world) client() {
	var open []*tenure
	for _, s := range w.servers {
		if s.open() && s.proc.tenure != nil && !s.proc.tenure.over {
			open = append(open, s.proc.tenure)
		}
	}
	if len(open) == 0 {
		return
	}
	t := open[w.rng.IntN(len(open))]
	w.mu.Lock()
	flying := t.flying
	w.mu.Unlock()
	if flying < 12 {
		w.request(t)
	}
}

// down ends the life of a server's agent, now or at its n-th I/O from now.
func (w *world) down(s *server, power bool, in int64) {
	if s.up() == nil {
		return
	}
	w.faults.Add(1)
	s.backAt = time.Now().Add(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
	if in > 0 {
		w.log(s.name, "will die at the %d. I/O from now, power loss: %v", in, power)
		s.proc.arm(in, power)
		return
	}
	s.proc.die(power, "")
}

// blackout is a power cut for everybody.
func (w *world) blackout() {
	w.story("power cut for everybody")
	for _, s := range w.servers {
		w.down(s, true, 0)
		s.backAt = time.Now().Add(time.Duration(w.rng.IntN(500)) * time.Millisecond)
	}
}

func (w *world) stop(s *server) {
	if s.up() == nil {
		return
	}
	w.faults.Add(1)
	s.backAt = time.Now().Add(time.Duration(w.rng.IntN(2000)) * time.Millisecond)
	w.admins.Go(s.stop)
	w.pause(10 * time.Millisecond)
}

// mayReturn starts a server again. Something of its last life may still run, and can do nothing.
func (w *world) mayReturn(s *server) {
	s.start()
}

func (w *world) cut(s *server) {
	o := w.servers[w.rng.IntN(len(w.servers))]
	if o == s {
		return
	}
	w.tally("ways cut")
	w.faults.Add(1)
	both := w.rng.IntN(3) > 0
	w.log(s.name, "network to %s is cut, both ways: %v", o.name, both)
	w.net.setCut(s.name, o.name, true)
	if both {
		w.net.setCut(o.name, s.name, true)
	}
	if w.rng.IntN(3) == 0 { // from everybody
		for _, x := range w.servers {
			if x != s {
				w.net.setCut(s.name, x.name, true)
				w.net.setCut(x.name, s.name, true)
			}
		}
		w.log(s.name, "is cut off from everybody")
	}
}

func (w *world) heal(*server) {
	w.net.mu.Lock()
	var ways [][2]string
	for way := range w.net.cut {
		ways = append(ways, way)
	}
	w.net.mu.Unlock()
	slices.SortFunc(ways, func(a, b [2]string) int { return cmp.Compare(a[0]+a[1], b[0]+b[1]) })
	all := w.rng.IntN(2) == 0
	for _, way := range ways {
		if all || w.rng.IntN(2) == 0 {
			w.log(way[0], "network to %s is healed", way[1])
			w.net.setCut(way[0], way[1], false)
		}
	}
}

func (w *world) refuse(s *server) {
	w.net.mu.Lock()
	defer w.net.mu.Unlock()
	w.net.refuse[s.name] = !w.net.refuse[s.name]
	w.tally("refusals")
	w.faults.Add(1)
	w.log(s.name, "refuses new connections: %v", w.net.refuse[s.name])
	w.net.slow = time.Duration(w.pick(0, 0, 0, 5, 60)) * time.Millisecond
}

// disk makes a disk fail, fill up or be slow, or ends that.
func (w *world) disk(s *server) {
	w.faults.Add(1)
	switch w.rng.IntN(6) {
	case 0:
		if !w.maySpare(s) {
			return
		}
		s.mu.Lock()
		s.eio = []string{"read", "write", "sync", "zero"}[w.rng.IntN(4)]
		w.tally("EIO on " + s.eio)
		w.log(s.name, "disk fails at the next %s", s.eio)
		s.mu.Unlock()
	case 1, 2:
		full := !s.full.Load()
		s.full.Store(full)
		w.tally("disk full")
		w.log(s.name, "disk full: %v", full)
		if full {
			s.mem.SetFree(0)
		} else {
			s.mem.SetFree(-1)
		}
	case 3, 4:
		s.slow.Store(int64(w.pick(0, 3, 20, 120)) * int64(time.Millisecond))
		w.tally("disk slow")
		w.log(s.name, "disk takes %s more", time.Duration(s.slow.Load()))
	default:
		s.lazy.Store(int64(w.pick(0, 1, 3)))
	}
}

func (w *world) failedDisks() (n int) {
	for _, s := range w.servers {
		s.mu.Lock()
		if s.failed || s.eio != "" {
			n++
		}
		s.mu.Unlock()
	}
	return n
}
