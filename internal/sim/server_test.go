package sim

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"keelson/internal/config"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/node"
	"keelson/internal/vfs"
	"keelson/internal/volume"
)

// server is a machine: its disk outlives its processes.
type server struct {
	w    *world
	name string
	mem  *vfs.Mem
	path string // of the copy

	proc   *process // nil while it is down; the driver's
	dark   bool     // its power is gone: nobody says that connections to it are over. Guarded by the network's mutex
	backAt time.Time

	slow  atomic.Int64 // ns that some calls to the copy take; below 0: that every write takes
	lazy  atomic.Int64 // how often others come first at each call
	full  atomic.Bool
	moves atomic.Int64 // changes of the copy so far, and syncs

	mu      sync.Mutex
	eio     string    // the copy's calls of this kind fail from now on; "": none
	failed  bool      // it did
	ever    bool      // ... or did before its disk was replaced
	when    time.Time // of the first such failure of this disk
	lost    time.Time // of the last power loss
	digests digests

	// What checkers remember of it.
	promised, served lineage.Term
	flushed          lineage.Position // of the newest flush that it answered
	held             map[int64][]int  // by sector: safe writes that were durable on this disk
	seen             [3]int64
	fresh            atomic.Bool // its disk is new: it has to be added again
	out              atomic.Bool // it is no member: it was removed, or never added
	left             atomic.Bool // it was removed at some time
	changing         atomic.Bool // it is being added or removed
	unsure           atomic.Bool // ... and nobody said how that ended
	forced           time.Time   // when it was last told to take over by force
	judged           string      // the state of its copy in which checkBoundaries looked at it
}

func newServer(w *world, i int) *server {
	name := string(rune('a' + i))
	return &server{w: w, name: name, mem: vfs.NewMem(int64(w.seed)<<8 + int64(i)), path: "/disk/" + name + ".img", held: map[int64][]int{}, digests: newDigests()}
}

// process is one life of a server's agent.
type process struct {
	s      *server
	mem    *vfs.Mem
	serial int
	ctx    context.Context
	cancel context.CancelFunc
	points atomic.Int64
	dieAt  atomic.Int64 // the point at which it dies; 0: none
	power  atomic.Bool  // ... of a power loss
	busy   atomic.Int64 // calls that a slow disk holds
	dead   atomic.Bool

	mu      sync.Mutex // held over calls that change names, and over the end of the life
	node    atomic.Pointer[node.Node]
	closing atomic.Bool
	closed  chan struct{} // when nothing of it runs any more
	tenure  *tenure       // while it serves, as the driver knows; the driver's
	newest  lineage.Term  // in which anybody was seen to serve before this life
	began   time.Time
}

func (p *process) isDead() bool { return p.dead.Load() }

// point is a place at which a life may end.
func (p *process) point(what string) error { return p.pointOf(what, "") }

// pointOf is a point at a sync of that file: if the life ends there by a kill, the sync may have failed just before. Then memory
// keeps what it should have written, and shows it to the next life, until the power goes.
func (p *process) pointOf(what, synced string) error {
	n := p.points.Add(1)
	if n == p.dieAt.Load() {
		if p.power.Load() || p.s.w.chance("failed sync", p.s.name, n)%2 == 0 {
			synced = ""
		}
		if p.dieOf(p.power.Load(), fmt.Sprintf("at I/O %d: %s", n, what), synced) {
			return errLast
		}
	}
	if p.isDead() {
		return vfs.ErrCrashed
	}
	return nil
}

// errLast is what the call gets at which a life ends: a write is done in part.
var errLast = fmt.Errorf("the last call: %w", vfs.ErrCrashed)

// die ends the life at once: nothing it does has any effect afterwards, and nothing is answered. What is left of it is cleared away.
// It takes no lock that a checker holds: it comes from deep within the agent. False: it was over already.
func (p *process) die(power bool, why string) bool { return p.dieOf(power, why, "") }

func (p *process) dieOf(power bool, why, synced string) bool {
	p.mu.Lock()
	if p.dead.Swap(true) {
		p.mu.Unlock()
		return false
	}
	kind := "killed"
	if power {
		kind = "power lost"
		p.mem.CrashPower()
		p.s.mu.Lock()
		p.s.moves.Add(1)
		p.s.lost, p.s.digests.all = time.Now(), true
		p.s.mu.Unlock()
	} else {
		if synced != "" {
			p.mem.FailSync(synced)
			why += ", which fails"
			p.s.w.tally("failed syncs of a log")
		}
		p.mem.CrashProcess()
	}
	p.mu.Unlock()
	p.s.w.net.kill(p, power)
	p.s.w.tally(kind)
	p.s.w.log(p.s.name, "%s %s", kind, why)
	go p.clear()
	return true
}

// clear ends the goroutines of a life that is over, or that is stopped, once.
func (p *process) clear() {
	n := p.node.Load()
	if n == nil { // start will
		return
	}
	if p.closing.Swap(true) {
		<-p.closed
		return
	}
	defer close(p.closed)
	p.cancel()
	if err := n.Close(); err != nil && !p.isDead() {
		p.s.w.log(p.s.name, "stopped with: %v", err)
	}
}

// start begins a life. The bubble's time stands still meanwhile.
func (s *server) start() {
	w := s.w
	w.serial++
	p := &process{s: s, mem: s.mem, serial: w.serial, closed: make(chan struct{})}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	w.mu.Lock()
	s.proc, p.newest, p.began = p, w.newest, time.Now()
	w.mu.Unlock()
	w.lives = append(w.lives, p)
	w.net.answerDead(s.name)
	if !w.calm && w.chance("die at start", s.name, p.serial)%12 == 0 {
		p.arm(int64(1+w.chance("start point", s.name, p.serial)%120), w.chance("start power", s.name, p.serial)%2 == 0)
	}
	out := node.Outside{FS: disk{p}, Network: w.net.of(p)}
	if w.mutant != nil {
		out.Omit = w.mutant.name
	}
	w.log(s.name, "starts")
	w.tally("starts")
	id := identityOf(w.t, s.name)
	id.Incarnation = fmt.Sprintf("%s-%d", s.name, p.serial)
	n, err := node.Start(p.ctx, s.config(), id, out, w.logger(s.name))
	if err != nil {
		p.cancel()
		p.closing.Store(true)
		close(p.closed)
		if !p.isDead() {
			w.fail("start", "%s cannot start: %v", s.name, err)
		}
		return
	}
	p.node.Store(n)
	if p.isDead() { // while it started
		p.clear()
	}
}

// arm makes the life end at that point, counted from now.
func (p *process) arm(in int64, power bool) {
	p.power.Store(power)
	p.dieAt.Store(p.points.Load() + in)
}

// stop ends the life cleanly.
func (s *server) stop() {
	p := s.proc
	s.w.log(s.name, "is stopped")
	s.w.tally("stopped")
	p.clear()
	p.mu.Lock()
	gone := p.dead.Swap(true)
	if !gone {
		p.mem.CrashProcess()
	}
	p.mu.Unlock()
	if !gone {
		s.w.net.kill(p, false)
	}
}

func (s *server) config() *config.Agent {
	cfg := config.Default()
	cfg.Node, cfg.State, cfg.Listen.Address = s.name, "/state", s.name
	cfg.Encryption = config.Off
	if s.w.encrypted {
		cfg.Encryption = config.On
	}
	for _, o := range s.w.servers {
		cfg.Peers = append(cfg.Peers, config.Peer{Name: o.name, Address: o.name})
	}
	l := &cfg.Limits
	l.SyncTimeout, l.HoldMax, l.JoinWait, l.BootWait = ms(1500), ms(2500), ms(800), ms(3000)
	l.Heartbeat, l.DeadAfter, l.HandshakeMax = ms(300), ms(1200), ms(1000)
	l.RetryMin, l.RetryMax, l.CheckpointEvery = ms(20), ms(600), ms(700)
	l.QueueBytes, l.ResyncBytes, l.HotExtentsMax, l.EventsMax = 1<<20, 256<<10, 6, 64
	return cfg
}

func ms(n int) config.Duration { return config.Duration(time.Duration(n) * time.Millisecond) }

// up is the running agent, or nil.
func (s *server) up() *node.Node {
	if s.proc == nil || s.proc.isDead() {
		return nil
	}
	return s.proc.node.Load()
}

func (s *server) volume() *volume.Volume {
	if n := s.up(); n != nil {
		return n.Volume(volumeName)
	}
	return nil
}

func (s *server) view() *mirror.View {
	if n := s.up(); n != nil {
		return n.View(volumeName)
	}
	return nil
}

// shown is the view of a server that may have died a moment ago, while nobody looked: then there is nothing on it.
func (s *server) shown() mirror.View {
	if v := s.view(); v != nil {
		return *v
	}
	return mirror.View{}
}

// open reports whether applications are let in: also if the disk failed, and the volume stands still or is served from a target.
func (s *server) open() bool {
	view, v := s.view(), s.volume()
	return view != nil && v != nil && view.Open && (v.Failed() == nil || s.hasFailed()) // else a full state disk has stopped the volume
}

// via is the target whose copy a source with a failed disk serves from; nil if there is none.
func (s *server) via() *server {
	if view := s.view(); view != nil && view.Open && view.Via != "" {
		return s.w.byName(view.Via)
	}
	return nil
}

// fails says whether a call to the disk fails.
func (s *server) fails(op string, data, write bool) error {
	if write && s.full.Load() && op != "sync" {
		return nil // the file system itself says so
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.eio == op && data {
		if !s.failed {
			s.when = time.Now()
		}
		s.failed, s.ever = true, true
		return errDisk
	}
	return nil
}

func (s *server) everFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ever
}

func (s *server) hasFailed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// tear does a write in part.
func (p *process) tear(path string, b []byte, off int64) {
	s := p.s
	f, err := p.mem.Open(path, 0)
	if err != nil {
		return
	}
	defer f.Close()
	s.touched(off, int64(len(b)))
	for at := 0; at < len(b); {
		n := min(vfs.SectorBytes-int(off+int64(at))%vfs.SectorBytes, len(b)-at)
		if s.w.chance("tear", s.name, off, at, len(b))%2 == 0 {
			_, _ = f.WriteAt(b[at:at+n], off+int64(at))
		}
		at += n
	}
	_ = f.Datasync()
}
