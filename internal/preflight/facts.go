package preflight

import "time"

// Server is what one agent found out about its server, for whoever asked it. Agents send it to each other: fields only grow.
type Server struct {
	Node     string `json:"node"`
	Version  string `json:"version"`
	Protocol int    `json:"protocol"` // of streams

	State    Folder `json:"state"`     // the state directory
	Disks    []Disk `json:"disks"`     // that hold copies, or were asked about
	Files    Limit  `json:"files"`     // open files
	Awake    string `json:"awake"`     // why processors cannot be kept awake; "": they can
	AwakeOff bool   `json:"awake_off"` // it is not wished (low-latency = "off")
	Loop     string `json:"loop"`      // why there can be no loop device; "": there can
	NBD      string `json:"nbd"`       // why there can be no device of the kernel's NBD client

	CertEnds time.Time `json:"certificate_ends"`
	CAEnds   time.Time `json:"ca_ends"`
	CAKey    bool      `json:"ca_key"` // it can renew and invite

	Services []Service `json:"services,omitempty"` // of the volumes in Disks

	Reach []Reach `json:"reach"` // other servers
}

// Service is an address or a name by which clients look for a volume wherever its source is.
type Service struct {
	Volume  string `json:"volume"`
	Name    string `json:"name"`            // IP address or DNS name
	AltName string `json:"alt_name"`        // as a certificate is asked for that is good for it
	TLS     bool   `json:"tls"`             // NBD over TCP is for clients with certificates
	Err     string `json:"error,omitempty"` // why these are not shown a certificate that is good for the name
}

// Folder is a directory with what was measured of the file system below it.
type Folder struct {
	Path      string `json:"path"`
	FreeBytes int64  `json:"free_bytes"`
	WantBytes int64  `json:"want_bytes"` // that undo logs and salvages may grow to, besides what they have
	Sync      Timing `json:"sync"`       // of a small write and its fdatasync
	Err       string `json:"error,omitempty"`
}

// Timing is how long something took that was done several times.
type Timing struct {
	Times  int     `json:"times"`
	Median float64 `json:"median_seconds"`
	Worst  float64 `json:"worst_seconds"`
	Err    string  `json:"error,omitempty"`
}

// Limit is one of the system for this process.
type Limit struct {
	Have uint64 `json:"have"`
	Want uint64 `json:"want"` // what the agent may need by its configuration
}

// Kinds of what is at a path.
const (
	KindFile   = "file"
	KindDevice = "device"
	KindNone   = "none" // nothing
	KindOther  = "other"
)

// Disk is a file or block device that holds a copy, or is meant to.
type Disk struct {
	Volume     string   `json:"volume,omitempty"` // whose copy it is; "": it is only asked about
	Path       string   `json:"path"`
	Kind       string   `json:"kind"`
	SizeBytes  int64    `json:"size_bytes"`
	BlockBytes int64    `json:"block_bytes"` // logical block size of a device
	RoomBytes  int64    `json:"room_bytes"`  // on the file system where the file is, or would be made
	Holders    []string `json:"holders,omitempty"`
	InUse      string   `json:"in_use,omitempty"` // why it cannot be opened for this agent alone
	Flush      Timing   `json:"flush"`            // of its cache, without a write
	StateOnIt  bool     `json:"state_on_it"`      // the state directory is on a file system that is on it, or on the volume
	Err        string   `json:"error,omitempty"`
}

// Reach is another server as this one reaches it.
type Reach struct {
	Node     string  `json:"node"`
	Address  string  `json:"address"`
	Err      string  `json:"error,omitempty"`
	Version  string  `json:"version,omitempty"`
	Protocol int     `json:"protocol,omitempty"`
	Trip     float64 `json:"round_trip_seconds"` // the shortest of several
	Offset   float64 `json:"offset_seconds"`     // of its clock to this one's; it is off by half of Trip at most
	Bytes    int64   `json:"bytes"`              // sent to measure the bandwidth; 0: it was not measured
	Seconds  float64 `json:"seconds"`            // until they had arrived
	LoadErr  string  `json:"load_error,omitempty"`
}

// Wanted is what is asked about, besides the servers themselves.
type Wanted struct {
	Volume    string            // a volume that there is, or is to be; "": none
	Paths     map[string]string // by server: where its copy is or would be
	Planned   map[string]bool   // by server: the copy is not there yet
	Source    string            // of an existing volume, or planned; "": none
	SizeBytes int64             // of the volume; 0: that of the source's path
}
