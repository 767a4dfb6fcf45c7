package config

import (
	"path/filepath"
	"time"
)

// Agent is the configuration of one server's agent. After Load every path is absolute and every limit is set.
type Agent struct {
	Node           string   `toml:"node"`            // this server's name, as in its certificate
	Cluster        string   `toml:"cluster"`         // the cluster's id, as in its certificates
	State          string   `toml:"state"`           // directory of intent logs, settings and agent.pid
	Encryption     string   `toml:"encryption"`      // On | Off
	LowLatency     string   `toml:"low-latency"`     // On | Off: processors are kept from sleep while mirrored writes are under way
	FlightRecorder string   `toml:"flight-recorder"` // On | Off: the last seconds of the agent's work are kept in memory
	Listen         Listen   `toml:"listen"`
	API            API      `toml:"api"`
	NBD            NBD      `toml:"nbd"`
	Web            Web      `toml:"web"`
	Metrics        Metrics  `toml:"metrics"`
	Notify         Notify   `toml:"notify"`
	Hooks          Hooks    `toml:"hooks"`
	Device         Device   `toml:"device"`
	TLS            TLS      `toml:"tls"`
	Peers          []Peer   `toml:"peer"`
	Volumes        []Volume `toml:"volume"` // those with which this server does more than serve them
	Limits         Limits   `toml:"limits"`
	Log            Log      `toml:"log"`
}

// Values of Encryption, LowLatency and FlightRecorder.
const (
	On  = "on"
	Off = "off"
)

// Encrypted reports whether the streams are to be encrypted. Peers prove who they are in either case.
func (a *Agent) Encrypted() bool { return a.Encryption != Off }

// Listen says where peers reach this agent: streams and control, always TLS with certificates of the cluster.
type Listen struct {
	Address   string `toml:"address"`   // HOST:PORT
	Advertise string `toml:"advertise"` // HOST:PORT by which the others reach it; "": Address
}

// Reached is the address by which other servers reach this one.
func (a *Agent) Reached() string {
	if a.Listen.Advertise != "" {
		return a.Listen.Advertise
	}
	return a.Listen.Address
}

// API is the control interface for the command line of this server.
type API struct {
	Socket string `toml:"socket"` // unix socket, for root and the group
	Group  string `toml:"group"`  // of those who may use it besides root, if the machine has it; "": nobody
}

// NBD says where applications of this server reach the volumes whose source it is.
type NBD struct {
	Socket  string `toml:"socket"`  // unix socket, mode 0600
	Address string `toml:"address"` // HOST:PORT of a TCP server besides; "": none
	TLS     bool   `toml:"tls"`     // the TCP server demands TLS with a certificate of the cluster
}

// Web is the page for administrators' browsers, always over TLS.
type Web struct {
	Address string `toml:"address"`  // HOST:PORT; "": no page
	Cert    string `toml:"web-cert"` // PEM file of a certificate that browsers trust; "": this server's own
	Key     string `toml:"web-key"`
}

// Metrics says where Prometheus finds this agent's metrics, besides the local socket.
type Metrics struct {
	Address string `toml:"address"` // HOST:PORT, plain HTTP; "": none
}

// Notify says who is told of events.
type Notify struct {
	Command string `toml:"command"` // path of an executable; "": none
	Webhook string `toml:"webhook"` // URL; "": none
	Level   string `toml:"level"`   // the least grave level that is told
}

// Hooks are an administrator's programs that are run at named moments (package hook).
type Hooks struct {
	Directory string   `toml:"directory"` // of the programs, each named as its moment; "": none
	Limit     Duration `toml:"limit"`     // of each
}

// Device says how the kernel of this server gets a block device of a volume (keelson volume attach).
type Device struct {
	Attach     string `toml:"attach"`      // AttachAuto | AttachLoop | AttachNBD: where a volume does not say otherwise
	Directory  string `toml:"directory"`   // of the stable names: DIRECTORY/VOLUME
	BlockSize  int    `toml:"block-size"`  // logical block size: 512 or 4096
	LockMemory bool   `toml:"lock-memory"` // the agent's memory is never paged out
	// Requests of a kernel NBD device wait so long for the agent's restart.
	RestartWait Duration `toml:"restart-wait"`
}

// Values of Device.Attach.
const (
	AttachAuto = "auto"
	AttachLoop = "loop"
	AttachNBD  = "nbd"
)

// LoopMount is the folder in which the file below a volume's loop device is shown. It follows from the agent's socket, so
// that whoever knows that can end a device without the agent.
func LoopMount(socket, volume string) string {
	return filepath.Join(filepath.Dir(socket), "loop", volume)
}

// TLS are the PEM files of this server.
type TLS struct {
	CA   string `toml:"ca"`
	Cert string `toml:"cert"`
	Key  string `toml:"key"`
	// CAKey is the key of the cluster's CA, with which this server renews its certificate and invites others. It may be
	// missing: then a member that has it is asked for it, if this server was invited. "": beside CA.
	CAKey    string   `toml:"ca-key"`
	Lifetime Duration `toml:"lifetime"` // of certificates that this server makes; they are renewed when a third is left
}

// CAKeyFile is where the key of the cluster's CA is, or will be.
func (t TLS) CAKeyFile() string {
	if t.CAKey != "" {
		return t.CAKey
	}
	return filepath.Join(filepath.Dir(t.CA), "ca.key")
}

// Peer is another server of the cluster.
type Peer struct {
	Name    string `toml:"name"`
	Address string `toml:"address"` // HOST:PORT of its Listen.Address
}

// Volume is what this server does with one volume whenever it is its source.
type Volume struct {
	Name         string `toml:"name"`
	Mount        string `toml:"mount"`         // folder in which the file system on the block device is mounted; "": it is not
	MountOptions string `toml:"mount-options"` // as mount -o takes them
	// ServiceAddress, such as 192.0.2.10/24, is an address of ServiceInterface while this server is source; "": none.
	ServiceAddress   string `toml:"service-address"`
	ServiceInterface string `toml:"service-interface"`
	ServiceName      string `toml:"service-name"` // DNS name by which clients dial wherever the source is; "": none
}

// Volume is what is said of that volume; nothing, if nothing is.
func (a *Agent) Volume(name string) Volume {
	for _, v := range a.Volumes {
		if v.Name == name {
			return v
		}
	}
	return Volume{Name: name}
}

// Log says how much the agent writes to its standard error.
type Log struct {
	Level  string `toml:"level"`  // debug | info | warn | error
	Format string `toml:"format"` // text | json
}

// Limits bound every wait, queue and buffer of the agent.
type Limits struct {
	DiskStall       Duration `toml:"disk-stall"`          // what a disk has not finished for this long is reported
	CopiesWait      Duration `toml:"copies-wait"`         // how long a write waits for as many copies as min-copies says
	SyncTimeout     Duration `toml:"sync-timeout"`        // a sync target that acknowledges nothing for this long is dropped
	HoldMax         Duration `toml:"hold-max"`            // a planned switchover holds writes at most this long
	JoinWait        Duration `toml:"join-wait"`           // a new source waits for each member before it records it as lost
	BootWait        Duration `toml:"boot-wait"`           // a starting source waits for its peers before it says that it stays closed
	Heartbeat       Duration `toml:"heartbeat"`           // a quiet stream carries a ping this often
	DeadAfter       Duration `toml:"dead-after"`          // a stream that carries nothing for this long is ended
	HandshakeMax    Duration `toml:"handshake-max"`       // TLS and hello of a connection together
	RetryMin        Duration `toml:"retry-min"`           // first pause before a target is dialed again
	RetryMax        Duration `toml:"retry-max"`           // the pause doubles up to this
	CheckpointEvery Duration `toml:"checkpoint-interval"` // pause between two checkpoints of a volume that is written to

	QueueBytes    Size `toml:"queue-bytes"`     // frames waiting for the socket of one mirror
	InFlightBytes Size `toml:"in-flight-bytes"` // payload of applications' requests not yet answered, one volume
	ResyncBytes   Size `toml:"resync-bytes"`    // resync data on its way in one mirror
	UndoBytes     Size `toml:"undo-bytes"`      // on disk, undo log of one volume; 0: a quarter of the volume, 256 MiB to 16 GiB
	SalvageBytes  Size `toml:"salvage-bytes"`   // on disk, all salvages of one volume; 0: the same

	SalvageRetention Duration `toml:"salvage-retention"` // after which a salvage is deleted; 0: never

	HotExtentsMax  int `toml:"hot-extents-max"` // extents of one volume that are hot at once
	RequestsMax    int `toml:"requests-max"`    // requests of one NBD connection not yet answered
	ConnectionsMax int `toml:"connections-max"` // NBD connections of the agent
	HandshakesMax  int `toml:"handshakes-max"`  // connections of peers that have not yet said hello
	EventsMax      int `toml:"events-max"`      // events kept; the oldest are forgotten
	VolumesMax     int `toml:"volumes-max"`     // volumes of this agent
	ViewsMax       int `toml:"views-max"`       // read-only views of copies and salvages that are attached at once
}

// Default is the configuration of an empty file.
func Default() *Agent {
	return &Agent{
		State:          "/var/lib/keelson",
		Encryption:     On,
		LowLatency:     On,
		FlightRecorder: Off,
		Listen:         Listen{Address: "0.0.0.0:7401"},
		API:            API{Socket: "/run/keelson/agent.sock", Group: "keelson"},
		NBD:            NBD{Socket: "/run/keelson/nbd.sock"},
		Notify:         Notify{Level: "warning"},
		Hooks:          Hooks{Limit: Duration(time.Minute)},
		Device:         Device{Attach: AttachAuto, Directory: "/dev/keelson", BlockSize: 512, RestartWait: Duration(60 * time.Second)},
		TLS:            TLS{CA: "/etc/keelson/ca.crt", Cert: "/etc/keelson/node.crt", Key: "/etc/keelson/node.key", Lifetime: Duration(90 * 24 * time.Hour)},
		Limits:         DefaultLimits(),
		Log:            Log{Level: "info", Format: "text"},
	}
}

// DefaultLimits are the limits of an empty file.
func DefaultLimits() Limits {
	return Limits{
		DiskStall:       Duration(30 * time.Second),
		CopiesWait:      Duration(30 * time.Second),
		SyncTimeout:     Duration(10 * time.Second),
		HoldMax:         Duration(10 * time.Second),
		JoinWait:        Duration(5 * time.Second),
		BootWait:        Duration(30 * time.Second),
		Heartbeat:       Duration(time.Second),
		DeadAfter:       Duration(5 * time.Second),
		HandshakeMax:    Duration(5 * time.Second),
		RetryMin:        Duration(100 * time.Millisecond),
		RetryMax:        Duration(5 * time.Second),
		CheckpointEvery: Duration(10 * time.Second),
		QueueBytes:      64 << 20,
		InFlightBytes:   256 << 20,
		ResyncBytes:     16 << 20,
		HotExtentsMax:   4096,
		RequestsMax:     256,
		ConnectionsMax:  64,
		HandshakesMax:   64,
		EventsMax:       4096,
		VolumesMax:      256,
		ViewsMax:        16,

		SalvageRetention: Duration(30 * 24 * time.Hour),
	}
}
