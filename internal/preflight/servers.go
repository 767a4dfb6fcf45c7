package preflight

import (
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"keelson/internal/api"
)

// From these values on something is a warning, or a problem.
const (
	roomBytesLeast   = 256 << 20 // free in the state directory
	syncSlow         = 0.020     // seconds
	syncTooSlow      = 1.0
	certificateSoon  = 14 * 24 * time.Hour
	caSoon           = 180 * 24 * time.Hour
	blockBytesUsual  = 512
	mapBytesARegion  = 8
	regionBytesLeast = 64 << 10
)

// judge collects items.
type judge struct {
	now   time.Time
	want  Wanted
	items []api.CheckItem
}

// about is an item that is ok so far.
func about(check, node, object, format string, args ...any) api.CheckItem {
	return api.CheckItem{Check: check, Level: api.CheckOK, Node: node, Object: object, Message: fmt.Sprintf(format, args...)}
}

func measured(i api.CheckItem, value float64, unit string) api.CheckItem {
	i.Value, i.Unit = &value, unit
	return i
}

// add notes an item. Of the findings the last that applies counts.
func (j *judge) add(i api.CheckItem, findings ...finding) {
	for _, f := range findings {
		if f.applies {
			i.Level, i.Next = f.level, f.next
			if f.message != "" {
				i.Message = f.message
			}
		}
	}
	j.items = append(j.items, i)
}

// finding is why an item is not ok.
type finding struct {
	applies              bool
	level, message, next string
}

func warning(applies bool, next, format string, args ...any) finding {
	return finding{applies, api.CheckWarning, fmt.Sprintf(format, args...), next}
}

func problem(applies bool, next, format string, args ...any) finding {
	return finding{applies, api.CheckProblem, fmt.Sprintf(format, args...), next}
}

// Judge says what of all that was found works and what does not. silent are servers that could not be asked, with the reason.
func Judge(now time.Time, want Wanted, servers []Server, silent map[string]string) []api.CheckItem {
	j := &judge{now: now, want: want}
	j.want.SizeBytes = sizeOf(want, servers)
	for _, name := range sorted(silent) {
		j.items = append(j.items, api.CheckItem{Check: "reachable", Level: api.CheckProblem, Node: name, Message: "its agent cannot be asked: " + silent[name],
			Next: "see that the server is up, its agent runs, and its port is reachable from here"})
	}
	j.pairs(servers)
	for i := range servers {
		j.server(&servers[i])
	}
	j.disks(servers)
	j.services(servers)
	return j.items
}

func sorted(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// server is what one server has to say of itself.
func (j *judge) server(s *Server) {
	j.room(s)
	j.sync(s)
	files := measured(about("open-files", s.Node, "", "may have %d files open, and needs %d at most", s.Files.Have, s.Files.Want), float64(s.Files.Have), "files")
	j.add(files, warning(s.Files.Have < s.Files.Want, "raise LimitNOFILE= of the agent's unit, or lower connections-max and volumes-max",
		"may have %d files open; with as many volumes and connections as its configuration allows it needs %d", s.Files.Have, s.Files.Want))
	awake := about("wake-up", s.Node, "/dev/cpu_dma_latency", "processors are kept awake while writes wait for other servers")
	j.add(awake, finding{s.AwakeOff, api.CheckOK, `processors may sleep: low-latency = "off"`, ""},
		warning(s.Awake != "" && !s.AwakeOff, "run the agent as root on a kernel with CPU idle management; without it single mirrored writes are slower, and nothing else",
			"processors cannot be kept awake: %s", s.Awake))
	attach := about("attach", s.Node, "", "a volume can be attached as a block device: %s", how(s))
	j.add(attach, warning(s.Loop != "" && s.NBD != "", "modprobe fuse, loop (or nbd), and run the agent as root; programs that speak NBD need none of it",
		"no volume can be attached as a block device here: %s; %s", s.Loop, s.NBD))
	j.certificates(s)
}

func how(s *Server) string {
	switch {
	case s.Loop == "" && s.NBD == "":
		return "by FUSE and a loop device, or by the kernel's NBD client"
	case s.Loop == "":
		return "by FUSE and a loop device"
	}
	return "by the kernel's NBD client"
}

func (j *judge) room(s *Server) {
	f := s.State
	if f.Err != "" {
		j.items = append(j.items, api.CheckItem{Check: "state-room", Level: api.CheckProblem, Node: s.Node, Object: f.Path, Message: "its room is not known: " + f.Err, Next: "see that the directory is there and can be read"})
		return
	}
	need := int64(roomBytesLeast)
	if _, planned := j.want.Paths[s.Node]; planned && j.want.Planned[s.Node] {
		need += j.want.SizeBytes/regionBytesLeast*mapBytesARegion + 1<<20
	}
	i := measured(about("state-room", s.Node, f.Path, "%s free for intent logs, undo logs and salvages", bytes(f.FreeBytes)), float64(f.FreeBytes), "bytes")
	next := "free some space, move the state directory to a larger file system, or lower undo-bytes and salvage-bytes"
	j.add(i, warning(f.FreeBytes < f.WantBytes, next, "%s free; undo logs and salvages may grow by %s, and a resync that finds no room for them cannot be taken back, or stops", bytes(f.FreeBytes), bytes(f.WantBytes)),
		problem(f.FreeBytes < need, next, "%s free: intent logs need room for %s", bytes(f.FreeBytes), bytes(need)))
}

func (j *judge) sync(s *Server) {
	t := s.State.Sync
	switch {
	case t.Err != "":
		j.items = append(j.items, api.CheckItem{Check: "state-sync", Level: api.CheckProblem, Node: s.Node, Object: s.State.Path, Message: "a small file cannot be written and made durable: " + t.Err, Next: "see that the file system is mounted for writing and has room"})
	case t.Times > 0:
		i := measured(about("state-sync", s.Node, s.State.Path, "a small write is durable after %s, at worst after %s", seconds(t.Median), seconds(t.Worst)), t.Median, "seconds")
		j.add(i, warning(t.Median > syncSlow, "put the state directory on a disk with a fast or protected cache: first writes into an extent, and flushes, wait for it", ""),
			warning(t.Worst > syncTooSlow, "see what else uses that disk", ""))
	}
}

func (j *judge) certificates(s *Server) {
	left := func(end time.Time) string {
		if end.Before(j.now) {
			return "ended " + end.UTC().Format(time.DateOnly)
		}
		return "is good until " + end.UTC().Format(time.DateOnly)
	}
	days := func(end time.Time) float64 { return end.Sub(j.now).Hours() / 24 }
	if !s.CertEnds.IsZero() {
		next := "put the CA's key where [tls] ca-key says, so that the agent renews it; members that know its key let it in all the same"
		i := measured(about("certificate", s.Node, "", "its certificate %s", left(s.CertEnds)), days(s.CertEnds), "days")
		j.add(i, warning(s.CertEnds.Sub(j.now) < certificateSoon && !s.CAKey, next, "its certificate %s, and it has no key of the CA to renew it", left(s.CertEnds)),
			warning(s.CertEnds.Before(j.now), "see keelson events on that server: it says why the certificate is not renewed; look at its clock", ""))
	}
	if !s.CAEnds.IsZero() {
		i := measured(about("ca-certificate", s.Node, "", "the cluster's CA %s", left(s.CAEnds)), days(s.CAEnds), "days")
		j.add(i, warning(s.CAEnds.Sub(j.now) < caSoon, "replace the CA (docs/SECURITY.md) before that: afterwards nobody can be invited", ""),
			problem(s.CAEnds.Before(j.now), "look at the clock; if it is right, replace the CA (docs/SECURITY.md)", "the cluster's CA %s: nobody can be invited", left(s.CAEnds)))
	}
}

func bytes(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// seconds writes a duration with the digits that tell something.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
