package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"keelson/internal/api"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/undo"
	"keelson/internal/volume"
)

// forkRequest asks a server what its copy has besides a common history.
type forkRequest struct {
	Volume  string           `json:"volume"`
	History lineage.History  `json:"history"`
	At      lineage.Position `json:"at"`
}

type forkAnswer struct {
	volume.Fork
	RoomBytes int64       // for salvages there
	Parting   []api.Event // when it took over, or went on without others
}

// forkCame answers forkRequest.
func (n *Node) forkCame(_ context.Context, _ string, r *forkRequest) (forkAnswer, error) {
	a := n.byID(r.Volume)
	if a == nil {
		return forkAnswer{}, api.Refusal(ruleUnknownVolume, "volume "+r.Volume, n.cfg.Node+" has no replica of it", "")
	}
	room, _ := a.v.SalvageRoom()
	return forkAnswer{a.v.ChangedSince(r.History, r.At, api.RunsMax), room, a.partings()}, nil
}

// partingsMax is how many events are shown of how a side came to go on by itself.
const partingsMax = 3

// partings are the newest events that say when this server took over by force, or went on without others.
func (a *vol) partings() []api.Event {
	all, _ := a.n.events.After(api.EventsQuery{Volume: a.name})
	all = slices.DeleteFunc(all, func(e api.Event) bool { return e.Rule != lineage.RuleForced && e.Rule != lineage.RuleShrink })
	return all[max(0, len(all)-partingsMax):]
}

// side is one member as SplitBrain finds it.
type side struct {
	node string
	info mirror.PeerInfo
	err  error
}

// sides asks every member for its state now.
func (a *vol) sides(ctx context.Context) []side {
	out := []side{{node: a.n.cfg.Node, info: a.info()}}
	for _, m := range a.view.Load().Settings.Members {
		if m.Removed || m.Node == a.n.cfg.Node {
			continue
		}
		s := side{node: m.Node}
		if p := a.n.peer(m.Node); p == nil {
			s.err = errNoAddress(m.Node)
		} else {
			var theirs nodeState
			s.err = p.post(ctx, "state", a.n.state(), &theirs)
			s.info = theirs.Volumes[a.id]
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b side) int { return cmp.Compare(a.node, b.node) })
	return out
}

// common is the history that all sides share, and the position up to which they surely do.
func common(sides []side) (lineage.History, lineage.Position) {
	var history lineage.History
	var at lineage.Position
	first := true
	for _, s := range sides {
		switch {
		case s.err != nil || !s.info.Known:
		case first:
			history, at, first = s.info.History, s.info.Position, false
		default:
			at = lineage.CutBack(history, at, s.info.History, s.info.Position)
			history = lineage.CutHistory(history, at)
		}
	}
	return history, at
}

// SplitBrain implements api.Service.
func (s *service) SplitBrain(ctx context.Context, r api.VolumeName) (*api.SplitBrain, error) {
	a := s.n.find(r.Name)
	if a == nil {
		p, err := s.n.holder(ctx, r.Name)
		if err != nil {
			return nil, err
		}
		return p.api().SplitBrain(ctx, r)
	}
	view := a.view.Load()
	sides := a.sides(ctx)
	history, at := common(sides)
	out := &api.SplitBrain{Volume: r.Name, Sides: []api.Side{}, Both: []api.Run{}, At: at.Number}
	if len(history) > 0 {
		out.Common = at.Gen.String()
	}
	out.Split = view.Rule == lineage.RuleSplitBrain
	for _, m := range a.status(now()).Mirrors { // also what the source says
		out.Split = out.Split || m.State == string(mirror.SplitBrain)
	}
	for _, x := range sides {
		if x.err == nil && x.info.Known {
			out.Sides = append(out.Sides, a.sideOf(ctx, x, history, at))
		} else {
			why := "it does not know the volume"
			if x.err != nil {
				why = "cannot be asked: " + x.err.Error()
			}
			out.Sides = append(out.Sides, api.Side{Node: x.node, Members: []string{}, Runs: []api.Run{}, Why: why, AsOf: now().UTC()})
		}
	}
	out.Both = both(out.Sides)
	return out, nil
}

// sideOf asks the server what it has besides the common history.
func (a *vol) sideOf(ctx context.Context, x side, history lineage.History, at lineage.Position) api.Side {
	i := x.info
	out := api.Side{Node: x.node, Role: roleName(i.Role), Serving: i.Serving, Term: i.Record.Epoch.Term.N, Position: i.Position.Number,
		Members: append([]string{}, i.Record.Members...), Since: at.Number, Runs: []api.Run{}, AsOf: now().UTC()}
	if i.Position.Number > at.Number {
		out.Writes = i.Position.Number - at.Number
	}
	answer, err := a.forkOf(ctx, x.node, history, at)
	if err != nil {
		out.Why = "cannot be asked: " + err.Error()
		return out
	}
	region := a.v.Header().RegionBytes
	out.Regions, out.Bytes, out.UnknownBytes = answer.Regions, answer.Regions*region, answer.Unknown*region
	out.Runs, out.Parting = append(out.Runs, apiRuns(answer.Runs)...), answer.Parting
	return out
}

// forkOf asks a server, perhaps this one, what its copy has besides that history.
func (a *vol) forkOf(ctx context.Context, node string, history lineage.History, at lineage.Position) (answer forkAnswer, err error) {
	request := &forkRequest{a.id, history, at}
	if node == a.n.cfg.Node {
		return a.n.forkCame(ctx, node, request)
	}
	err = a.n.peer(node).post(ctx, "fork", request, &answer)
	return answer, err
}

func apiRuns(ranges []volume.Range) (runs []api.Run) {
	for _, r := range ranges {
		runs = append(runs, api.Run{Offset: r.Off, Length: r.Len})
	}
	return runs
}

// both are the ranges that more than one source changed.
func both(sides []api.Side) []api.Run {
	out := []api.Run{}
	var sources []api.Side
	for _, s := range sides {
		if s.Role == string(lineage.RoleSource) {
			sources = append(sources, s)
		}
	}
	if len(sources) < 2 {
		return out
	}
	for _, x := range sources[0].Runs {
		for _, y := range sources[1].Runs {
			from, to := max(x.Offset, y.Offset), min(x.Offset+x.Length, y.Offset+y.Length)
			if from < to && len(out) < api.RunsMax {
				out = append(out, api.Run{Offset: from, Length: to - from})
			}
		}
	}
	return out
}

// Salvages implements api.Service: those of this server and, unless the call was passed on, of every member. A server without
// a copy asks those that have one.
func (s *service) Salvages(ctx context.Context, r api.VolumeName) (*api.Salvages, error) {
	n := s.n
	out := &api.Salvages{Salvages: []api.Salvage{}, Silent: []string{}, RoomLow: []string{}}
	var ask []string
	if a := n.find(r.Name); a != nil {
		a.ownSalvages(out)
		for _, m := range a.view.Load().Settings.Members {
			if !m.Removed && m.Node != n.cfg.Node {
				ask = append(ask, m.Node)
			}
		}
	} else {
		if _, err := n.holder(ctx, r.Name); err != nil {
			return nil, err
		}
		up, down := n.holders(r.Name)
		for _, p := range append(up, down...) {
			ask = append(ask, p.name)
		}
	}
	if api.Via(ctx) != "" {
		return out, nil
	}
	for _, node := range ask {
		p := n.peer(node)
		if p == nil || !p.isUp() {
			out.Silent = append(out.Silent, node)
			continue
		}
		theirs, err := p.api().Salvages(ctx, r)
		if err != nil {
			out.Silent = append(out.Silent, node)
			continue
		}
		out.Salvages = append(out.Salvages, theirs.Salvages...)
		out.RoomLow = append(out.RoomLow, theirs.RoomLow...)
	}
	slices.SortFunc(out.Salvages, func(a, b api.Salvage) int { return a.Time.Compare(b.Time) })
	return out, nil
}

// ownSalvages adds those of this server.
func (a *vol) ownSalvages(out *api.Salvages) {
	for _, x := range a.v.Salvages() {
		out.Salvages = append(out.Salvages, api.Salvage{ID: x.ID, Volume: a.name, Node: a.n.cfg.Node, Reason: x.Reason, From: x.From, Time: x.Time,
			Expires: x.Expires, Regions: x.Regions, Bytes: x.Bytes, Damaged: x.Damaged})
	}
	if _, low := a.v.SalvageRoom(); low {
		out.RoomLow = append(out.RoomLow, a.n.cfg.Node)
	}
}

// ChangeSalvage implements api.Service.
func (s *service) ChangeSalvage(ctx context.Context, r api.SalvageChange) (*api.SalvageResult, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	n, object := s.n, "salvage "+r.ID+" of "+r.Volume
	if r.Node != "" && r.Node != n.cfg.Node {
		p := n.peer(r.Node)
		if p == nil {
			return nil, errNoAddress(r.Node)
		}
		return p.api().ChangeSalvage(ctx, r)
	}
	a := n.find(r.Volume)
	if a == nil {
		return nil, n.notHere(r.Volume)
	}
	var out api.SalvageResult
	var err error
	switch r.Action {
	case "export":
		out.Files, out.Bytes, err = a.exportSalvage(r)
	case "delete":
		err = a.v.DeleteSalvage(r.ID)
	case "apply":
		err = a.applySalvage(ctx, r, &out)
	}
	if errors.Is(err, undo.ErrUnknown) {
		return nil, noSalvage(n, r.Volume, r.ID)
	}
	var said *api.Error
	switch {
	case errors.As(err, &said):
		return nil, err
	case errors.Is(err, undo.ErrInUse):
		return nil, api.Refusal(ruleInUse, object, err.Error(), fmt.Sprintf("keelson salvage detach %s %s --node %s", r.Volume, r.ID, n.cfg.Node))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return nil, api.Errorf(api.Failed, object, "%v", err).WithNext("ask again with a longer --timeout")
	case err != nil:
		return nil, api.Errorf(api.Failed, object, "%v", err)
	case !r.Plan:
		a.note("info", object, "", r.Action+" done", "")
	}
	return &out, nil
}

// exportSalvage writes the files of a salvage into a directory that must be empty or new; when it fails they are removed.
func (a *vol) exportSalvage(r api.SalvageChange) (files int, bytes int64, err error) {
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return 0, 0, err
	}
	if has, err := os.ReadDir(r.Dir); err != nil || len(has) > 0 {
		return 0, 0, errors.Join(err, fmt.Errorf("directory %s is not empty; name a new one", r.Dir))
	}
	var made []string
	err = a.v.ExportSalvage(r.ID, func(name string) (io.WriteCloser, error) {
		path := filepath.Join(r.Dir, filepath.Base(name))
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			made = append(made, path)
		}
		return f, err
	})
	if err != nil {
		for _, path := range made {
			err = errors.Join(err, os.Remove(path))
		}
		return 0, 0, err
	}
	for _, path := range made {
		if info, err := os.Stat(path); err == nil {
			bytes += info.Size()
		}
	}
	return len(made), bytes, nil
}

// keepSalvages moves what a replica that is forgotten gave up out of its directory: it is not for this command to discard.
func (n *Node) keepSalvages(name, dir string) error {
	from := filepath.Join(dir, "salvage")
	if has, err := n.out.FS.List(from); err != nil || len(has) == 0 {
		return nil // there is none
	}
	to := filepath.Join(n.cfg.State, "salvages", name+"-"+time.Now().UTC().Format("20060102T150405.000"))
	if err := n.out.FS.MkdirAll(filepath.Dir(to)); err != nil {
		return err
	}
	if err := n.out.FS.Rename(from, to); err != nil {
		return err
	}
	if err := errors.Join(n.out.FS.SyncDir(filepath.Dir(to)), n.out.FS.SyncDir(n.cfg.State)); err != nil { // before what it came from goes
		return err
	}
	n.events.Add(api.Event{Level: "warning", Volume: name, Object: "volume " + name, Message: "its salvages were kept in " + to, Next: "remove them when nobody needs them any more"})
	return nil
}
