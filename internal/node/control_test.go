package node

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
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
	n := &Node{cfg: cfg, out: Outside{FS: vfs.OS}, log: slog.New(slog.DiscardHandler), ctx: t.Context(), peers: map[string]*neighbour{}, events: events,
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
	o := volume.Options{FS: vfs.NewMem(1), Dir: "/log", Limits: volume.DefaultLimits, Post: func(mirror.Event) {}, Log: n.log}
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
	a.view.Store(&mirror.View{Open: true, Term: term})
	n.volumes["data"] = a

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
