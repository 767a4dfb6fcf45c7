package volume

import (
	"errors"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/resync"
	"keelson/internal/vfs"
)

func isNoSpace(err error) bool { return errors.Is(err, vfs.ErrNoSpace) }

// LinkStatus is what the data path knows of one mirror.
type LinkStatus struct {
	Session   uint64
	Up        bool
	InStep    bool
	Position  uint64 // acknowledged
	LagBytes  int64
	LagTime   time.Duration
	WireBytes int64
	Queued    int64         // bytes that wait for the socket
	Resync    *ResyncStatus // the newest that compared or moved anything; nil if none
}

// ResyncStatus is one resync.
type ResyncStatus struct {
	Kind, Rule string
	Done       bool
	Running    bool
	Progress   resync.Report
}

// Status is what the data path knows of the volume.
type Status struct {
	Number     uint64
	Gen        string
	HotExtents int
	Unknown    int64 // bytes
	Undo       UndoStatus
	Counters   map[string]int64
	Links      map[string]LinkStatus
}

// remember keeps the newest resync of a target beyond its session. mu is held.
func (v *Volume) remember(l *link) {
	if !l.moved {
		return
	}
	if v.resyncs == nil {
		v.resyncs = map[string]ResyncStatus{}
	}
	v.resyncs[l.target] = l.report(time.Now())
}

// report: mu is held.
func (l *link) report(now time.Time) ResyncStatus {
	return ResyncStatus{Kind: string(l.kind), Rule: l.rule, Done: l.inStep, Running: !l.inStep && l.stream.Err() == nil, Progress: l.progress.Report(now)}
}

// Urgent counts the writes for which somebody waits at another server: those at a source with a sync mirror, and those
// of a target's session. 0 while there is neither; it changes while there is traffic.
func (v *Volume) Urgent() int64 {
	v.mu.Lock()
	urgent := v.session != nil
	for _, l := range v.links {
		urgent = urgent || l.sync
	}
	v.mu.Unlock()
	if !urgent {
		return 0
	}
	return v.stats.writes.Load()
}

// Status is the state now.
func (v *Volume) Status(now time.Time) Status {
	s := Status{
		HotExtents: v.log.HotCount(), Unknown: min(v.log.UnknownRegions()<<v.region, v.size),
		Counters: map[string]int64{
			"reads": v.stats.reads.Load(), "writes": v.stats.writes.Load(), "flushes": v.stats.flushes.Load(),
			"read_bytes": v.stats.readBytes.Load(), "write_bytes": v.stats.writeBytes.Load(),
			"checkpoints": v.stats.checkpoints.Load(), "hot_misses": v.stats.hotMisses.Load(), "disk_errors": v.stats.diskErrors.Load(),
		},
		Links: map[string]LinkStatus{},
		Undo:  v.UndoStatus(),
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	at := v.at()
	s.Number, s.Gen = at.Number, at.Gen.String()
	for name, r := range v.resyncs {
		s.Links[name] = LinkStatus{Resync: &r}
	}
	for _, l := range v.links {
		ls := LinkStatus{Session: l.session, Up: true, InStep: l.inStep, Position: l.written, WireBytes: l.stream.Sent(), Queued: l.stream.QueuedBytes()}
		ls.LagBytes, ls.LagTime = l.lag.behind(now)
		if !l.inStep {
			ls.LagBytes += min(l.set.Len()<<v.region, v.size)
		}
		ls.Resync = s.Links[l.target].Resync
		if l.moved && !l.inStep {
			r := l.report(now)
			ls.Resync = &r
		}
		s.Links[l.target] = ls
	}
	return s
}

// RegionVersion is the region's version as all servers name it: the zero generation and 0 if it is unknown.
func (v *Volume) RegionVersion(region int64) (gen lineage.GenID, number uint64) {
	version := v.log.Version(region)
	if version == lineage.Unknown {
		return lineage.GenID{}, 0
	}
	return v.log.GenByIndex(version.Index()), version.Number()
}
