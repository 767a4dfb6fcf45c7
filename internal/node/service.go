package node

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/attach"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
)

func randomID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// CreateVolume implements api.Service: a replica is made on every server, then all are started, the source last. When one
// cannot be made, those made before are unmade.
func (s *service) CreateVolume(ctx context.Context, r api.CreateVolume) (*api.VolumeStatus, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	n, object := s.n, "volume "+r.Name
	places := append([]api.Place{r.Source}, r.Targets...)
	mode := lineage.Mode(r.Mode)
	if mode == "" {
		mode = lineage.Sync
	}
	term := lineage.Term{N: 1, Node: r.Source.Node}
	settings := lineage.Settings{Version: lineage.Epoch{Term: term}}
	if r.MinCopies > 1 {
		settings.MinCopies = r.MinCopies
	}
	for _, p := range places {
		if p.Node != n.cfg.Node && n.peer(p.Node) == nil {
			return nil, errNoAddress(p.Node)
		}
		settings.Members = append(settings.Members, lineage.Member{Node: p.Node, Path: p.Path, Mode: mode})
	}
	slices.SortFunc(settings.Members, func(a, b lineage.Member) int { return cmp.Compare(a.Node, b.Node) })
	header := intentlog.Header{Volume: randomID(), Name: r.Name}
	size := r.SizeBytes
	var made []madeReplica
	undo := func(cause error) error {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		for _, m := range made {
			if err := n.forgetAt(clean, m.node, nameRequest{Name: r.Name, Volume: header.Volume, Unmake: m.file}); err != nil {
				cause = errors.Join(cause, fmt.Errorf("and it could not be unmade on %s: %w", m.node, err))
			}
		}
		return cause
	}
	for i, p := range places {
		h := header
		h.Standing = lineage.Standing{Role: lineage.RoleTarget, Settings: settings}
		h.Record = lineage.Record{Epoch: lineage.Epoch{Term: term}, Members: []string{r.Source.Node}}
		if i == 0 {
			h.Role, h.Promised, h.Served = lineage.RoleSource, term, term
		}
		answer, err := n.createAt(ctx, p.Node, createRequest{Header: h, Path: p.Path, SizeBytes: size})
		var said *api.Error
		if err != nil && !errors.As(err, &said) || said != nil && said.Rule == "" && said.Object == "node "+p.Node {
			made = append(made, madeReplica{p.Node, false}) // its answer was lost: perhaps it was made
		}
		if err != nil {
			return nil, undo(err)
		}
		made = append(made, madeReplica{p.Node, answer.Made})
		if i == 0 {
			size, header.RegionBytes = answer.SizeBytes, answer.RegionBytes
		}
	}
	for _, p := range slices.Backward(places) {
		if err := n.startAt(ctx, p.Node, r.Name, nil); err != nil {
			return nil, undo(err)
		}
	}
	n.events.Add(api.Event{Level: "info", Volume: r.Name, Object: object, Message: "created"})
	return s.volumeStatus(ctx, r.Name)
}

type madeReplica struct {
	node string
	file bool // the backing file was made too
}

// heardMax is how long a server without a copy waits until the source of a volume that was made a moment ago has told it.
const heardMax = 5 * time.Second

// volumeStatus is the status of a volume that was made a moment ago, as this agent knows it.
func (s *service) volumeStatus(ctx context.Context, name string) (*api.VolumeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, heardMax)
	defer cancel()
	for {
		s.n.mu.Lock()
		changed := s.n.changed
		s.n.mu.Unlock()
		for _, v := range s.n.status().Volumes {
			if v.Name == name {
				return &v, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, api.Errorf(api.Failed, "volume "+name, "it is made, and its source has not said so to %s yet", s.n.cfg.Node).WithNext("keelson status %s", name)
		}
	}
}

func unknownVolume(name string) *api.Error {
	return api.Errorf(api.Failed, "volume "+name, "no such volume").WithNext("keelson volume list shows those that there are")
}

// atSource finds who has to do something about a volume: the local actor if this server is its source, else the
// client of the source's agent. A call is passed on once.
func (s *service) atSource(ctx context.Context, name string) (*vol, *api.Client, error) {
	n := s.n
	a := n.find(name)
	if a == nil {
		for _, p := range n.neighbours() {
			p.mu.Lock()
			for _, v := range p.serves {
				if v.Name == name && p.up && api.Via(ctx) == "" {
					p.mu.Unlock()
					return nil, p.api(), nil
				}
			}
			p.mu.Unlock()
		}
		n.mu.Lock()
		err := n.broken[name]
		n.mu.Unlock()
		if err != nil {
			return nil, nil, api.Errorf(api.Failed, "volume "+name, "cannot be opened: %v", err).
				WithNext("repair what it names; or stop the agent and move %s away, if the replica is to be given up", filepath.Join(n.volumesDir(), name))
		}
		if up, down := n.holders(name); len(up)+len(down) > 0 {
			return nil, nil, api.Refusal(lineage.RuleNeedsForce, "volume "+name, fmt.Sprintf("%s has no copy of it, and no source of it is known here; %s has a copy", n.cfg.Node, names(append(up, down...))),
				"bring the source back, or ask there (keelson status)")
		}
		return nil, nil, unknownVolume(name)
	}
	view := a.view.Load()
	if view.Role != lineage.RoleTarget || view.Source == n.cfg.Node {
		return a, nil, nil
	}
	object := "volume " + name
	if api.Via(ctx) != "" {
		return nil, nil, api.Refusal(lineage.RuleNotSource, object, fmt.Sprintf("%s is not the source, it believes that %s is", n.cfg.Node, orNobody(view.Source)), lineage.NextOf(lineage.RuleNotSource))
	}
	p := n.peer(view.Source)
	if p == nil {
		return nil, nil, api.Refusal(lineage.RuleNeedsForce, object, "its source is not known here", "bring the source back; keelson status at other servers may know it")
	}
	p.mu.Lock()
	up, why := p.up, p.why
	p.mu.Unlock()
	if !up {
		return nil, nil, api.Refusal(lineage.RuleNeedsForce, object, fmt.Sprintf("the source %s cannot be reached (%s)", view.Source, why), "bring "+view.Source+" back")
	}
	return nil, p.api(), nil
}

func orNobody(node string) string {
	if node == "" {
		return "nobody"
	}
	return node
}

// DeleteVolume implements api.Service: every member forgets the volume; the copies stay as they are.
func (s *service) DeleteVolume(ctx context.Context, r api.DeleteVolume) error {
	a, other, err := s.atSource(ctx, r.Name)
	if err != nil {
		return err
	}
	if other != nil {
		return other.DeleteVolume(ctx, r)
	}
	n, object := s.n, "volume "+r.Name
	if view := a.view.Load(); !view.Open || view.Plan != nil {
		return api.Refusal(lineage.RuleSourceClosed, object, "it is not being served by "+n.cfg.Node+" now: "+view.Reason, lineage.NextOf(lineage.RuleSourceClosed))
	}
	if users := n.nbd.Connections(r.Name); len(users) > 0 {
		return api.Refusal(ruleInUse, object, fmt.Sprintf("%d clients use its device (the first from %s)", len(users), users[0].Remote), "end them first")
	}
	if err := a.mustBeFree(""); err != nil {
		return err
	}
	if err := a.device.Set(ctx, attach.Wish{}); err != nil { // its own connections are not in the way
		return api.Errorf(api.Failed, object, "%v", err)
	}
	members := a.view.Load().Settings.Members
	for _, m := range members {
		if p := n.peer(m.Node); !m.Removed && m.Node != n.cfg.Node && (p == nil || !p.isUp()) {
			return api.Refusal(rulePeerDown, object, m.Node+" cannot be reached, it would keep its replica", "bring it back, or remove that mirror first: keelson mirror remove "+r.Name+" --target "+m.Node)
		}
	}
	for _, m := range members { // the source last: until then it can be asked again
		if !m.Removed && m.Node != n.cfg.Node {
			if err := n.forgetAt(ctx, m.Node, nameRequest{Name: r.Name, Volume: a.id}); err != nil {
				return reach(m.Node, err)
			}
		}
	}
	if err := n.forget(nameRequest{Name: r.Name, Volume: a.id}); err != nil {
		return err
	}
	n.events.Add(api.Event{Level: "info", Volume: r.Name, Object: object, Message: "deleted; the copies stay on the servers' disks"})
	return nil
}

func (p *neighbour) isUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up
}

// SetVolume implements api.Service.
func (s *service) SetVolume(ctx context.Context, r api.VolumeChange) (*api.VolumeStatus, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	a, other, err := s.atSource(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	if other != nil {
		return other.SetVolume(ctx, r)
	}
	reply, err := a.command(ctx, func(id uint64) mirror.Event {
		return mirror.Command{ID: id, Set: &mirror.Set{MinCopies: r.MinCopies, HoldCopies: r.HoldOldCopies, Accept: r.Accept}}
	})
	if err = replyError("volume "+r.Name, reply, err); err != nil {
		return nil, err
	}
	s.n.bump()
	v := a.status(now())
	return &v, nil
}

// ChangeMirror implements api.Service.
func (s *service) ChangeMirror(ctx context.Context, r api.MirrorChange) (*api.VolumeStatus, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	a, other, err := s.atSource(ctx, r.Volume)
	if err != nil {
		return nil, err
	}
	if other != nil {
		return other.ChangeMirror(ctx, r)
	}
	change := mirror.Change{Action: r.Action, Target: r.Target, Path: r.Path, Queue: r.QueueBytes, Rate: r.RateBytes, Resync: r.ResyncRate}
	if r.Mode != nil {
		mode := lineage.Mode(*r.Mode)
		change.Mode = &mode
	}
	undo := func() {}
	if r.Action == "add" {
		select { // two administrators: the second sees what the first has done, and unmakes nothing of it
		case a.adding <- struct{}{}:
			defer a.adding.Unlock()
		case <-ctx.Done():
			return nil, api.AsError(ctx.Err())
		}
		if undo, err = s.addReplica(ctx, a, r); err != nil {
			return nil, err
		}
	}
	reply, err := a.command(ctx, func(id uint64) mirror.Event { return mirror.Command{ID: id, Change: change} })
	if err = replyError(fmt.Sprintf("mirror %s->%s of %s", s.n.cfg.Node, r.Target, r.Volume), reply, err); err != nil {
		undo()
		return nil, err
	}
	if r.Action == "add" {
		settings := a.v.Header().Settings
		if err := s.n.startAt(ctx, r.Target, r.Volume, &settings); err != nil {
			s.n.bump()
			return nil, startsLater(r, err)
		}
	}
	s.n.bump()
	if r.Action == "remove" {
		s.n.awaitLeft(ctx, r.Target, a.id)
	}
	v := a.status(now())
	return &v, nil
}

// startsLater: the copy is made and the volume's settings name it, so its server starts it by itself when it hears of that (startMissed).
func startsLater(r api.MirrorChange, err error) error {
	return &api.Error{Code: api.Unfinished, Object: fmt.Sprintf("the copy of %s on %s", r.Volume, r.Target), Message: fmt.Sprintf("is made, and its start was not confirmed: %v", err),
		Waits: r.Target + " to hear from the source that it has a new copy, which it then starts by itself", Next: "keelson status " + r.Volume}
}

// leftMax is how long a removal waits for the server that was removed to forget its replica; it does so by itself.
const leftMax = 5 * time.Second

// awaitLeft waits until the server, if it is reached, has forgotten its replica of the volume: then another one may be
// made there.
func (n *Node) awaitLeft(ctx context.Context, node, volume string) {
	p := n.peer(node)
	if p == nil {
		return
	}
	for end := now().Add(leftMax); now().Before(end) && ctx.Err() == nil; <-time.After(catchUpPoll) {
		var theirs nodeState
		if err := p.post(ctx, "state", n.state(), &theirs); err != nil || !theirs.Volumes[volume].Known {
			return
		}
	}
}

// addReplica makes the new target's replica; undo unmakes it.
func (s *service) addReplica(ctx context.Context, a *vol, r api.MirrorChange) (undo func(), err error) {
	n, h := s.n, a.v.Header()
	if m := h.Settings.Find(r.Target); m != nil && !m.Removed {
		return nil, api.Refusal(lineage.RuleAlreadyMember, "volume "+r.Volume, r.Target+" has a copy already", lineage.NextOf(lineage.RuleAlreadyMember))
	}
	fresh := intentlog.Header{Volume: a.id, Name: a.name, RegionBytes: h.RegionBytes}
	fresh.Standing = lineage.Standing{Role: lineage.RoleTarget, Record: h.Record, Settings: h.Settings.Clone()}
	fresh.Settings.Members = slices.DeleteFunc(fresh.Settings.Members, func(m lineage.Member) bool { return m.Node == r.Target })
	answer, err := n.createAt(ctx, r.Target, createRequest{Header: fresh, Path: r.Path, SizeBytes: h.SizeBytes})
	if err != nil {
		return nil, err
	}
	return func() {
		if answer.Found {
			return
		}
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		if err := n.forgetAt(clean, r.Target, nameRequest{Name: a.name, Volume: a.id, Unmake: answer.Made, Unnamed: true}); err != nil {
			n.log.Warn("a replica that was not wanted in the end could not be unmade", "node", r.Target, "volume", a.name, "err", err)
		}
	}, nil
}

// replyError makes an error of a machine's reply.
func replyError(object string, r mirror.Reply, err error) error {
	switch {
	case err != nil:
		return api.AsError(err)
	case r.Unfinished:
		return &api.Error{Code: api.Unfinished, Rule: r.Rule, Object: object, Message: r.Err, Next: r.Fix, Waits: r.Err}
	case r.Rule != "":
		return api.Refusal(r.Rule, object, r.Err, r.Fix)
	case r.Err != "":
		return &api.Error{Code: api.Failed, Object: object, Message: r.Err, Next: r.Fix}
	}
	return nil
}
