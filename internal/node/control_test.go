package node

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/block"
	"keelson/internal/config"
	"keelson/internal/frontend/nbd"
	"keelson/internal/intentlog"
	"keelson/internal/journal"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
	"keelson/internal/volume"
)

// idle is a node that listens nowhere.
func idle(t *testing.T) *Node {
	t.Helper()
	cfg := config.Default()
	cfg.Node, cfg.State = "a", t.TempDir()
	events := journal.Open(journal.Options{FS: vfs.NewMem(1), Dir: "/events", Node: "a", Max: 16, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { events.Close() })
	n := &Node{making: make(turn, 1), cfg: cfg, out: Outside{FS: vfs.OS}, log: slog.New(slog.DiscardHandler), ctx: t.Context(), peers: map[string]*neighbour{}, events: events,
		volumes: map[string]*vol{}, broken: map[string]error{}, changed: make(chan struct{}), nbd: nbd.NewServer(nbd.Options{})}
	n.id.Cluster, n.id.Node = "c", "a"
	return n
}

// TestNamesFromPeers: a name is a directory's; no peer leads out of the state directory, or to all of it.
func TestNamesFromPeers(t *testing.T) {
	n := idle(t)
	victim := filepath.Join(n.cfg.State, "victim")
	if err := os.MkdirAll(victim, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(n.volumesDir(), "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../victim", "../../victim", "/etc", "a/b", "-x"} {
		if err := n.forget(nameRequest{Name: name, Volume: "x"}); err == nil {
			t.Errorf("forget %q was not refused", name)
		}
		if err := n.startHere(name, nil); err == nil {
			t.Errorf("start %q was not refused", name)
		}
		if _, err := n.createHere(t.Context(), "b", &createRequest{Header: intentlog.Header{Name: name}, Path: filepath.Join(n.cfg.State, "x.img"), SizeBytes: 1 << 20}); err == nil {
			t.Errorf("create %q was not refused", name)
		}
	}
	for _, dir := range []string{victim, filepath.Join(n.volumesDir(), "other")} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("%s is gone: %v", dir, err)
		}
	}
}

// TestCreateLeavesNothing: a replica that cannot be made leaves neither its file nor a directory, and can be made then.
func TestCreateLeavesNothing(t *testing.T) {
	n := idle(t)
	path := filepath.Join(n.cfg.State, "x.img")
	header := intentlog.Header{Volume: "00112233445566778899aabbccddeeff", Name: "data"}
	header.Standing = lineage.Standing{Role: lineage.RoleTarget}
	if _, err := n.createHere(t.Context(), "b", &createRequest{Header: header, Path: path, SizeBytes: 1000}); err == nil {
		t.Fatal("a volume of 1000 bytes was made")
	}
	for _, left := range []string{path, filepath.Join(n.volumesDir(), "data")} {
		if _, err := os.Stat(left); err == nil {
			t.Errorf("%s was left behind", left)
		}
	}
	answer, err := n.createHere(t.Context(), "b", &createRequest{Header: header, Path: path, SizeBytes: 1 << 20})
	if err != nil || !answer.Made {
		t.Fatal(answer, err)
	}
	// The source that asked died before it wrote down that there is such a member, and asks again.
	if again, err := n.createHere(t.Context(), "b", &createRequest{Header: header, Path: path, SizeBytes: 1 << 20}); err != nil || again.Made || again.SizeBytes != 1<<20 {
		t.Errorf("the same replica again: %+v, %v", again, err)
	}
	stranger := header
	stranger.Volume = "ff112233445566778899aabbccddeeff"
	for what, r := range map[string]createRequest{"another volume of that name": {stranger, path, 1 << 20}, "another disk": {header, path + "2", 1 << 20}, "another size": {header, path, 2 << 20}} {
		if _, err := n.createHere(t.Context(), "b", &r); err == nil {
			t.Errorf("%s was taken", what)
		}
	}
	if err := n.forget(nameRequest{Name: "data", Volume: "another"}); err == nil {
		t.Error("a volume of another id was forgotten")
	}
	if err := n.forget(nameRequest{Name: "data", Volume: header.Volume, Unmake: true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file that was made is still there")
	}
}

// TestWritesOfSalvages: they are taken from a member of the volume, for a named salvage and caller, within a limit, and by
// nobody else; nothing else changes the volume.
func TestWritesOfSalvages(t *testing.T) {
	n := idle(t)
	n.started = time.Now()
	term := lineage.Term{N: 1, Node: "a"}
	standing := lineage.Standing{Role: lineage.RoleSource, Promised: term, Served: term, Record: lineage.Record{Epoch: lineage.Epoch{Term: term}, Members: []string{"a"}},
		Settings: lineage.Settings{Members: []lineage.Member{{Node: "a"}, {Node: "b"}, {Node: "gone", Removed: true}}}}
	a := opened(t, n, vfs.NewMem(1), standing)
	v := a.v

	good := writeRequest{Volume: a.id, Term: term, Op: block.Write, Len: 512, Data: make([]byte, 512), Until: time.Minute, Salvage: "s", By: api.Caller{Kind: api.CallerLocal, Name: "root"}}
	if _, err := n.writeCame(t.Context(), "b", &good); err != nil {
		t.Fatal(err)
	}
	before := v.Own().Position
	for name, wrong := range map[string]struct {
		from   string
		change func(*writeRequest)
		rule   string
	}{
		"a server of the cluster without a copy": {"z", func(*writeRequest) {}, lineage.RuleNotAMember},
		"a server that was removed":              {"gone", func(*writeRequest) {}, lineage.RuleNotAMember},
		"another term":                           {"b", func(r *writeRequest) { r.Term.N++ }, lineage.RuleNoSource},
		"for nobody":                             {"b", func(r *writeRequest) { r.By = api.Caller{} }, ""},
		"of no salvage":                          {"b", func(r *writeRequest) { r.Salvage = "" }, ""},
		"without a limit":                        {"b", func(r *writeRequest) { r.Until = 0 }, ""},
		"too late":                               {"b", func(r *writeRequest) { r.Until = 1 }, ""},
		"a read":                                 {"b", func(r *writeRequest) { r.Op = block.Read }, ""},
	} {
		r := good
		wrong.change(&r)
		_, err := n.writeCame(t.Context(), wrong.from, &r)
		var said *api.Error
		if !errors.As(err, &said) || said.Rule != wrong.rule {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := n.sumsCame(t.Context(), "z", &sumsRequest{Volume: a.id, Term: term, Ranges: []volume.Range{{Len: 512}}}); err == nil {
		t.Error("a server without a copy is told what the volume holds")
	}
	if at := v.Own().Position; at != before {
		t.Errorf("something was written: %v, %v before", at, before)
	}
}

// opened is a volume of the node that serves in the standing's term; no machine decides anything about it.
func opened(t *testing.T, n *Node, fsys *vfs.Mem, standing lineage.Standing) *vol {
	t.Helper()
	o := volume.Options{FS: fsys, Dir: "/log", Limits: volume.DefaultLimits, Post: func(mirror.Event) {}, Log: n.log}
	header := intentlog.Header{Cluster: "c", Volume: "00112233445566778899aabbccddeeff", Name: "data", Node: "a", Standing: standing}
	if _, err := volume.Create(o, volume.New{Header: header, Path: "/data.img", SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	v, err := volume.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.BecomeSource(standing, false); err != nil {
		t.Fatal(err)
	}
	v.OpenDevice()
	t.Cleanup(func() { _ = v.Close() })
	a := &vol{n: n, name: "data", id: header.Volume, v: v, applying: make(chan struct{}, 1)}
	a.view.Store(&mirror.View{Open: true, Term: standing.Served})
	n.volumes["data"] = a
	return a
}

// TestSaveOnALogThatHangs: what has to be durable is waited for only so long, and nobody who looks at the volume waits for it.
func TestSaveOnALogThatHangs(t *testing.T) {
	n := idle(t)
	n.cfg.Limits.DiskStall = config.Duration(100 * time.Millisecond)
	term := lineage.Term{N: 1, Node: "a"}
	standing := lineage.Standing{Role: lineage.RoleSource, Promised: term, Served: term}
	fsys := vfs.NewMem(1)
	a := opened(t, n, fsys, standing)
	stuck, hangs := make(chan struct{}), make(chan struct{}, 1)
	t.Cleanup(func() { close(stuck) }) // before the volume is closed
	fsys.Inject(func(op, path string, _ int64, _ int) error {
		if op == "sync" && path == "/log/header" {
			select {
			case hangs <- struct{}{}:
			default:
			}
			<-stuck
		}
		return nil
	})
	next := standing.Clone()
	next.Promised.N++
	saved := make(chan error, 1)
	go func() { saved <- a.do(mirror.Save{Standing: next}) }()
	<-hangs
	if h := a.v.Header(); h.Promised != term {
		t.Errorf("what is not durable is shown: %v", h.Promised)
	}
	a.v.Own()
	if info := a.info(); !info.Serving {
		t.Error("it does not say that it serves")
	}
	if err := <-saved; err == nil || !strings.Contains(err.Error(), lineage.RuleDiskStalled) {
		t.Fatalf("saved: %v", err)
	}
	a.begun.Store(time.Now().Add(-time.Minute).UnixNano())
	if a.slowStep(time.Now()) == "" {
		t.Error("a step that takes a minute is not shown")
	}
}
