package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"keelson/internal/frontend/nbd"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/peer"
	"keelson/internal/switchover"
	"keelson/internal/volume"
	"keelson/internal/wire"
)

// do carries out one effect. An error means that it was not done, and nothing after it may be.
func (a *vol) do(effect mirror.Effect) error {
	switch e := effect.(type) {
	case mirror.Save:
		if e.Standing.Role == lineage.RoleHanded {
			a.n.crash("switchover-before-commit")
			defer a.n.crash("switchover-committed")
		}
		return a.inTime(1, func() error { return a.v.SaveStanding(e.Standing) })
	case mirror.BecomeSource:
		a.n.crash("heir-before-save")
		defer a.n.crash("heir-saved")
		return a.inTime(beginStalls, func() error { return a.v.BecomeSource(e.Standing, e.Lazy) })
	case mirror.OpenDevice:
		a.v.OpenDevice()
		err := a.n.nbd.AddExport(a.name, a.v, nbd.ExportOptions{Description: "Keelson volume " + a.name})
		a.device.Serve(a.v)
		a.n.crash("heir-opened")
		return err
	case mirror.CloseDevice:
		a.v.CloseDevice(e.Why)
		a.device.Withdraw()
		a.wantAddress(false)
		a.removeExport()
		a.work(func() { a.endViews(true, "the volume's device was closed") })
		a.v.BecomeTarget()
	case mirror.Dial:
		a.dial(e)
	case mirror.Hangup:
		a.hangup(e.Target, errors.New(e.Why))
	case mirror.Tune:
		a.v.Tune(e.Member)
	case mirror.Require:
		a.v.Require(e.Members, e.Copies)
	case mirror.ServeFrom:
		a.v.ServeFrom(e.Target)
	case mirror.AbandonDisk:
		a.v.AbandonDisk(e.Why)
	case mirror.SendRecord:
		return a.v.SendRecord(e.Target, e.Record)
	case mirror.SendSettings:
		return a.v.SendSettings(e.Target, e.Settings)
	case mirror.SendCheckpoint:
		a.v.SendCheckpoint(e.Target)
	case mirror.Hold:
		a.v.Hold(e.Plan)
		a.n.crash("switchover-held")
	case mirror.Release:
		a.v.Release()
	case mirror.Checkpoint:
		a.v.CheckpointHere(e.Plan)
	case mirror.Fence:
		a.n.crash("force-promised")
		a.fence(e)
	case mirror.GiveUp:
		a.giveUp(e)
	case mirror.RollBack:
		return a.v.RollBack()
	case mirror.DeliverToken:
		a.deliver(e.Heir)
	case mirror.AskPeers:
		a.n.crash("boot-asks")
		for _, node := range e.Nodes {
			if p := a.n.peer(node); p != nil {
				p.kick()
			} else {
				a.post(mirror.PeerLost{Node: node, Why: "its address is not in the configuration ([[peer]])"})
			}
		}
	case mirror.AcceptSession:
		a.accept(e.ID)
	case mirror.RefuseSession:
		a.answerSession(e.ID, func(in *incoming) { _ = in.conn.Refuse(e.Rule, e.Message) })
	case mirror.DropSession:
		return a.v.DropSession(e.Why)
	case mirror.AckRecord:
		return a.v.AckRecord(e.Epoch)
	case mirror.PlanStep:
		a.planStep(e)
	case mirror.Note:
		a.note(e.Level, e.Object, e.Rule, e.Message, e.Next)
	default:
		return fmt.Errorf("an effect that this agent does not know")
	}
	return nil
}

// beginStalls is how many times DiskStall a new tenure may take: it waits for a checkpoint of much data.
const beginStalls = 10

// inTime does what has to be durable before anything follows, and waits for it only so many times DiskStall: a disk under the intent log that
// hangs must not hold up commands and whoever asks for the status. If it is done later all the same, that is as if the agent had
// stopped just after it: the volume says nothing any more until the agent is started again.
func (a *vol) inTime(stalls int, save func() error) error {
	limit := time.Duration(a.n.cfg.Limits.DiskStall) * time.Duration(stalls)
	if limit <= 0 {
		return save()
	}
	saved := make(chan error, 1)
	go func() { saved <- save() }()
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case err := <-saved:
		return err
	case <-late.C:
		return fmt.Errorf("the disk under %s hangs: what has to be durable there is not after %s (%s)", a.dir, limit, lineage.RuleDiskStalled)
	}
}

// removeExport throws applications out: a connection that does not end is cut. Requests that hang in a failed disk are not
// waited for; the device is closed already.
func (a *vol) removeExport() {
	if a.v.Failed() != nil {
		a.work(func() { _ = a.n.nbd.RemoveExport(a.name) })
		return
	}
	_ = a.n.nbd.RemoveExport(a.name)
}

// planStep shows a step to whoever waits for the plan.
func (a *vol) planStep(s mirror.PlanStep) {
	a.mu.Lock()
	watch := a.steps[s.Plan]
	a.mu.Unlock()
	if watch != nil {
		watch(s)
	}
	if s.State == "done" && (s.Name == switchover.StepCommit || s.Name == switchover.StepServe) {
		a.note("info", "volume "+a.name, "", "switchover: "+s.Text, "")
	}
	a.n.log.Info("switchover", "volume", a.name, "plan", s.Plan, "step", s.Name, "state", s.State)
}

// hangup ends the session to the target, begun or about to begin.
func (a *vol) hangup(target string, why error) {
	a.mu.Lock()
	d := a.dials[target]
	delete(a.dials, target)
	a.mu.Unlock()
	if d != nil {
		d.cancel()
	}
	a.v.Hangup(target, why)
}

// helloInfo is what the machine has to know of a hello.
type helloInfo = wire.Hello

// dial tries to begin a session with a target, beside the loop.
func (a *vol) dial(e mirror.Dial) {
	ctx, cancel := context.WithTimeout(a.ctx, time.Duration(a.n.cfg.Limits.HandshakeMax))
	a.mu.Lock()
	if old := a.dials[e.Target]; old != nil {
		old.cancel()
	}
	a.dials[e.Target] = &dialing{session: e.Session, cancel: cancel}
	a.mu.Unlock()
	a.work(func() {
		defer cancel()
		conn, reply, err := a.connect(ctx, e)
		current := a.dialed(e)
		switch {
		case err == nil && !current:
			_ = conn.Close(errors.New("not wanted any more"))
		case err == nil:
			a.begin(e, conn, reply)
		default:
			a.dialFailed(e, err)
		}
	})
}

// dialed reports whether the attempt is still wanted, and ends it.
func (a *vol) dialed(e mirror.Dial) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := a.dials[e.Target]
	if d == nil || d.session != e.Session {
		return false
	}
	delete(a.dials, e.Target)
	return true
}

func (a *vol) connect(ctx context.Context, e mirror.Dial) (*peer.Conn, wire.HelloReply, error) {
	p := a.n.peer(e.Target)
	if p == nil {
		return nil, wire.HelloReply{}, fmt.Errorf("the address of %s is not in the configuration ([[peer]])", e.Target)
	}
	h, own := a.v.Header(), a.v.Own()
	hello := wire.Hello{
		Protocol: wire.Version, Cluster: a.n.id.Cluster, Volume: a.id, Name: a.name, Node: a.n.cfg.Node, Incarnation: a.n.id.Incarnation,
		Session: fmt.Sprintf("%s-%d", a.session, e.Session), Encryption: a.n.cfg.Encryption, Term: h.Served, History: own.History,
		Position: own.Position, Tenure: a.v.Tenure(), Record: h.Record, SettingsVersion: h.Settings.Version, SizeBytes: h.SizeBytes, RegionBytes: h.RegionBytes,
	}
	if m := h.Settings.Find(e.Target); m != nil {
		hello.Mode = string(m.Mode)
	}
	return peer.Dial(ctx, p.addr, e.Target, a.n.id, hello, a.n.peerOptions())
}

func (a *vol) begin(e mirror.Dial, conn *peer.Conn, reply wire.HelloReply) {
	a.post(mirror.LinkUp{Target: e.Target, Session: e.Session})
	o := volume.LinkOptions{Target: e.Target, Session: e.Session, Full: e.Full, Reply: reply}
	if m := a.v.Header().Settings.Find(e.Target); m != nil {
		o.Member = *m
	}
	if err := a.v.StartLink(conn, o); err != nil {
		_ = conn.Close(err)
		a.post(mirror.LinkDown{Target: e.Target, Session: e.Session, Why: err.Error()})
	}
}

func (a *vol) dialFailed(e mirror.Dial, err error) {
	var refused *peer.RefusedError
	if errors.As(err, &refused) {
		a.post(mirror.LinkRefused{Target: e.Target, Session: e.Session, Rule: refused.Rule, Message: refused.Message})
		return
	}
	a.post(mirror.LinkDown{Target: e.Target, Session: e.Session, Why: err.Error()})
}

// streamCame takes a session that a source asks for; it runs in a goroutine of the peer server's, for as long as the session lasts.
func (n *Node) streamCame(conn *peer.Conn, hello wire.Hello) {
	a := n.byID(hello.Volume)
	if a == nil {
		_ = conn.Refuse(ruleUnknownVolume, fmt.Sprintf("%s has no replica of the volume %s (%s)", n.cfg.Node, hello.Name, hello.Volume))
		return
	}
	h := a.v.Header()
	if hello.SizeBytes != h.SizeBytes || hello.RegionBytes != h.RegionBytes {
		_ = conn.Refuse(ruleWrongSize, fmt.Sprintf("the volume has %d bytes in regions of %d here, %d in regions of %d there",
			h.SizeBytes, h.RegionBytes, hello.SizeBytes, hello.RegionBytes))
		return
	}
	in := &incoming{conn: conn, hello: hello, settled: make(chan struct{})}
	id := n.ids.Add(1)
	a.mu.Lock()
	a.asked[id] = in
	a.mu.Unlock()
	a.post(mirror.SessionAsked{ID: id, From: hello.Node, Term: hello.Term, Record: hello.Record, History: hello.History, Position: hello.Position, Mine: a.v.Own()})
	select {
	case <-in.settled:
	case <-conn.Done():
		a.answerSession(id, func(*incoming) {})
	case <-a.done:
		a.answerSession(id, func(in *incoming) { _ = in.conn.Refuse("agent-stops", "the agent is being stopped") })
	}
	<-conn.Done() // the stream is the server's until this returns
}

// answerSession takes the waiting session and answers it.
func (a *vol) answerSession(id uint64, answer func(*incoming)) {
	a.mu.Lock()
	in := a.asked[id]
	delete(a.asked, id)
	a.mu.Unlock()
	if in != nil {
		answer(in)
		close(in.settled)
	}
}

// accept begins the session: the one before is over, with all its I/O, before the answer leaves (rule 14).
func (a *vol) accept(id uint64) {
	a.answerSession(id, func(in *incoming) {
		if hangs := a.v.DropSession("replaced by a new session of " + in.hello.Node); hangs != nil {
			_ = in.conn.Refuse(lineage.RuleDiskStalled, hangs.Error())
			a.post(mirror.SessionEnded{ID: id, Why: hangs.Error()})
			return
		}
		h, own := a.v.Header(), a.v.Own()
		agreed, kept := a.v.AgreedWith(in.hello.History, in.hello.Position)
		encryption := wire.EncryptionOn
		if in.hello.Encryption == wire.EncryptionOff && !a.n.cfg.Encrypted() {
			encryption = wire.EncryptionOff
		}
		reply := wire.HelloReply{
			Node: a.n.cfg.Node, Incarnation: a.n.id.Incarnation, Encryption: encryption, Promised: h.Promised, History: own.History,
			Position: own.Position, Floor: own.Floor, Consistent: own.Consistent, Record: h.Record, Pages: a.v.Pages(),
		}
		a.followed.Store(&following{in.conn, in.hello.Node + "/" + in.hello.Incarnation})
		if failed := in.conn.Accept(reply); failed != nil {
			a.post(mirror.SessionEnded{ID: id, Why: failed.Error()})
			return
		}
		err := a.v.Attach(in.conn, volume.SessionOptions{ID: id, From: in.hello.Node, History: in.hello.History, Position: in.hello.Position, Tenure: in.hello.Tenure, Agreed: agreed, Kept: kept})
		if err != nil { // the source will try again
			_ = in.conn.Close(err)
			a.post(mirror.SessionEnded{ID: id, Why: err.Error()})
		}
		a.n.crash("target-session-accepted")
	})
}
