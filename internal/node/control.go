package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"keelson/internal/api"
	"keelson/internal/attach"
	"keelson/internal/blockdev"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/peer"
	"keelson/internal/vfs"
	"keelson/internal/volume"
)

// Rules of this package's refusals, besides those of package lineage.
const (
	ruleUnknownVolume = "unknown-volume"
	ruleWrongSize     = "wrong-size"
	ruleInUse         = "in-use"
	ruleExists        = "volume-exists"
	ruleTooMany       = "too-many-volumes"
	rulePeerDown      = "member-unreachable"
	ruleHookRefused   = "hook-refused"
	ruleFenceFailed   = "fence-failed"
)

// tokenRequest delivers a hand-over (rule 21).
type tokenRequest struct {
	Volume string       `json:"volume"`
	Heir   lineage.Heir `json:"heir"`
}

type tokenAnswer struct {
	Taken bool   `json:"taken"`
	Rule  string `json:"rule"`
	Why   string `json:"why"`
}

// createRequest makes a replica; it is idle until it is started.
type createRequest struct {
	Header    intentlog.Header `json:"header"`
	Path      string           `json:"path"`
	SizeBytes int64            `json:"size_bytes"`
}

type createAnswer struct {
	SizeBytes   int64 `json:"size_bytes"`
	RegionBytes int64 `json:"region_bytes"`
	Made        bool  `json:"made"`  // the backing file
	Found       bool  `json:"found"` // the replica was there already: it is not the caller's to unmake
}

// nameRequest names a replica to start or to forget.
type nameRequest struct {
	Name   string `json:"name"`
	Volume string `json:"volume"` // id
	Unmake bool   `json:"unmake"` // forget: remove the backing file too (it was made a moment ago)
	// Unnamed, of forget: only if the replica's settings do not name this server. Another source may have added it meanwhile.
	Unnamed bool `json:"unnamed,omitempty"`
	// Settings, of start: those that name the replica. Whatever says that the server was removed before is older.
	Settings *lineage.Settings `json:"settings,omitempty"`
}

type nothing struct{}

// control serves peers: the exchange of states, tokens, the making and forgetting of replicas, and administrators' calls
// that another agent passes on.
func (n *Node) control() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v1/", api.NewAuditedHandler(&service{n}, n.noteAudit))
	handle(mux, "state", func(_ context.Context, from string, s *nodeState) (nodeState, error) {
		n.heard(n.peer(from), *s)
		return n.state(), nil
	})
	handle(mux, "cluster", n.documentCame)
	handle(mux, "audit", n.auditCame)
	handle(mux, "cakey", n.caKeyCame)
	handle(mux, "token", n.tokenCame)
	handle(mux, "fence", n.fenceCame)
	handle(mux, "giveup", n.giveUpCame)
	handle(mux, "fork", n.forkCame)
	handle(mux, "write", n.writeCame)
	handle(mux, "sums", n.sumsCame)
	handle(mux, "ping", n.pingCame)
	handle(mux, "facts", n.factsCame)
	mux.HandleFunc("POST /peer/v1/load", n.takeLoad)
	handle(mux, "create", n.createHere)
	handle(mux, "start", func(_ context.Context, _ string, r *nameRequest) (nothing, error) {
		return nothing{}, n.startHere(r.Name, r.Settings)
	})
	handle(mux, "forget", func(_ context.Context, _ string, r *nameRequest) (nothing, error) { return nothing{}, n.forget(*r) })
	return n.onlyPeers(mux)
}

// onlyPeers lets in servers that this one's configuration names; a certificate of the cluster alone is not enough.
func (n *Node) onlyPeers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := peer.NodeOf(r)
		if n.peer(from) == nil {
			e := api.Refusal(lineage.RuleNotAMember, "node "+from, "is not in the configuration of "+n.cfg.Node+" ([[peer]])", "add it there")
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(e.Code.HTTPStatus())
			_ = json.NewEncoder(w).Encode(api.ErrorDocument{Error: e})
			return
		}
		next.ServeHTTP(w, r.WithContext(api.WithPeer(r.Context(), from)))
	})
}

// startHere opens a replica that was made a moment ago.
func (n *Node) startHere(name string, settings *lineage.Settings) error {
	if err := api.CheckVolumeName(name); err != nil {
		return err
	}
	if n.ctx.Err() != nil {
		return errStopped
	}
	n.making.Lock()
	defer n.making.Unlock()
	if n.find(name) != nil {
		return nil
	}
	return n.startMade(name, settings)
}

// startMade opens it. making is held.
func (n *Node) startMade(name string, settings *lineage.Settings) error {
	if settings != nil {
		if err := n.keepSettings(name, *settings); err != nil {
			return err
		}
	}
	return n.openVolume(name)
}

// keepSettings gives a replica that was made, and never started, newer settings.
func (n *Node) keepSettings(name string, settings lineage.Settings) error {
	log, err := intentlog.Open(n.out.FS, filepath.Join(n.volumesDir(), name), intentlog.Options{})
	if err != nil {
		return err
	}
	err = log.Save(func(h *intentlog.Header) {
		if h.Settings.Version.Compare(settings.Version) < 0 {
			h.Settings = settings
		}
	})
	return errors.Join(err, log.Close())
}

// headerOf is the header of a replica that is not open.
func (n *Node) headerOf(dir string) (intentlog.Header, error) {
	log, err := intentlog.Open(n.out.FS, dir, intentlog.Options{})
	if err != nil {
		return intentlog.Header{}, err
	}
	return log.Header(), log.Close()
}

// handle serves one call of a peer.
func handle[Request, Answer any](mux *http.ServeMux, name string, f func(ctx context.Context, from string, r *Request) (Answer, error)) {
	mux.HandleFunc("POST /peer/v1/"+name, func(w http.ResponseWriter, r *http.Request) {
		var request Request
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewDecoder(io.LimitReader(r.Body, gossipBytesMax)).Decode(&request); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(api.ErrorDocument{Error: api.Errorf(api.Usage, name, "%v", err)})
			return
		}
		answer, err := f(r.Context(), peer.NodeOf(r), &request)
		if err != nil {
			e := api.AsError(err)
			w.WriteHeader(e.Code.HTTPStatus())
			_ = json.NewEncoder(w).Encode(api.ErrorDocument{Error: e})
			return
		}
		_ = json.NewEncoder(w).Encode(answer)
	})
}

// tokenCame: a source hands its role to this server.
func (n *Node) tokenCame(ctx context.Context, from string, r *tokenRequest) (tokenAnswer, error) {
	a := n.byID(r.Volume)
	if a == nil {
		return tokenAnswer{Rule: ruleUnknownVolume, Why: n.cfg.Node + " has no replica of the volume"}, nil
	}
	reply, err := a.command(ctx, func(id uint64) mirror.Event {
		return mirror.TokenCame{ID: id, From: from, Heir: r.Heir, Mine: a.v.Own()}
	})
	if err != nil {
		return tokenAnswer{}, err
	}
	return tokenAnswer{Taken: reply.Rule == "" && reply.Err == "", Rule: reply.Rule, Why: reply.Err}, nil
}

// deliver says to the heir that it is source now; TokenAnswer follows.
func (a *vol) deliver(heir lineage.Heir) {
	p := a.n.peer(heir.Node)
	if p == nil {
		a.post(mirror.TokenAnswer{Node: heir.Node, Plan: heir.Plan, Why: "its address is not in the configuration ([[peer]])"})
		return
	}
	a.work(func() {
		a.n.crash("token-before-send")
		ctx, cancel := context.WithTimeout(a.ctx, gossipTimeout)
		defer cancel()
		var answer tokenAnswer
		err := p.post(ctx, "token", tokenRequest{a.id, heir}, &answer)
		a.n.crash("token-sent")
		if err != nil {
			answer = tokenAnswer{Why: err.Error()}
		}
		a.post(mirror.TokenAnswer{Node: heir.Node, Plan: heir.Plan, Taken: answer.Taken, Rule: answer.Rule, Why: answer.Why})
	})
}

// turn is a lock that is held during I/O. A channel, so that the clock of a simulation goes on while somebody waits for it.
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

// createHere makes a replica on this server. When it fails nothing is left behind, unless the agent dies meanwhile: then
// the remains are cleared at its start (openVolumes).
func (n *Node) createHere(_ context.Context, _ string, r *createRequest) (createAnswer, error) {
	name := r.Header.Name
	if err := api.CheckVolumeName(name); err != nil {
		return createAnswer{}, err
	}
	n.making.Lock()
	defer n.making.Unlock()
	n.mu.Lock()
	a, exists := n.volumes[name]
	_, unusable := n.broken[name]
	count := len(n.volumes)
	n.mu.Unlock()
	object := "volume " + name + " on " + n.cfg.Node
	dir := filepath.Join(n.volumesDir(), name)
	if there := n.madeBefore(a, dir, r); there != nil {
		return *there, nil
	}
	switch {
	case exists || unusable:
		return createAnswer{}, api.Refusal(ruleExists, object, "there is a volume of that name", "choose another name, or delete that volume first")
	case count >= n.cfg.Limits.VolumesMax:
		return createAnswer{}, api.Refusal(ruleTooMany, object, fmt.Sprintf("this agent has %d volumes, as many as its configuration allows", count), "raise volumes-max")
	}
	header := r.Header
	header.Cluster, header.Node = n.id.Cluster, n.cfg.Node
	_, before := n.out.FS.Stat(r.Path)
	if _, err := n.out.FS.List(dir); err == nil {
		return createAnswer{}, api.Refusal(ruleExists, object, "there is a directory "+dir+" already", "look at what it holds, and remove it if nothing needs it")
	}
	h, err := volume.Create(volume.Options{FS: n.out.FS, Dir: dir, Limits: n.volumeLimits(), Log: n.log},
		volume.New{Header: header, Path: r.Path, SizeBytes: r.SizeBytes})
	if err != nil {
		used := errors.Is(err, vfs.ErrInUse)
		err = errors.Join(err, n.out.FS.RemoveAll(dir))
		if used {
			return createAnswer{}, diskInUse(object, r.Path, err)
		}
		return createAnswer{}, api.Errorf(api.Failed, object, "%v", err)
	}
	return createAnswer{SizeBytes: h.SizeBytes, RegionBytes: h.RegionBytes, Made: errors.Is(before, os.ErrNotExist)}, nil
}

// madeBefore is the answer for a replica of the same volume on the same disk that is here already: who had it made died before
// the volume's settings named it. What it holds is told by its own map. Nil if there is none, or it has a role to play or to lose.
func (n *Node) madeBefore(a *vol, dir string, r *createRequest) *createAnswer {
	var h intentlog.Header
	if a != nil {
		h = a.v.Header()
		if a.leaving.Load() || a.view.Load().Open {
			return nil
		}
	} else {
		var err error
		if h, err = n.headerOf(dir); err != nil {
			return nil
		}
	}
	if h.Volume != r.Header.Volume || h.Cluster != n.id.Cluster || h.Node != n.cfg.Node || h.Role != lineage.RoleTarget || h.Backing.Path != r.Path || h.SizeBytes != r.SizeBytes {
		return nil
	}
	return &createAnswer{SizeBytes: h.SizeBytes, RegionBytes: h.RegionBytes, Found: true}
}

// diskInUse refuses a disk that somebody uses, and says who, as far as that can be seen.
func diskInUse(object, path string, why error) error {
	device, err := blockdev.Device(path)
	var holders []blockdev.Holder
	if err == nil {
		holders, err = blockdev.Holders(device)
	}
	if err != nil || len(holders) == 0 { // a file, or it was let go just now
		return api.Refusal(ruleInUse, object, why.Error(), "stop what uses it; keelson volume list shows whether it is a volume's copy already")
	}
	if holders[0].PID == os.Getpid() {
		return api.Refusal(ruleInUse, object, path+" is the copy of another volume", "name another disk, or end that volume first: keelson volume list")
	}
	return api.Refusal(ruleInUse, object, path+" is "+blockdev.Join(holders), attach.HowToLetGo(holders))
}

// forget ends a replica on this server; its backing store stays as it is. One that serves is not forgotten: its device may
// be in use. One whose log cannot be read is left alone: what it belongs to is not known.
func (n *Node) forget(r nameRequest) error {
	if err := api.CheckVolumeName(r.Name); err != nil {
		return err
	}
	dir := filepath.Join(n.volumesDir(), r.Name)
	n.making.Lock()
	defer n.making.Unlock()
	n.mu.Lock()
	a := n.volumes[r.Name]
	if a != nil && len(n.nbd.Connections(r.Name)) > 0 {
		n.mu.Unlock()
		return api.Refusal(ruleInUse, "volume "+r.Name+" on "+n.cfg.Node, "clients use its device", "end them first")
	}
	if a != nil && a.id != r.Volume {
		n.mu.Unlock()
		return api.Refusal(ruleUnknownVolume, "volume "+r.Name+" on "+n.cfg.Node, "is another volume of that name", "")
	}
	if a != nil && r.Unnamed {
		if m := a.v.Header().Settings.Find(n.cfg.Node); m != nil && !m.Removed {
			n.mu.Unlock()
			return api.Refusal(lineage.RuleAlreadyMember, "volume "+r.Name+" on "+n.cfg.Node, "is named by the volume's settings", lineage.NextOf(lineage.RuleAlreadyMember))
		}
	}
	delete(n.volumes, r.Name)
	delete(n.broken, r.Name)
	n.mu.Unlock()
	var err error
	path := ""
	if a != nil {
		path = a.v.Header().Backing.Path
		err = a.close()
	} else if _, gone := n.out.FS.List(dir); errors.Is(gone, os.ErrNotExist) {
		return nil
	} else if log, opened := intentlog.Open(n.out.FS, dir, intentlog.Options{}); opened == nil { // made, never started
		path = log.Header().Backing.Path
		if log.Header().Volume != r.Volume {
			path = ""
			err = api.Refusal(ruleUnknownVolume, "volume "+r.Name+" on "+n.cfg.Node, "is another volume of that name", "")
		}
		err = errors.Join(err, log.Close())
	} else {
		err = opened
	}
	if err == nil {
		err = n.keepSalvages(r.Name, dir)
	}
	if err == nil { // without its header it is remains, which the next start removes: a crash leaves no half of a replica
		err = errors.Join(n.out.FS.Remove(filepath.Join(dir, "header")), n.out.FS.SyncDir(dir))
	}
	if err == nil {
		err = n.out.FS.RemoveAll(dir)
	}
	if err == nil && r.Unmake && path != "" {
		err = n.out.FS.Remove(path)
	}
	n.bump()
	return err
}

// leave forgets a replica that an administrator removed from the volume.
func (n *Node) leave(a *vol, said string) {
	n.mu.Lock()
	mine := n.volumes[a.name] == a
	n.mu.Unlock()
	if !mine || a.leaving.Swap(true) {
		return
	}
	n.spawn(func() {
		path := a.v.Header().Backing.Path
		err := n.forget(nameRequest{Name: a.name, Volume: a.id})
		message := "this server was removed from the volume (" + said + " says so); " + path + " stays as it is"
		if err != nil {
			message += ": " + err.Error()
		}
		n.events.Add(api.Event{Level: "info", Volume: a.name, Object: "volume " + a.name, Rule: lineage.RuleRemoved, Message: message})
	})
}

// forgetAt, createAt and startAt make one call at a member, here or there.
func (n *Node) forgetAt(ctx context.Context, node string, r nameRequest) error {
	if node == n.cfg.Node {
		return n.forget(r)
	}
	p := n.peer(node)
	if p == nil {
		return errNoAddress(node)
	}
	return p.post(ctx, "forget", r, &nothing{})
}

func (n *Node) createAt(ctx context.Context, node string, r createRequest) (createAnswer, error) {
	if node == n.cfg.Node {
		return n.createHere(ctx, n.cfg.Node, &r)
	}
	var answer createAnswer
	p := n.peer(node)
	if p == nil {
		return answer, errNoAddress(node)
	}
	return answer, reach(node, p.post(ctx, "create", r, &answer))
}

func (n *Node) startAt(ctx context.Context, node, name string, settings *lineage.Settings) error {
	if node == n.cfg.Node {
		return n.startHere(name, settings)
	}
	p := n.peer(node)
	if p == nil {
		return errNoAddress(node)
	}
	return reach(node, p.post(ctx, "start", nameRequest{Name: name, Settings: settings}, &nothing{}))
}

func errNoAddress(node string) error {
	return api.Errorf(api.Failed, "node "+node, "is not in this agent's configuration").WithNext("add [[peer]] name = %q with its address to every server's configuration", node)
}

// reach says of an error that is not the peer's own word that the peer was not reached.
func reach(node string, err error) error {
	var said *api.Error
	if err == nil || errors.As(err, &said) {
		return err
	}
	return api.Errorf(api.Failed, "node "+node, "cannot be reached: %v", err).WithNext("is it up, and its agent running?")
}

// callTimeout bounds calls to peers that an administrator waits for.
const callTimeout = 30 * time.Second
