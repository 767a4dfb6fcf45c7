package api

import (
	"slices"
	"strings"
)

// DeviceChange attaches a block device of the kernel to a volume, or detaches it. What is wished is each server's own and
// remembered: wherever the volume is source and attached, the device is there.
type DeviceChange struct {
	Volume string   `json:"volume"`
	Action string   `json:"action"` // attach | detach
	Kind   string   `json:"kind"`   // attach: auto | loop | nbd; "" is auto
	Nodes  []string `json:"nodes"`  // servers; none: every member
}

// DeviceActions and DeviceKinds are the values of DeviceChange.
var (
	DeviceActions = []string{"attach", "detach"}
	DeviceKinds   = []string{"auto", "loop", "nbd"}
)

// DeviceResult is what became of it.
type DeviceResult struct {
	Volume  string       `json:"volume"`
	Node    string       `json:"node"`            // the source, where the device is or was; "" if none of the servers is
	Kind    string       `json:"kind"`            // of the device; "" if there is none
	Address string       `json:"address"`         // the device itself, such as /dev/loop0
	Path    string       `json:"path"`            // its stable name, such as /dev/keelson/data
	Nodes   []string     `json:"nodes"`           // servers that remember the wish
	Missed  []string     `json:"missed"`          // servers that could not be told
	Mount   *MountStatus `json:"mount,omitempty"` // where its file system is mounted, if the server's configuration says so
}

// AttachStatus is what this server wishes and has of a block device of the kernel.
type AttachStatus struct {
	Wish   string       `json:"wish"`  // auto | loop | nbd
	State  string       `json:"state"` // waiting | attached | failed | detached
	Reason string       `json:"reason"`
	Mount  *MountStatus `json:"mount,omitempty"` // none if the server's configuration names no folder
}

// MountStatus is what became of the mount that the server's configuration asks for.
type MountStatus struct {
	Point  string `json:"point"`  // the folder
	State  string `json:"state"`  // waiting (for the device) | mounting | mounted | unmounted | failed
	Reason string `json:"reason"` // failed: why
	Next   string `json:"next"`   // failed, unmounted: what to do
}

// Check finds what is wrong in the request without knowing anything else.
func (r DeviceChange) Check() error {
	switch {
	case !slices.Contains(DeviceActions, r.Action):
		return Errorf(Usage, "volume "+r.Volume, "action %q is none of %s", r.Action, strings.Join(DeviceActions, ", "))
	case r.Action == "detach" && r.Kind != "":
		return Errorf(Usage, "volume "+r.Volume, "only attach takes a kind of device")
	case r.Kind != "" && !slices.Contains(DeviceKinds, r.Kind):
		return Errorf(Usage, "volume "+r.Volume, "kind %q is none of %s", r.Kind, strings.Join(DeviceKinds, ", "))
	}
	return checkVolume(r.Volume)
}

// Wish is the wish that the request has for its servers.
func (r DeviceChange) Wish() string {
	switch {
	case r.Action == "detach":
		return ""
	case r.Kind == "":
		return "auto"
	}
	return r.Kind
}

// About names what is changed.
func (r DeviceChange) About() string { return "volume " + r.Volume }

// ServiceAddress is the address that the source has on one of its interfaces, as this server has it.
type ServiceAddress struct {
	Address   string `json:"address"` // 192.0.2.10/24
	Interface string `json:"interface"`
	State     string `json:"state"` // absent | set | failed
	Reason    string `json:"reason"`
}
