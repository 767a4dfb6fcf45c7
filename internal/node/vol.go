package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"keelson/internal/address"
	"keelson/internal/api"
	"keelson/internal/attach"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/peer"
	"keelson/internal/volume"
)

// vol is the actor of one volume: one goroutine steps the machine and carries out the effects, in order.
type vol struct {
	tookOver atomic.Int64 // how often this server became the source, since its start
	n        *Node
	name     string
	id       string
	dir      string
	v        *volume.Volume
	device   *attach.Attachment
	address  *address.Keeper // nil: the volume has no service address here
	m        *mirror.Machine // the loop's
	alarms   alarms          // the loop's
	session  string          // prefix of session names
	view     atomic.Pointer[mirror.View]
	followed atomic.Pointer[following] // the newest session of a source
	samples  samples                   // of the last hour
	begun    atomic.Int64              // when the loop's present step began, ns since 1970; 0: none
	moments  moments
	leaving  atomic.Bool
	opened   time.Time
	tries    int  // in a row, of opening the volume when there had been no room. Fixed before start; then the loop's
	shut     bool // it is closed, and takes the place of the one that could not be opened after it. Guarded by Node.making
	ending   sync.Once
	ended    error // of ending

	adding   turn          // one copy at a time is added by this source
	applying chan struct{} // a slot for the one write of a salvage that another server may have under way here
	applied  string        // which salvage it was of, and for whom; whoever has the slot

	mu      sync.Mutex
	inbox   []mirror.Event // bounded by what links, sessions and commands can have under way
	wake    chan struct{}
	replies map[uint64]chan mirror.Reply
	asked   map[uint64]*incoming // sessions that wait for the machine's word
	dials   map[string]*dialing
	steps   map[string]func(mirror.PlanStep) // watchers of plans
	dead    error                            // why the loop carries out nothing any more

	stop    context.CancelFunc
	ctx     context.Context
	done    chan struct{}
	workers sync.WaitGroup
}

// dialing is an attempt to begin a session.
type dialing struct {
	session uint64
	cancel  context.CancelFunc
}

// incoming is a session that a source asked for.
type incoming struct {
	conn    *peer.Conn
	hello   helloInfo
	settled chan struct{}
}

const tickEvery = 100 * time.Millisecond

// inboxMax is where something is wrong: events are answers to a bounded number of things.
const inboxMax = 1 << 16

func newVol(n *Node, name string) (*vol, error) {
	a := &vol{
		n: n, name: name, dir: filepath.Join(n.volumesDir(), name), session: fmt.Sprintf("%s-%d", n.id.Incarnation, n.ids.Add(1)), opened: time.Now(),
		wake: make(chan struct{}, 1), replies: map[uint64]chan mirror.Reply{}, asked: map[uint64]*incoming{},
		dials: map[string]*dialing{}, steps: map[string]func(mirror.PlanStep){}, done: make(chan struct{}), applying: make(chan struct{}, 1), adding: make(turn, 1),
	}
	a.ctx, a.stop = context.WithCancel(context.Background())
	o := volume.Options{FS: n.out.FS, Dir: a.dir, Limits: n.volumeLimits(), Post: a.post, Log: n.log, Crash: n.crash, Owner: a.mine}
	o.Omit(n.out.Omit)
	v, err := volume.Open(o)
	if err != nil {
		a.stop()
		return nil, err
	}
	h := v.Header()
	a.id, a.v = h.Volume, v
	a.device, a.address = a.newAttachment(), a.newAddress()
	a.m = mirror.New(n.machineConfig(), h.Standing)
	view := a.m.View()
	a.view.Store(&view)
	return a, nil
}

// mine refuses a log that was copied from another server.
func (a *vol) mine(h intentlog.Header) error {
	if n := a.n; h.Cluster != n.id.Cluster || h.Node != n.cfg.Node {
		return fmt.Errorf("volume %s: %s belongs to node %s of cluster %s, this is %s of %s; it was copied from another server", a.name, a.dir, h.Node, h.Cluster, n.cfg.Node, n.id.Cluster)
	}
	return nil
}

func (a *vol) start() {
	go a.loop()
	a.post(mirror.Started{Mine: a.v.Own()})
}

// post puts an event into the inbox. It never blocks.
func (a *vol) post(e mirror.Event) {
	a.mu.Lock()
	if len(a.inbox) < inboxMax {
		a.inbox = append(a.inbox, e)
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// call runs f in the loop's goroutine, as an event that is only a question.
type call struct {
	mirror.Tick
	f func(*mirror.Machine)
}

// ask runs f with the machine and waits.
func (a *vol) ask(ctx context.Context, f func(*mirror.Machine)) error {
	done := make(chan struct{})
	a.post(call{f: func(m *mirror.Machine) { f(m); close(done) }})
	select {
	case <-done:
		return nil
	case <-a.done:
		return errStopped
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errStopped = errors.New("the volume is being stopped")

// loop owns the machine. It ends when close says so.
func (a *vol) loop() {
	defer close(a.done)
	timer := time.NewTicker(tickEvery)
	defer timer.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-timer.C:
			if lost := a.v.Waiting(); len(lost) > 0 {
				a.step(mirror.AnswersWait{Members: lost})
			}
			a.watchRoom()
			a.step(mirror.Tick{})
		case <-a.wake:
			a.mu.Lock()
			events := a.inbox
			a.inbox = nil
			a.mu.Unlock()
			for _, e := range events {
				if c, ok := e.(call); ok {
					c.f(a.m)
					continue
				}
				a.step(e)
			}
		}
	}
}

// step gives the machine one event and does what it says.
func (a *vol) step(e mirror.Event) {
	if a.failed() != nil {
		a.refuse(e)
		return
	}
	a.begun.Store(time.Now().UnixNano())
	defer a.begun.Store(0)
	a.crashBefore(e)
	a.tell(e)
	before := a.view.Load()
	effects := a.m.Step(time.Now(), e)
	var replies []mirror.Reply // given when the status shows what they speak of
	for _, effect := range effects {
		if r, ok := effect.(mirror.Reply); ok {
			replies = append(replies, r)
			continue
		}
		if b, ok := effect.(mirror.BecomeSource); ok {
			a.becomes(e, b.Lazy, before)
		}
		if err := a.do(effect); err != nil {
			a.fail(fmt.Errorf("%T: %w", effect, err))
			break
		}
	}
	if !before.Open {
		a.m.Know(a.v.Own()) // what a take-over by this server would risk is shown as it is now
	}
	view := a.m.View()
	view.Open = view.Open && a.failed() == nil // the machine opened it, and what that needs could not be done
	if before.Role != lineage.RoleSource && view.Role == lineage.RoleSource {
		a.tookOver.Add(1)
	}
	a.view.Store(&view)
	for _, r := range replies {
		a.reply(r)
	}
	a.changed(before, &view)
	if len(effects) > 0 || differs(before, &view) {
		a.n.bump()
	}
}

// tell makes events of what an administrator wants to read about resyncs: the kind, the rule, the bytes before and after.
func (a *vol) tell(e mirror.Event) {
	switch e := e.(type) {
	case mirror.Compared:
		if r := a.v.Status(time.Now()).Links[e.Target].Resync; e.Kind != "none" && r != nil {
			a.note("info", fmt.Sprintf("mirror %s->%s", a.n.cfg.Node, e.Target), r.Rule, fmt.Sprintf("%s resync of %d bytes begins", e.Kind, e.Bytes), "")
		}
	case mirror.InStep:
		if r := a.v.Status(time.Now()).Links[e.Target]; r.Resync != nil && r.Session == e.Session && r.Resync.Done {
			p := r.Resync.Progress
			a.note("info", fmt.Sprintf("mirror %s->%s", a.n.cfg.Node, e.Target), r.Resync.Rule,
				fmt.Sprintf("%s resync ended: %d bytes sent, %d found equal or empty", r.Resync.Kind, p.Sent, p.Skipped), "")
		}
	}
}

// differs reports a change that peers or watchers want to see at once.
func differs(a, b *mirror.View) bool {
	if a.Role != b.Role || a.Open != b.Open || a.Source != b.Source || a.Reason != b.Reason || len(a.Mirrors) != len(b.Mirrors) {
		return true
	}
	for i := range a.Mirrors {
		if a.Mirrors[i].State != b.Mirrors[i].State || a.Mirrors[i].Reason != b.Mirrors[i].Reason {
			return true
		}
	}
	return false
}

// slowStep says that what the loop does takes longer than a disk should; "" if it does not.
func (a *vol) slowStep(now time.Time) string {
	limit, begun := time.Duration(a.n.cfg.Limits.DiskStall), a.begun.Load()
	if begun == 0 || limit <= 0 || now.Sub(time.Unix(0, begun)) < limit {
		return ""
	}
	return fmt.Sprintf("what %s is doing has not ended after %s: the disk under the copy or under its intent log hangs, or is slow (%s)", a.n.cfg.Node, limit, lineage.RuleDiskStalled)
}

// command gives the machine an administrator's wish and waits for its word.
func (a *vol) command(ctx context.Context, make func(id uint64) mirror.Event) (mirror.Reply, error) {
	id := a.n.ids.Add(1)
	c := newReply()
	a.mu.Lock()
	a.replies[id] = c
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.replies, id)
		a.mu.Unlock()
	}()
	a.post(make(id))
	select {
	case r := <-c:
		return r, nil
	case <-a.done:
		return mirror.Reply{}, errStopped
	case <-ctx.Done():
		return mirror.Reply{}, ctx.Err()
	}
}

func newReply() chan mirror.Reply { return make(chan mirror.Reply, 1) }

func (a *vol) reply(r mirror.Reply) {
	a.mu.Lock()
	c := a.replies[r.ID]
	delete(a.replies, r.ID)
	a.mu.Unlock()
	if c != nil {
		c <- r
	}
}

func (a *vol) note(level, object, rule, message, next string) {
	a.n.events.Add(api.Event{Level: level, Volume: a.name, Object: object, Rule: rule, Message: message, Next: next})
	a.n.log.Info("event", "volume", a.name, "object", object, "rule", rule, "message", message)
}

// loopMax is how long close waits for the loop, which may be in the middle of a rollback.
const loopMax = time.Minute

// close ends everything of the volume, cleanly. The agent may be stopped while the volume is being forgotten: both wait for the same end.
func (a *vol) close() error {
	a.ending.Do(func() { a.ended = a.end() })
	return a.ended
}

func (a *vol) end() error {
	a.stop()
	late := time.NewTimer(loopMax)
	defer late.Stop()
	select {
	case <-a.done:
	case <-late.C: // what it is about uses the files: it is cut off as by a crash
		return fmt.Errorf("volume %s: what was under way has not ended for %s after the agent was told to stop: its disk hangs, or is very slow", a.name, loopMax)
	}
	a.mu.Lock()
	for _, d := range a.dials {
		d.cancel()
	}
	waiting := a.asked
	a.asked = map[uint64]*incoming{}
	a.mu.Unlock()
	for _, in := range waiting {
		_ = in.conn.Refuse("agent-stops", "the agent is being stopped")
		close(in.settled)
	}
	if a.address != nil {
		a.address.Close()
	}
	a.device.Close()
	a.v.CloseDevice("the agent stops")
	_ = a.n.nbd.RemoveExport(a.name)
	a.endViews(false, "the volume is being stopped")
	a.workers.Wait()
	return a.v.Close()
}

// work runs f beside the loop; close waits for it.
func (a *vol) work(f func()) {
	a.workers.Add(1)
	go func() {
		defer a.workers.Done()
		f()
	}()
}
