package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"keelson/internal/api"
	"keelson/internal/api/apitest"
	"keelson/internal/config"
)

// exits checks the exit code of a command: exits CODE COMMAND ARGS...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	var exit interface{ ExitCode() int }
	code := 0
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, not %d", code, want)
	}
}

func at(seconds int) time.Time { return scriptTime.Add(time.Duration(seconds-30) * time.Second) }

// threeServers is a status with most of what can be in one.
func threeServers() *api.Status {
	done, left := at(5), 4.2
	return &api.Status{
		Cluster: "5f0c1e0e9b3a4c63", Node: "a", Version: "1.0", Web: "https://127.0.0.1:7443/",
		Nodes: []api.NodeStatus{{Name: "a", Address: "127.0.0.1:7401", Reachable: true}, {Name: "b", Address: "127.0.0.1:7402", Reachable: true},
			{Name: "c", Address: "127.0.0.1:7403", Heard: at(18)}, {Name: "d", Address: "127.0.0.1:7404"}},
		Volumes: []api.VolumeStatus{{
			Name: "data", ID: "00ff", SizeBytes: 1 << 30, RegionBytes: 65536, Role: "source", State: "Serving", Source: "a", Term: 1, Generation: "5f0c12ab34cd", Position: 8141,
			InSync: []string{"a", "b"}, Encryption: "on", Devices: []api.DeviceStatus{{Kind: "nbd", Address: "nbd+unix:///data?socket=/x/nbd.sock"}},
			Mirrors: []api.MirrorStatus{
				{Source: "a", Target: "b", Mode: "sync", State: "Mirroring", Position: 8141, AsOf: at(30),
					Resync: &api.ResyncStatus{Kind: "partial", Rule: "versions-differ", State: "finished", BytesTotal: 1 << 20, BytesSent: 65536, BytesSkipped: 983040, Finished: &done}},
				{Source: "a", Target: "c", Mode: "async", State: "Resync", Position: 8000, LagBytes: 3 << 20, LagSeconds: 0.25, AsOf: at(30),
					Resync: &api.ResyncStatus{Kind: "compare", Rule: "no-shared-history", State: "running", BytesTotal: 100 << 20, BytesSent: 40 << 20, BytesSkipped: 2 << 20, BytesPerSec: 14 << 20, SecondsLeft: &left}},
				{Source: "a", Target: "d", Mode: "sync", State: "Paused", Reason: "paused by the administrator", AsOf: at(30),
					Resync: &api.ResyncStatus{Kind: "partial", State: "interrupted", BytesTotal: 1 << 20, BytesSent: 4096}},
			},
			Switchover: []api.Candidate{{To: "b", OK: true}, {To: "c", Reason: "its resync has not ended", Rule: "not-in-step"}, {To: "d", Reason: "its mirror is paused"}},
			Plan:       &api.PlanStatus{ID: "p", To: "b", Step: "hold", Waits: "writes in flight"},
			Counters:   map[string]int64{"writes": 7, "reads": 9}, HotExtents: 3, UnknownBytes: 1 << 20,
		}, {
			Name: "logs", SizeBytes: 10 << 30, Role: "target", State: "Target", Source: "b", Term: 4, InSync: []string{"b"}, Encryption: "off",
			Mirrors: []api.MirrorStatus{{Source: "b", Target: "a", Mode: "sync", State: "ResyncPending", Reason: "the source b can't be reached", AsOf: at(20)}},
		}},
	}
}

var refusal = api.Refusal("not-mirroring", "volume data", "c is not Mirroring: its mirror is paused", "keelson mirror continue data --target c")

// services are what scripts can ask for.
var services = map[string]*apitest.Fake{
	"good": {
		OnStatus: func(context.Context) (*api.Status, error) { return threeServers(), nil },
		OnWatch: func(_ context.Context, fn func(*api.Status) error) error {
			s := threeServers()
			s.Volumes = s.Volumes[1:]
			return errors.Join(fn(s), fn(s))
		},
		OnEvents: func(_ context.Context, q api.EventsQuery, fn func(api.Event) error) error {
			return errors.Join(fn(api.Event{Seq: 1, Time: at(0), Node: "a", Level: "info", Volume: "data", Object: "mirror a->b", Message: "Mirroring"}),
				fn(api.Event{Seq: 2, Time: at(1), Node: "b", Level: "warning", Object: "volume data", Rule: "boot-wait", Message: "stays closed", Next: "start c"}))
		},
		OnCreateVolume: func(_ context.Context, r api.CreateVolume) (*api.VolumeStatus, error) {
			return &api.VolumeStatus{Name: r.Name, SizeBytes: r.SizeBytes, Source: r.Source.Node}, nil
		},
		OnDeleteVolume: func(context.Context, api.DeleteVolume) error { return nil },
		OnChangeMirror: func(_ context.Context, r api.MirrorChange) (*api.VolumeStatus, error) {
			reason := ""
			if r.Mode != nil {
				reason += "mode " + *r.Mode
			}
			for _, limit := range []*int64{r.QueueBytes, r.RateBytes, r.ResyncRate} {
				if limit != nil {
					reason += fmt.Sprint(" ", *limit)
				}
			}
			return &api.VolumeStatus{Name: r.Volume, Mirrors: []api.MirrorStatus{{Target: r.Target, State: "Paused", Reason: r.Path + reason}}}, nil
		},
		OnSwitchover: func(_ context.Context, r api.Switchover, step func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
			if r.To == "c" {
				return nil, refusal
			}
			result := &api.SwitchoverResult{Volume: r.Volume, From: "a", To: r.To, Plan: "p1", Done: !r.Plan, Millis: 12,
				Steps: []api.SwitchoverStep{{Name: "hold", Text: "new writes wait", State: "planned"}, {Name: "commit", Text: "a writes down that b is next", State: "planned"}}}
			if r.Plan {
				result.Plan, result.Risks = "", []string{"c lacks 3 MiB"}
				return result, nil
			}
			for _, s := range result.Steps {
				step(api.SwitchoverStep{Name: s.Name, Text: s.Text, State: "done"})
			}
			return result, nil
		},
		OnSplitBrain: bothSides, OnResolve: resolved, OnPlanResolve: plannedResolve, OnView: changedView, OnSalvages: keptSalvages, OnSalvage: changedSalvage,
		OnCheck: someCheck, OnClients: someClients, OnChangeClient: changedClient, OnNodes: someNodes, OnInviteNode: invited, OnRemoveNode: removedNode, OnUsers: someUsers, OnChangeUser: changedUser, OnAudit: someAudit,
	},
	"empty": {
		OnSplitBrain: func(_ context.Context, r api.VolumeName) (*api.SplitBrain, error) {
			return &api.SplitBrain{Volume: r.Name}, nil
		},
		OnSalvages: func(context.Context, api.VolumeName) (*api.Salvages, error) {
			return &api.Salvages{Silent: []string{"c"}}, nil
		},
	},
	"slow": {
		OnStatus: func(ctx context.Context) (*api.Status, error) { <-ctx.Done(); return nil, ctx.Err() },
		OnSwitchover: func(ctx context.Context, r api.Switchover, _ func(api.SwitchoverStep)) (*api.SwitchoverResult, error) {
			<-ctx.Done()
			return nil, &api.Error{Code: api.Unfinished, Object: "volume data", Message: "the switchover to b goes on", Waits: "mirror a->b", Next: "keelson status"}
		},
	},
	"bad": {
		OnDeleteVolume: func(context.Context, api.DeleteVolume) error { return errors.New("disk full") },
		OnWatch: func(_ context.Context, fn func(*api.Status) error) error {
			return fn(threeServers())
		},
	},
}

// smallAgent stands in for an agent: it answers at its sockets and makes volumes out of nothing. FAKE_AGENT says what
// goes wrong: "NODE:die", "NODE:taken" (the port, once) or "NODE:pending" (its mirrors are never Mirroring).
func smallAgent(ctx context.Context, cfg *config.Agent, log *slog.Logger, version string) error {
	mood, once := os.Getenv("FAKE_AGENT"), filepath.Join(cfg.State, "once")
	switch _, err := os.Stat(once); {
	case mood == cfg.Node+":die":
		return errors.New("the disk is on fire")
	case mood == cfg.Node+":taken" && err != nil:
		return errors.Join(os.WriteFile(once, nil, 0o600), fmt.Errorf("listen tcp %s: bind: address already in use", cfg.Listen.Address))
	}
	l, err := net.Listen("tcp", cfg.Listen.Address)
	if err != nil {
		return err
	}
	defer l.Close()
	pid := filepath.Join(cfg.State, "agent.pid")
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	defer os.Remove(pid)
	stop, err := apitest.Listen(cfg.API.Socket, emptyAgent(cfg, mood == cfg.Node+":pending"))
	if err != nil {
		return err
	}
	defer stop()
	log.Info("agent started", "node", cfg.Node)
	<-ctx.Done()
	return nil
}

func emptyAgent(cfg *config.Agent, pending bool) api.Service {
	var mu sync.Mutex
	status := &api.Status{Cluster: "c", Node: cfg.Node, Version: "1.0"}
	return &apitest.Fake{
		OnStatus: func(context.Context) (*api.Status, error) {
			mu.Lock()
			defer mu.Unlock()
			copied := *status
			return &copied, nil
		},
		OnCreateVolume: func(_ context.Context, r api.CreateVolume) (*api.VolumeStatus, error) {
			mu.Lock()
			defer mu.Unlock()
			v := api.VolumeStatus{Name: r.Name, SizeBytes: r.SizeBytes, Role: "source", Source: cfg.Node, Encryption: cfg.Encryption,
				Devices: []api.DeviceStatus{{Kind: "nbd", Address: "nbd+unix:///data?socket=" + cfg.NBD.Socket}}}
			for _, t := range r.Targets {
				m := api.MirrorStatus{Source: cfg.Node, Target: t.Node, Mode: r.Mode, State: "Mirroring"}
				if pending {
					m.State, m.Reason = "ResyncPending", "nobody listens"
				}
				v.Mirrors = append(v.Mirrors, m)
			}
			status.Volumes = []api.VolumeStatus{v}
			return &v, nil
		},
	}
}
