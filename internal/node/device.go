package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/attach"
	"keelson/internal/blockdev"
	"keelson/internal/config"
	"keelson/internal/frontend/loop"
	"keelson/internal/frontend/nbdkernel"
	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// DeviceHelper is the hidden command by which the agent's program is a helper of its devices.
const DeviceHelper = "device-helper"

// wishFile is the file in a volume's directory that has what is wished of its block device.
const wishFile = "device.json"

// newAttachment makes the keeper of the volume's block device.
func (a *vol) newAttachment() *attach.Attachment {
	cfg := a.n.cfg
	return attach.Open(attach.Options{
		Log: a.n.log, Files: a.n.out.FS, Kernel: a.n.out.FS == vfs.OS, Volume: a.name, File: filepath.Join(a.dir, wishFile), Link: filepath.Join(cfg.Device.Directory, a.name),
		Kind: cfg.Device.Attach, Loop: LoopOptions(cfg, a.name, a.n.log),
		NBD: nbdkernel.Options{
			Serve: a.n.nbd.ServeConn, Export: a.name, Backend: "keelson:" + a.n.id.Cluster + ":" + cfg.Node + NBDBackend(cfg.API.Socket, a.name),
			BlockBytes: cfg.Device.BlockSize, DeadAfter: time.Duration(cfg.Device.RestartWait),
		},
		Mount:   attach.Mount{Point: cfg.Volume(a.name).Mount, Options: cfg.Volume(a.name).MountOptions},
		Note:    func(level, message, next string) { a.note(level, "volume "+a.name, "", message, next) },
		Changed: a.n.bump, Settled: a.settled,
	})
}

// NBDBackend is how the name ends that the kernel's NBD device of a volume has at the agent with that socket: whoever knows the
// socket can end the device without the agent.
func NBDBackend(socket, volume string) string { return ":" + volume + "@" + socket }

// LoopOptions are those of a volume's loop device at this agent; the agent's own and those of whoever ends it from outside.
func LoopOptions(cfg *config.Agent, volume string, log *slog.Logger) loop.Options {
	return loop.Options{
		Log: log, Mount: config.LoopMount(cfg.API.Socket, volume), Name: volume, Owner: cfg.Cluster + "/" + cfg.Node, Helper: []string{"/proc/self/exe", DeviceHelper},
		BlockBytes: cfg.Device.BlockSize, RequestsMax: cfg.Limits.RequestsMax, InFlightBytes: int64(cfg.Limits.InFlightBytes),
	}
}

// attachStatus is what status shows of it; nil if nothing is wished.
func (a *vol) attachStatus() *api.AttachStatus {
	s := a.device.Status()
	if s.State == attach.Detached && s.Reason == "" {
		return nil
	}
	return &api.AttachStatus{Wish: s.Wish.Attach, State: s.State, Reason: s.Reason, Mount: mountStatus(s.Mount)}
}

func mountStatus(m attach.MountStatus) *api.MountStatus {
	if m.Point == "" {
		return nil
	}
	return &api.MountStatus{Point: m.Point, State: m.State, Reason: m.Reason, Next: m.Next}
}

// inUse refuses what would end a device that somebody uses.
func (a *vol) inUse(e *attach.InUseError, next string) *api.Error {
	return api.Refusal(ruleInUse, "volume "+a.name, "its block device is in use: "+e.Error(), next)
}

// mustBeFree is nil unless somebody uses the volume's block device.
func (a *vol) mustBeFree(next string) error {
	users, err := a.device.Users()
	if err != nil {
		return api.Errorf(api.Failed, "volume "+a.name, "who uses its block device cannot be found out: %v", err)
	}
	if users != nil {
		return a.inUse(users, attach.HowToLetGo(users.Holders)+next)
	}
	return nil
}

// ChangeDevice implements api.Service: every server that is meant remembers the wish, the source first, where it is brought
// about.
func (s *service) ChangeDevice(ctx context.Context, r api.DeviceChange) (*api.DeviceResult, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	n := s.n
	a := n.find(r.Volume)
	if a != nil && len(r.Nodes) == 1 && r.Nodes[0] == n.cfg.Node {
		return a.changeDevice(ctx, r)
	}
	if a == nil {
		_, other, err := s.atSource(ctx, r.Volume)
		if err != nil {
			return nil, err
		}
		return other.ChangeDevice(ctx, r)
	}
	nodes, source, err := a.deviceNodes(r)
	if err != nil {
		return nil, err
	}
	total := &api.DeviceResult{Volume: r.Volume, Nodes: []string{}, Missed: []string{}}
	for _, node := range nodes {
		one := r
		one.Nodes = []string{node}
		var result *api.DeviceResult
		if node == n.cfg.Node {
			result, err = a.changeDevice(ctx, one)
		} else if p := n.peer(node); p == nil {
			err = errNoAddress(node)
		} else {
			result, err = p.api().ChangeDevice(ctx, one)
		}
		var said *api.Error
		switch {
		case err == nil:
			total.Nodes = append(total.Nodes, node)
		case node != source && errors.As(err, &said) && (said.Code == api.Unreachable || said.Code == api.Unfinished):
			total.Missed = append(total.Missed, node)
			continue
		default:
			return nil, err
		}
		if result.Node != "" {
			total.Node, total.Kind, total.Address, total.Path, total.Mount = result.Node, result.Kind, result.Address, result.Path, result.Mount
		}
	}
	return total, nil
}

// deviceNodes are the servers that the request means, the source first.
func (a *vol) deviceNodes(r api.DeviceChange) (nodes []string, source string, err error) {
	view := a.view.Load()
	for _, m := range view.Settings.Members {
		if !m.Removed && (len(r.Nodes) == 0 || slices.Contains(r.Nodes, m.Node)) {
			nodes = append(nodes, m.Node)
		}
	}
	for _, node := range r.Nodes {
		if !slices.Contains(nodes, node) {
			return nil, "", api.Refusal(lineage.RuleNotAMember, "volume "+a.name, node+" holds no copy of it", lineage.NextOf(lineage.RuleNotAMember))
		}
	}
	if i := slices.Index(nodes, view.Source); i > 0 {
		nodes[0], nodes[i] = nodes[i], nodes[0]
	}
	return nodes, view.Source, nil
}

// changeDevice is ChangeDevice for this server.
func (a *vol) changeDevice(ctx context.Context, r api.DeviceChange) (*api.DeviceResult, error) {
	object := "volume " + a.name
	err := a.device.Set(ctx, attach.Wish{Attach: r.Wish()})
	var used *attach.InUseError
	switch {
	case errors.As(err, &used):
		return nil, a.inUse(used, attach.HowToLetGo(used.Holders)+"; or keelson volume detach "+a.name+" --abort, which loses what was not written yet")
	case errors.Is(err, context.DeadlineExceeded):
		return nil, &api.Error{Code: api.Unfinished, Object: object, Message: "its block device is not ready within the time limit", Waits: "the kernel", Next: "look at keelson status"}
	case err != nil:
		return nil, api.Errorf(api.Failed, object, "%v", err)
	}
	if waits := a.deviceSettled(ctx); waits != "" {
		return nil, &api.Error{Code: api.Unfinished, Object: object, Message: "its block device is wished for; it appears when the volume can be used here", Waits: waits, Next: "look at keelson status"}
	}
	result := &api.DeviceResult{Volume: a.name, Nodes: []string{a.n.cfg.Node}, Missed: []string{}}
	if view := a.view.Load(); view.Role == lineage.RoleSource {
		result.Node = a.n.cfg.Node
	}
	if s := a.device.Status(); s.State == attach.Attached {
		result.Kind, result.Address, result.Path, result.Mount = s.Kind, s.Device, s.Link, mountStatus(s.Mount)
	}
	return result, nil
}

// deviceSettled returns when there is no block device to wait for any more at this server, or says at the end of ctx what it
// waited for.
func (a *vol) deviceSettled(ctx context.Context) (waits string) {
	for {
		a.n.mu.Lock()
		changed := a.n.changed
		a.n.mu.Unlock()
		view := a.view.Load()
		if view.Role != lineage.RoleSource || a.device.Status().State != attach.Waiting {
			return ""
		}
		select {
		case <-changed:
		case <-time.After(deviceLook): // what it shows may have changed before changed was read
		case <-a.done:
			return "the agent's next start"
		case <-ctx.Done():
			if view.Reason != "" {
				return view.Reason
			}
			return "the volume to open"
		}
	}
}

// deviceLook is how often a server's block device is looked at while somebody waits for it; deviceMax is how long a
// switchover waits for that of the new source, mountMax for the mount of its file system, which replays a journal.
const (
	deviceLook = 50 * time.Millisecond
	deviceMax  = 15 * time.Second
	mountMax   = 5 * time.Minute
)

// awaitDevice is the last step of a switchover: the block device at the new source, if one is wished for there, and its file system
// where that is mounted. It is no failure of the switchover if there is none in time.
func (s *service) awaitDevice(ctx context.Context, result *api.SwitchoverResult, step func(api.SwitchoverStep)) {
	node, volume := result.To, result.Volume
	ctx, cancel := context.WithTimeout(ctx, mountMax)
	defer cancel()
	end, said := now().Add(deviceMax), ""
	tell := func(name, text, state string) {
		if said == name+state {
			return
		}
		said = name + state
		s := api.SwitchoverStep{Name: name, Text: text, State: state}
		if step(s); state != "running" {
			result.Steps = append(result.Steps, s)
		}
	}
	for {
		status, err := s.statusOf(ctx, node)
		if err != nil {
			return
		}
		i := slices.IndexFunc(status.Volumes, func(v api.VolumeStatus) bool { return v.Name == volume })
		if i < 0 || status.Volumes[i].Attach == nil {
			return
		}
		v := status.Volumes[i]
		switch m := v.Attach.Mount; {
		case v.Attach.State == attach.Failed:
			tell(stepDevice, node+" has no block device: "+v.Attach.Reason, "failed")
			return
		case v.Attach.State != attach.Attached:
			if now().After(end) {
				return
			}
			tell(stepDevice, node+" makes the block device", "running")
		case m == nil:
			tell(stepDevice, v.Devices[len(v.Devices)-1].Path+" is at "+node, "done")
			return
		case m.State == attach.Mounted:
			tell(stepMount, m.Point+" is mounted at "+node, "done")
			return
		case m.State == attach.Mounting:
			tell(stepMount, node+" mounts "+m.Point, "running")
		default:
			tell(stepMount, fmt.Sprintf("%s is not mounted at %s: %s; %s", m.Point, node, m.Reason, m.Next), "failed")
			return
		}
		select {
		case <-time.After(deviceLook):
		case <-ctx.Done():
			return
		}
	}
}

// awaitDeviceGone waits until the block device of a server that is not source any more is torn down.
func (a *vol) awaitDeviceGone() {
	ctx, cancel := context.WithTimeout(a.ctx, deviceMax)
	defer cancel()
	for a.device.HasDevice() {
		select {
		case <-time.After(deviceLook):
		case <-ctx.Done():
			return
		}
	}
}

// Steps of switchovers that the plan has only where a block device is wished for, and where its file system is mounted.
const (
	stepDevice = "device"
	stepMount  = "mount"
)

// statusOf asks an agent, this one or another.
func (s *service) statusOf(ctx context.Context, node string) (*api.Status, error) {
	if node == s.n.cfg.Node {
		return s.n.status(), nil
	}
	p := s.n.peer(node)
	if p == nil {
		return nil, errNoAddress(node)
	}
	return p.api().Status(ctx)
}

// Steps that a switchover has where the block device is in use.
const (
	stepUnmount = "unmount"
	stepFreeze  = "freeze"
)

// planRelease puts what release would do into a plan that is only shown, or refuses as release would.
func (a *vol) planRelease(r api.Switchover, result *api.SwitchoverResult) error {
	mounts, inTheWay, err := a.device.InTheWay(howTo(r))
	if err != nil {
		return err
	}
	for _, h := range mounts {
		if inside, err := blockdev.Inside(h.Mount); err == nil && len(inside) > 0 && !r.Freeze && inTheWay == nil {
			inTheWay = &attach.InUseError{Device: h.Mount, Holders: inside}
		}
	}
	if inTheWay != nil {
		return a.stillUsed(inTheWay, r)
	}
	var steps []api.SwitchoverStep
	for _, h := range mounts {
		name, text := releaseStep(r, h.Mount)
		steps = append(steps, api.SwitchoverStep{Name: name, Text: text, State: "planned"})
	}
	result.Steps = append(steps, result.Steps...)
	return nil
}

// howTo is how the request wants the device released.
func howTo(r api.Switchover) string {
	switch {
	case r.Freeze:
		return attach.ByFreeze
	case r.Unmount:
		return attach.ByUnmount
	}
	return attach.ByItself
}

// stillUsed refuses a switchover because of those users.
func (a *vol) stillUsed(e *attach.InUseError, r api.Switchover) error {
	next := attach.HowToLetGo(e.Holders)
	if !r.Unmount && !r.Freeze && slices.ContainsFunc(e.Holders, func(h blockdev.Holder) bool { return h.Kind == "mount" }) {
		next += orUnmount
	}
	return a.inUse(e, next)
}

// orUnmount is what else can be done about a mounted device.
const orUnmount = "; or let the switchover do it (--unmount, --freeze)"

func releaseStep(r api.Switchover, folder string) (name, text string) {
	if r.Freeze {
		return stepFreeze, folder + " writes everything out and holds still, until it is unmounted"
	}
	return stepUnmount, folder + " is unmounted"
}

// release makes the users of the block device let it go, if that was asked for, or refuses.
func (a *vol) release(r api.Switchover, step func(api.SwitchoverStep)) (*attach.Released, error) {
	released, err := a.device.Release(howTo(r))
	var used *attach.InUseError
	switch {
	case errors.As(err, &used):
		return nil, a.stillUsed(used, r)
	case err != nil:
		return nil, api.Errorf(api.Failed, "volume "+a.name, "its block device cannot be released: %v", err)
	}
	for _, folder := range released.Mounts() {
		name, text := releaseStep(r, folder)
		step(api.SwitchoverStep{Name: name, Text: text, State: "done"})
	}
	return released, nil
}
