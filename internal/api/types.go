// Package api is the one contract of the control interface: the calls, their parameters and results, as the command
// line, other agents and later the page use them. Field names of JSON are stable (they only grow).
package api

import "time"

// Status is what one agent knows.
type Status struct {
	Cluster string         `json:"cluster"`
	Node    string         `json:"node"`
	Version string         `json:"version"`
	Web     string         `json:"web"`
	Nodes   []NodeStatus   `json:"nodes"`
	Volumes []VolumeStatus `json:"volumes"`
}

// NodeStatus is one server as the agent asked sees it.
type NodeStatus struct {
	Name      string    `json:"name"`
	Address   string    `json:"address"`
	Reachable bool      `json:"reachable"`
	Heard     time.Time `json:"heard,omitzero"` // last answer
}

// VolumeStatus is one volume as the agent asked sees it.
type VolumeStatus struct {
	Name           string           `json:"name"`
	ID             string           `json:"id"`
	SizeBytes      int64            `json:"size_bytes"`
	RegionBytes    int64            `json:"region_bytes"`
	Role           string           `json:"role"` // of the agent asked: source | target | none
	State          string           `json:"state"`
	Reason         string           `json:"reason"`
	Rule           string           `json:"rule,omitempty"` // of Reason
	Source         string           `json:"source"`
	Term           uint64           `json:"term"`
	Generation     string           `json:"generation"`
	Position       uint64           `json:"position"`
	InSync         []string         `json:"in_sync"`
	Encryption     string           `json:"encryption"` // on | off
	Devices        []DeviceStatus   `json:"devices"`
	Clients        []ClientStatus   `json:"clients,omitempty"` // who uses the device at the source
	Mirrors        []MirrorStatus   `json:"mirrors"`
	Switchover     []Candidate      `json:"switchover"`
	Plan           *PlanStatus      `json:"plan,omitempty"` // a switchover under way
	Counters       map[string]int64 `json:"counters,omitempty"`
	HotExtents     int              `json:"hot_extents"`
	UnknownBytes   int64            `json:"unknown_bytes"`
	ServedFrom     string           `json:"served_from,omitempty"`     // the target whose copy a source with a failed disk serves from
	MinCopies      int              `json:"min_copies,omitempty"`      // that have to hold a write before it is answered
	Copies         int              `json:"copies,omitempty"`          // that would hold one now, as the source knows
	Views          []View           `json:"views,omitempty"`           // attached at the agent asked
	Attach         *AttachStatus    `json:"attach,omitempty"`          // of the agent asked; none if it has no copy or nothing is wished
	ServiceAddress *ServiceAddress  `json:"service_address,omitempty"` // of the agent asked; none if its configuration names none
	HoldOldCopies  bool             `json:"hold_old_copies,omitempty"` // a take-over by force keeps the other copies as they were until it is accepted
	Held           []string         `json:"held,omitempty"`            // the servers whose copies are kept so now
	Undo           *UndoStatus      `json:"undo,omitempty"`            // of the agent asked
	Salvage        *SalvageStatus   `json:"salvage,omitempty"`
}

// UndoStatus is how this copy could be brought back to what it was before the resync that runs.
type UndoStatus struct {
	State    string `json:"state"`  // "" (no resync runs) | rolling (it can) | given-up | rolling-back | none (it never held anything)
	Reason   string `json:"reason"` // of given-up, or why the last resync stopped
	Bytes    int64  `json:"bytes"`  // on the disk
	BytesMax int64  `json:"bytes_max"`
	Regions  int64  `json:"regions"` // saved in it
}

// SalvageStatus is what this server keeps of what had to be given up.
type SalvageStatus struct {
	Count     int   `json:"count"`
	Bytes     int64 `json:"bytes"` // on the disk
	BytesMax  int64 `json:"bytes_max"`
	RoomBytes int64 `json:"room_bytes"`
	RoomLow   bool  `json:"room_low"`
}

// DeviceStatus is one way to use the volume here.
type DeviceStatus struct {
	Kind    string `json:"kind"` // nbd | loop | ...
	Address string `json:"address"`
	Path    string `json:"path,omitempty"` // stable name of a device of the kernel, such as /dev/keelson/data
}

// ClientStatus is one that has the device open.
type ClientStatus struct {
	Remote string    `json:"remote"` // its address, or the process at the other end of a unix socket
	Since  time.Time `json:"since"`
}

// MirrorStatus is one mirror.
type MirrorStatus struct {
	Source         string        `json:"source"`
	Target         string        `json:"target"`
	Mode           string        `json:"mode"`
	State          string        `json:"state"` // SplitBrain | Failed | Broken | Paused | Resync | ResyncPending | Mirroring
	Reason         string        `json:"reason"`
	Rule           string        `json:"rule,omitempty"` // of Reason
	Position       uint64        `json:"position"`
	LagBytes       int64         `json:"lag_bytes"`
	LagSeconds     float64       `json:"lag_seconds"`
	Promotable     bool          `json:"promotable"`               // the target can become source; by force, and with what that loses, if the state is not Mirroring
	NotPromotable  string        `json:"not_promotable,omitempty"` // why not
	AsOf           time.Time     `json:"as_of"`
	BytesOnWire    int64         `json:"bytes_on_wire"` // of this session, source to target, all frames
	QueuedBytes    int64         `json:"queued_bytes"`  // frames that wait for the socket now
	QueueBytes     int64         `json:"queue_bytes"`   // limit; 0: the default
	RateBytes      int64         `json:"rate_bytes"`
	ResyncRate     int64         `json:"resync_rate_bytes"`
	Resync         *ResyncStatus `json:"resync"`
	SessionStarted time.Time     `json:"session_started,omitzero"`
}

// ResyncStatus is one resync, running or finished.
type ResyncStatus struct {
	Kind         string     `json:"kind"` // none | partial | compare | full
	Rule         string     `json:"rule"`
	State        string     `json:"state"` // running | finished | interrupted
	BytesTotal   int64      `json:"bytes_total"`
	BytesSent    int64      `json:"bytes_sent"`
	BytesSkipped int64      `json:"bytes_skipped"`
	BytesPerSec  int64      `json:"bytes_per_second"`
	SecondsLeft  *float64   `json:"seconds_left"` // honest estimate; null if none can be given
	Started      time.Time  `json:"started"`
	Finished     *time.Time `json:"finished"`
}

// Candidate says whether the volume can be switched over to that server now without force.
type Candidate struct {
	To     string `json:"to"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`
	Rule   string `json:"rule,omitempty"`
}

// PlanStatus is a switchover under way.
type PlanStatus struct {
	ID      string    `json:"id"`
	To      string    `json:"to"`
	Step    string    `json:"step"`
	Waits   string    `json:"waits_for"`
	Started time.Time `json:"started"`
}

// CreateVolume asks for a new volume.
type CreateVolume struct {
	Name      string   `json:"name"`
	Source    Place    `json:"source"`
	Targets   []Place  `json:"targets"`
	Mode      string   `json:"mode"`                 // sync | async; "" is sync
	SizeBytes int64    `json:"size_bytes"`           // 0: that of the source's existing path
	MinCopies int      `json:"min_copies,omitempty"` // 0: 1
	Options   struct{} `json:"-"`
}

// Place is a path on a server: NODE:PATH on the command line.
type Place struct {
	Node string `json:"node"`
	Path string `json:"path"`
}

// VolumeChange changes settings of a volume; nil stays as it is.
type VolumeChange struct {
	Name          string `json:"name"`
	MinCopies     *int   `json:"min_copies,omitempty"`
	HoldOldCopies *bool  `json:"hold_old_copies,omitempty"` // after a take-over by force the other copies stay as they were until Accept
	Accept        bool   `json:"accept,omitempty"`          // the new source is good: copies that are held are brought up to date
}

// VolumeName names a volume.
type VolumeName struct {
	Name string `json:"name"`
}

// DeleteVolume ends the replication of a volume; the copies on the servers' disks stay as they are.
type DeleteVolume struct {
	Name string `json:"name"`
}

// MirrorChange is add, set, pause, continue, break, resync or remove.
type MirrorChange struct {
	Volume     string  `json:"volume"`
	Action     string  `json:"action"`
	Target     string  `json:"target"`
	Path       string  `json:"path,omitempty"`        // add
	Mode       *string `json:"mode,omitempty"`        // add, set
	QueueBytes *int64  `json:"queue_bytes,omitempty"` // set
	RateBytes  *int64  `json:"rate_bytes,omitempty"`
	ResyncRate *int64  `json:"resync_rate_bytes,omitempty"`
}

// Switchover asks for another source.
type Switchover struct {
	Volume    string `json:"volume"`
	To        string `json:"to"`
	Plan      bool   `json:"plan"` // only show the steps and what is at risk
	Wait      bool   `json:"wait"` // until every connected mirror is Mirroring again
	Force     bool   `json:"force"`
	NoCatchUp bool   `json:"no_catch_up"`
	NoFence   bool   `json:"no_fence,omitempty"` // with Force: the hook fence is not run
	Unmount   bool   `json:"unmount,omitempty"`  // what is mounted from the source's block device is unmounted first
	Freeze    bool   `json:"freeze,omitempty"`   // ... holds still, whole, and is unmounted when the device is gone
}

// SwitchoverResult is a plan, or what became of it.
type SwitchoverResult struct {
	Volume string           `json:"volume"`
	From   string           `json:"from"`
	To     string           `json:"to"`
	Plan   string           `json:"plan"` // its id; "" if only shown
	Done   bool             `json:"done"`
	Steps  []SwitchoverStep `json:"steps"`
	Risks  []string         `json:"risks"`
	Risk   *SwitchoverRisk  `json:"risk,omitempty"` // of a forced take-over
	Millis int64            `json:"millis"`         // how long writes were held
}

// SwitchoverRisk is what is known of a forced take-over before anybody is asked to promise anything. Risks says it in words.
type SwitchoverRisk struct {
	AtRisk        bool       `json:"at_risk"` // something answered may be lost; false: nothing is, if the source stopped when it was lost
	Position      uint64     `json:"position"`
	Generation    string     `json:"generation"`
	InSync        bool       `json:"in_sync"`            // a member of the in-sync set that it knows
	InStep        bool       `json:"in_step"`            // it was in step with the source when that was lost
	Consistent    string     `json:"consistent"`         // yes | rolling: goes back to Position | no: cannot become source
	SourceHeard   *time.Time `json:"source_heard"`       // null: not since this server started
	SilentSeconds *float64   `json:"silent_seconds"`     // since then
	Mode          string     `json:"mode"`               // sync | async
	LagBytes      *int64     `json:"lag_bytes"`          // async: what was on its way when the source was last heard; null: not known
	LagSeconds    *float64   `json:"lag_seconds"`        //
	CatchUp       string     `json:"catch_up,omitempty"` // the server that becomes source first, since it may hold more
	Others        []Survivor `json:"others"`             // what other members last said of their copies
}

// Survivor is what a member last said of its copy.
type Survivor struct {
	Node       string `json:"node"`
	Reachable  bool   `json:"reachable"`
	Position   uint64 `json:"position"`
	Generation string `json:"generation"`
	InSync     bool   `json:"in_sync"`
	Usable     bool   `json:"usable"` // not in the middle of a resync that cannot be undone
	Ahead      bool   `json:"ahead"`  // it may hold answered writes that the server asked for lacks
}

// SwitchoverStep is one step of the plan.
type SwitchoverStep struct {
	Name  string `json:"name"`
	Text  string `json:"text"`
	State string `json:"state"` // planned | running | done | failed
}

// Event is one thing that happened.
type Event struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Node    string    `json:"node"`
	Level   string    `json:"level"` // info | warning | error
	Volume  string    `json:"volume,omitempty"`
	Object  string    `json:"object"` // "mirror a->b", "volume data", ...
	Rule    string    `json:"rule,omitempty"`
	Message string    `json:"message"`
	Next    string    `json:"next,omitempty"` // what to do
}

// EventsQuery asks for events.
type EventsQuery struct {
	Volume string    `json:"volume,omitempty"`
	Level  string    `json:"level,omitempty"` // only this level and graver ones
	Rule   string    `json:"rule,omitempty"`
	Since  time.Time `json:"since,omitzero"` // only those of this time and later
	After  uint64    `json:"after"`          // only those with a greater Seq
	Limit  int       `json:"limit"`          // newest ones; 0: all kept
	Follow bool      `json:"follow"`
	All    bool      `json:"all,omitempty"` // of every server that can be reached, by time; not with Follow or After
}
