package preflight

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
)

var today = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// wellServers are two servers at which everything is as it should be, and what is wanted of them: a new volume.
func wellServers() (Wanted, []Server) {
	const path = "/dev/vg/data"
	want := Wanted{Volume: "", Paths: map[string]string{"a": path, "b": path}, Planned: map[string]bool{"a": true, "b": true}, Source: "a"}
	var servers []Server
	for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
		servers = append(servers, Server{
			Node: names[0], Version: "1.0", Protocol: 2,
			State: Folder{Path: "/var/lib/keelson", FreeBytes: 100 << 30, WantBytes: 1 << 30, Sync: Timing{Times: 32, Median: 0.001, Worst: 0.003}},
			Disks: []Disk{{Path: path, Kind: KindDevice, SizeBytes: 10 << 30, BlockBytes: 512, Flush: Timing{Times: 8, Median: 0.001, Worst: 0.002}}},
			Files: Limit{Have: 1 << 20, Want: 4096}, CertEnds: today.AddDate(0, 3, 0), CAEnds: today.AddDate(10, 0, 0), CAKey: true,
			Reach: []Reach{{Node: names[1], Address: "10.0.0.1:7401", Version: "1.0", Protocol: 2, Trip: 0.0002, Offset: 0.01, Bytes: 64 << 20, Seconds: 0.1}},
		})
	}
	return want, servers
}

// serveAt makes the copies those of a volume that clients find at these addresses and names.
func serveAt(servers []Server, names ...string) {
	for i := range servers {
		servers[i].Disks[0].Volume = "data"
		for _, name := range names {
			servers[i].Services = append(servers[i].Services, Service{Volume: "data", Name: name, AltName: "X:" + name, TLS: true})
		}
	}
}

func TestJudge(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Wanted, []Server)
		want   string // level, server and name of what is not ok
		says   string
	}{
		{"all is well", func(*Wanted, []Server) {}, "", ""},
		{"one direction is closed", func(_ *Wanted, s []Server) {
			s[1].Reach[0] = Reach{Node: "a", Address: "10.0.0.1:7401", Err: "no route"}
		}, "problem b->a reachable", "no route"},
		{"a direction was not asked", func(_ *Wanted, s []Server) { s[0].Reach = nil }, "", ""},
		{"versions", func(_ *Wanted, s []Server) { s[1].Version = "1.1" }, "warning a->b versions", "b version 1.1"},
		{"protocols", func(_ *Wanted, s []Server) { s[1].Protocol = 3 }, "problem a->b versions", "no mirror between them"},
		{"a clock is behind", func(_ *Wanted, s []Server) { s[0].Reach[0].Offset = -90 }, "warning a->b clock", "clock of b is 1m30s behind that of a"},
		{"a clock, known from the other side only", func(_ *Wanted, s []Server) { s[0].Reach[0].Err = "no route"; s[1].Reach[0].Offset = 5 }, "problem a->b reachable, warning b->a clock", "clock of a is 5s ahead of that of b"},
		{"a clock that cannot be told because of the way", func(_ *Wanted, s []Server) { s[0].Reach[0].Offset, s[0].Reach[0].Trip = 1.2, 1 }, "warning a->b round-trip", ""},
		{"a long way", func(_ *Wanted, s []Server) { s[0].Reach[0].Trip = 0.04 }, "warning a->b round-trip", "mode async"},
		{"a narrow way", func(_ *Wanted, s []Server) { s[0].Reach[0].Seconds = 10 }, "warning a->b bandwidth", "6.4 MiB/s over one connection; all 10 GiB would take 26m40s"},
		{"a way that broke", func(_ *Wanted, s []Server) { s[0].Reach[0].LoadErr = "reset" }, "warning a->b bandwidth", "reset"},
		{"little room", func(_ *Wanted, s []Server) { s[0].State.FreeBytes = 600 << 20 }, "warning a state-room", "may grow by 1.0 GiB"},
		{"no room", func(_ *Wanted, s []Server) { s[0].State.FreeBytes = 1 << 20 }, "problem a state-room", "1.0 MiB free"},
		{"no state directory", func(_ *Wanted, s []Server) { s[0].State.Err = "gone" }, "problem a state-room", "gone"},
		{"slow state", func(_ *Wanted, s []Server) { s[0].State.Sync.Median = 0.05 }, "warning a state-sync", "durable after 50ms"},
		{"state that stalls", func(_ *Wanted, s []Server) { s[0].State.Sync.Worst = 3 }, "warning a state-sync", "at worst after 3s"},
		{"state that cannot be written", func(_ *Wanted, s []Server) { s[0].State.Sync.Err = "read-only" }, "problem a state-sync", "read-only"},
		{"state not measured", func(_ *Wanted, s []Server) { s[0].State.Sync = Timing{} }, "", ""},
		{"few files", func(_ *Wanted, s []Server) { s[0].Files.Have = 1024 }, "warning a open-files", "may have 1024 files open"},
		{"sleeping processors", func(_ *Wanted, s []Server) { s[0].Awake = "permission denied" }, "warning a wake-up", "permission denied"},
		{"processors that may sleep", func(_ *Wanted, s []Server) { s[0].Awake, s[0].AwakeOff = "permission denied", true }, "", ""},
		{"no device at all", func(_ *Wanted, s []Server) { s[0].Loop, s[0].NBD = "no fuse", "no nbd" }, "warning a attach", "no fuse; no nbd"},
		{"one kind of device", func(_ *Wanted, s []Server) { s[0].Loop = "no fuse" }, "", ""},
		{"a certificate that ends and cannot be renewed", func(_ *Wanted, s []Server) { s[0].CertEnds, s[0].CAKey = today.AddDate(0, 0, 3), false }, "warning a certificate", "until 2026-11-28"},
		{"a certificate that ends and will be renewed", func(_ *Wanted, s []Server) { s[0].CertEnds = today.AddDate(0, 0, 3) }, "", ""},
		{"a certificate that ended", func(_ *Wanted, s []Server) { s[0].CertEnds = today.AddDate(0, 0, -3) }, "warning a certificate", "ended 2026-11-22"},
		{"a CA that ends", func(_ *Wanted, s []Server) { s[0].CAEnds = today.AddDate(0, 1, 0) }, "warning a ca-certificate", ""},
		{"a CA that ended", func(_ *Wanted, s []Server) { s[0].CAEnds = today.AddDate(0, -1, 0) }, "problem a ca-certificate", "nobody can be invited"},
		{"service addresses", func(_ *Wanted, s []Server) { serveAt(s, "192.0.2.10", "data.example") }, "", ""},
		{"a service address without TLS", func(_ *Wanted, s []Server) {
			serveAt(s, "192.0.2.10")
			s[0].Services[0] = Service{Volume: "data", Name: "192.0.2.10", Err: "not asked"}
		}, "", ""},
		{"a certificate that is not good for the service address", func(_ *Wanted, s []Server) {
			serveAt(s, "192.0.2.10")
			s[1].Services[0].Err = "no key"
		}, "warning b service-certificate", "subjectAltName X:192.0.2.10"},
		{"a certificate that is not good for the service name", func(_ *Wanted, s []Server) {
			serveAt(s, "data.example")
			s[0].Services[0].Err = "no key"
		}, "warning a service-certificate", "subjectAltName X:data.example"},
		{"a service address at one server only", func(_ *Wanted, s []Server) {
			serveAt(s, "192.0.2.10")
			s[1].Services = nil
		}, "warning b service", "as source it would not be found"},
		{"a path that is wrong", func(_ *Wanted, s []Server) {
			s[1].Disks[0] = Disk{Path: "/x/y", Kind: KindNone, Err: "/x does not exist"}
		}, "problem b backing", "/x does not exist"},
		{"a directory in the way", func(_ *Wanted, s []Server) { s[1].Disks[0].Kind = KindOther }, "problem b backing", "neither a file nor a block device"},
		{"a device that is mounted", func(_ *Wanted, s []Server) { s[1].Disks[0].Holders = []string{"mounted at /srv (ext4)"} }, "problem b backing", "mounted at /srv"},
		{"a device that somebody has", func(_ *Wanted, s []Server) { s[1].Disks[0].InUse = "somebody else has it" }, "problem b backing", "somebody else has it"},
		{"a smaller target", func(_ *Wanted, s []Server) { s[1].Disks[0].SizeBytes = 9 << 30 }, "problem b backing-size", "the volume needs 10737418240"},
		{"a larger target", func(_ *Wanted, s []Server) { s[1].Disks[0].SizeBytes = 11 << 30 }, "warning b backing-size", "more than the 10 GiB"},
		{"a size that was given", func(w *Wanted, _ []Server) { w.SizeBytes = 20 << 30 }, "problem a backing-size, problem b backing-size", ""},
		{"a size of half a sector", func(_ *Wanted, s []Server) { s[0].Disks[0].SizeBytes, s[1].Disks[0].SizeBytes = 1000, 1000 }, "problem a backing-size, problem b backing-size", "not possible"},
		{"a file that will be made", func(_ *Wanted, s []Server) {
			s[1].Disks[0] = Disk{Path: "/srv/data", Kind: KindNone, RoomBytes: 20 << 30}
		}, "", ""},
		{"a file that has no room", func(_ *Wanted, s []Server) {
			s[1].Disks[0] = Disk{Path: "/srv/data", Kind: KindNone, RoomBytes: 5 << 30}
		}, "warning b backing", "only 5.0 GiB are free"},
		{"no source, and no size", func(_ *Wanted, s []Server) {
			s[0].Disks[0] = Disk{Path: "/dev/vg/data", Kind: KindNone, RoomBytes: 5 << 30}
		}, "problem a backing", "its size is not known"},
		{"large blocks", func(_ *Wanted, s []Server) { s[1].Disks[0].BlockBytes = 4096 }, "warning b backing-blocks", ""},
		{"slow flushes", func(_ *Wanted, s []Server) { s[1].Disks[0].Flush.Median = 0.2 }, "warning b backing-flush", "200ms"},
		{"flushes that fail", func(_ *Wanted, s []Server) { s[1].Disks[0].Flush = Timing{Err: "input/output error"} }, "warning b backing-flush", "input/output error"},
		{"state on the disk itself", func(_ *Wanted, s []Server) { s[1].Disks[0].StateOnIt = true }, "problem b state-on-volume", "wait for itself"},
		{"a copy that there is", func(w *Wanted, s []Server) {
			w.Volume, s[0].Disks[0].Volume, s[0].Disks[0].InUse = "data", "data", "this agent"
		}, "", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want, servers := wellServers()
			test.change(&want, servers)
			items := Judge(today, want, servers, nil)
			var bad []string
			var said strings.Builder
			for _, i := range items {
				if i.Message == "" || i.Check == "" || i.Node == "" || (i.Value == nil) != (i.Unit == "") {
					t.Errorf("not said, or without a unit: %+v", i)
				}
				if i.Level == api.CheckOK {
					continue
				}
				where := i.Node
				if i.Peer != "" {
					where += "->" + i.Peer
				}
				bad = append(bad, fmt.Sprintf("%s %s %s", i.Level, where, i.Check))
				fmt.Fprintln(&said, i.Message, i.Next)
				if i.Next == "" && i.Level == api.CheckProblem {
					t.Errorf("it is not said what to do: %+v", i)
				}
			}
			if got := strings.Join(bad, ", "); got != test.want {
				t.Errorf("found %q, want %q", got, test.want)
			}
			if !strings.Contains(said.String(), test.says) {
				t.Errorf("%q is not in %q", test.says, said.String())
			}
		})
	}
}

// A server that cannot be asked is a problem, and the others are judged all the same.
func TestJudgeSilentServers(t *testing.T) {
	want, servers := wellServers()
	items := Judge(today, want, servers[:1], map[string]string{"b": "connection refused"})
	if items[0].Level != api.CheckProblem || items[0].Node != "b" || !strings.Contains(items[0].Message, "connection refused") || len(items) < 8 {
		t.Errorf("%+v", items)
	}
}
