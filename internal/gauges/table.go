package gauges

import (
	"github.com/prometheus/client_golang/prometheus"

	"keelson/internal/api"
)

// world is what one scrape sees.
type world struct {
	*api.Status
	Source
}

// metric is one row of the table.
type metric struct {
	name, help string
	labels     []string
	kind       prometheus.ValueType
	each       func(*world, func(float64, ...string))
	desc       *prometheus.Desc
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// States that a label can have: the one that applies has the value 1, all others 0, so that a change is seen whatever it is.
var (
	volumeStates = []string{"Serving", "Closed", "HandedOver", "Target", "Failed"}
	undoStates   = []string{"rolling", "given-up", "rolling-back", "none"}
	mirrorStates = []string{"SplitBrain", "Failed", "Broken", "Paused", "Resync", "ResyncPending", "Mirroring"}
	volumeRoles  = []string{"source", "target", "none"}
)

// metrics is the table of all metrics but the histogram. Names and labels only grow.
var metrics = describe([]metric{
	{"keelson_agent_info", "The agent: always 1.", []string{"cluster", "node", "version"}, gauge, agentInfo, nil},
	{"keelson_node_reachable", "1 if that server answered last time.", []string{"peer"}, gauge, nodesReachable, nil},
	{"keelson_events_total", "Events told since the agent's start.", []string{"level"}, counter, eventsTold, nil},
	{"keelson_certificate_end_timestamp_seconds", "When a certificate in use ends: node, ca.", []string{"certificate"}, gauge, certificateEnds, nil},

	{"keelson_volume_role", "The role of this server: the one that applies is 1.", []string{"volume", "role"}, gauge, volumeRole, nil},
	{"keelson_volume_state", "The state here: the one that applies is 1.", []string{"volume", "state"}, gauge, volumeState, nil},
	{"keelson_volume_size_bytes", "Size.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return float64(v.SizeBytes) }), nil},
	{"keelson_volume_term", "The term known here; it grows by one with each switchover.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return float64(v.Term) }), nil},
	{"keelson_volume_position", "Number of the last write of the newest generation.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return float64(v.Position) }), nil},
	{"keelson_volume_in_sync_copies", "Copies in the in-sync set.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return float64(len(v.InSync)) }), nil},
	{"keelson_volume_safe_targets", "Servers that the volume can be switched over to now without force.", perVolume, gauge, volume(safeTargets), nil},
	{"keelson_volume_hot_extents", "Extents that are hot here: what would be unknown after a crash now.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return float64(v.HotExtents) }), nil},
	{"keelson_volume_unknown_bytes", "Content here whose version is unknown until a resync has compared it.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return float64(v.UnknownBytes) }), nil},
	{"keelson_volume_reads_total", "Reads of applications.", perVolume, counter, count("reads"), nil},
	{"keelson_volume_writes_total", "Writes, trims and write-zeroes: of applications at the source, of the stream at a target.", perVolume, counter, count("writes"), nil},
	{"keelson_volume_flushes_total", "Flushes of applications.", perVolume, counter, count("flushes"), nil},
	{"keelson_volume_read_bytes_total", "Bytes that applications read.", perVolume, counter, count("read_bytes"), nil},
	{"keelson_volume_write_bytes_total", "Bytes written, trimmed or zeroed.", perVolume, counter, count("write_bytes"), nil},
	{"keelson_volume_checkpoints_total", "Checkpoints of the intent log.", perVolume, counter, count("checkpoints"), nil},
	{"keelson_volume_hot_misses_total", "Writes that first had to make an extent hot.", perVolume, counter, count("hot_misses"), nil},
	{"keelson_volume_disk_errors_total", "Reads, writes and flushes that the disk of the copy here failed, or left hanging; the first one ends its use.", perVolume, counter, count("disk_errors"), nil},
	{"keelson_volume_switchovers_total", "How often this server became the source, as planned or by force, since its agent's start.", perVolume, counter, count("switchovers"), nil},
	{"keelson_volume_copies", "Copies that would hold a write now, at the source.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return float64(v.Copies) }), nil},
	{"keelson_volume_served_elsewhere", "1 if the disk of the source failed and the volume is served from a target.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return truth(v.ServedFrom != "") }), nil},
	{"keelson_volume_clients", "NBD clients that have the volume open at its source.", perVolume, gauge, volume(func(v *api.VolumeStatus) float64 { return float64(len(v.Clients)) }), nil},

	{"keelson_undo_state", "The undo log of the copy here: the state that applies is 1; none of them while no resync runs.", []string{"volume", "state"}, gauge, undoState, nil},
	{"keelson_undo_bytes", "What the undo log has on the disk.", perVolume, gauge, undo(func(u *api.UndoStatus) int64 { return u.Bytes }), nil},
	{"keelson_undo_limit_bytes", "What it may have.", perVolume, gauge, undo(func(u *api.UndoStatus) int64 { return u.BytesMax }), nil},
	{"keelson_salvages", "Salvages that are kept here.", perVolume, gauge, salvage(func(s *api.SalvageStatus) int64 { return int64(s.Count) }), nil},
	{"keelson_salvage_bytes", "What they have on the disk.", perVolume, gauge, salvage(func(s *api.SalvageStatus) int64 { return s.Bytes }), nil},
	{"keelson_salvage_room_bytes", "Room that is left for more; without any a resync that gives something up stops.", perVolume, gauge, salvage(func(s *api.SalvageStatus) int64 { return s.RoomBytes }), nil},

	{"keelson_mirror_state", "The state: the one that applies is 1.", []string{"volume", "source", "target", "state"}, gauge, mirrorState, nil},
	{"keelson_mirror_lag_bytes", "What the target lacks.", perMirror, gauge, mirror(func(m *api.MirrorStatus) float64 { return float64(m.LagBytes) }), nil},
	{"keelson_mirror_lag_seconds", "How old the oldest write is that the target lacks.", perMirror, gauge, mirror(func(m *api.MirrorStatus) float64 { return m.LagSeconds }), nil},
	{"keelson_mirror_promotable", "1 if the target can become source without loss of what was answered.", perMirror, gauge, mirror(func(m *api.MirrorStatus) float64 { return truth(m.Promotable) }), nil},
	{"keelson_mirror_wire_bytes", "Bytes sent in the session that runs: frames of every kind.", perMirror, gauge, mirror(func(m *api.MirrorStatus) float64 { return float64(m.BytesOnWire) }), nil},
	{"keelson_mirror_queued_bytes", "Frames that wait for the network now.", perMirror, gauge, mirror(func(m *api.MirrorStatus) float64 { return float64(m.QueuedBytes) }), nil},
	{"keelson_resync_running", "1 while a resync runs.", perMirror, gauge, resync(func(r *api.ResyncStatus) float64 { return truth(r.State == "running") }), nil},
	{"keelson_resync_planned_bytes", "What the newest resync compares or sends in all.", perMirror, gauge, resync(func(r *api.ResyncStatus) float64 { return float64(r.BytesTotal) }), nil},
	{"keelson_resync_sent_bytes", "What it sent as data.", perMirror, gauge, resync(func(r *api.ResyncStatus) float64 { return float64(r.BytesSent) }), nil},
	{"keelson_resync_skipped_bytes", "What it found equal or empty.", perMirror, gauge, resync(func(r *api.ResyncStatus) float64 { return float64(r.BytesSkipped) }), nil},
})

var (
	perVolume = []string{"volume"}
	perMirror = []string{"volume", "source", "target"}
)

func describe(rows []metric) []metric {
	for i := range rows {
		rows[i].desc = prometheus.NewDesc(rows[i].name, rows[i].help, rows[i].labels, nil)
	}
	return rows
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func agentInfo(w *world, emit func(float64, ...string)) { emit(1, w.Cluster, w.Node, w.Version) }

func nodesReachable(w *world, emit func(float64, ...string)) {
	for _, n := range w.Nodes {
		if n.Name != w.Node {
			emit(truth(n.Reachable), n.Name)
		}
	}
}

func eventsTold(w *world, emit func(float64, ...string)) {
	for level, n := range w.Source.Events() {
		emit(float64(n), level)
	}
}

func certificateEnds(w *world, emit func(float64, ...string)) {
	for name, end := range w.CertificateEnds() {
		emit(float64(end.Unix()), name)
	}
}

func volumeRole(w *world, emit func(float64, ...string)) {
	for i := range w.Volumes {
		for _, role := range volumeRoles {
			emit(truth(w.Volumes[i].Role == role), w.Volumes[i].Name, role)
		}
	}
}

func volumeState(w *world, emit func(float64, ...string)) {
	for i := range w.Volumes {
		for _, state := range volumeStates {
			emit(truth(w.Volumes[i].State == state), w.Volumes[i].Name, state)
		}
	}
}

func volume(value func(*api.VolumeStatus) float64) func(*world, func(float64, ...string)) {
	return func(w *world, emit func(float64, ...string)) {
		for i := range w.Volumes {
			emit(value(&w.Volumes[i]), w.Volumes[i].Name)
		}
	}
}

func count(name string) func(*world, func(float64, ...string)) {
	return volume(func(v *api.VolumeStatus) float64 { return float64(v.Counters[name]) })
}

func undoState(w *world, emit func(float64, ...string)) {
	for i := range w.Volumes {
		for _, state := range undoStates {
			if u := w.Volumes[i].Undo; u != nil {
				emit(truth(u.State == state), w.Volumes[i].Name, state)
			}
		}
	}
}

func undo(value func(*api.UndoStatus) int64) func(*world, func(float64, ...string)) {
	return func(w *world, emit func(float64, ...string)) {
		for i := range w.Volumes {
			if u := w.Volumes[i].Undo; u != nil {
				emit(float64(value(u)), w.Volumes[i].Name)
			}
		}
	}
}

func salvage(value func(*api.SalvageStatus) int64) func(*world, func(float64, ...string)) {
	return func(w *world, emit func(float64, ...string)) {
		for i := range w.Volumes {
			if s := w.Volumes[i].Salvage; s != nil {
				emit(float64(value(s)), w.Volumes[i].Name)
			}
		}
	}
}

func safeTargets(v *api.VolumeStatus) (n float64) {
	for _, c := range v.Switchover {
		n += truth(c.OK)
	}
	return n
}

func mirrorState(w *world, emit func(float64, ...string)) {
	eachMirror(w, func(v *api.VolumeStatus, m *api.MirrorStatus) {
		for _, state := range mirrorStates {
			emit(truth(m.State == state), v.Name, m.Source, m.Target, state)
		}
	})
}

func eachMirror(w *world, f func(*api.VolumeStatus, *api.MirrorStatus)) {
	for i := range w.Volumes {
		for j := range w.Volumes[i].Mirrors {
			f(&w.Volumes[i], &w.Volumes[i].Mirrors[j])
		}
	}
}

func mirror(value func(*api.MirrorStatus) float64) func(*world, func(float64, ...string)) {
	return func(w *world, emit func(float64, ...string)) {
		eachMirror(w, func(v *api.VolumeStatus, m *api.MirrorStatus) { emit(value(m), v.Name, m.Source, m.Target) })
	}
}

func resync(value func(*api.ResyncStatus) float64) func(*world, func(float64, ...string)) {
	return func(w *world, emit func(float64, ...string)) {
		eachMirror(w, func(v *api.VolumeStatus, m *api.MirrorStatus) {
			if m.Resync != nil {
				emit(value(m.Resync), v.Name, m.Source, m.Target)
			}
		})
	}
}
