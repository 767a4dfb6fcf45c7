package api

import (
	"context"
	"time"
)

// ViewChange attaches or detaches a read-only view: an NBD export on the server that has what is looked at.
type ViewChange struct {
	Volume  string `json:"volume"`
	Node    string `json:"node"`              // "": the agent asked
	Action  string `json:"action"`            // attach | detach
	Salvage string `json:"salvage,omitempty"` // its id; "": that server's copy of the volume
	Over    bool   `json:"over,omitempty"`    // the salvage over that server's copy, instead of over holes
}

// View is one that is attached.
type View struct {
	Name      string    `json:"name"` // of the export
	Volume    string    `json:"volume"`
	Node      string    `json:"node"`
	Kind      string    `json:"kind"` // copy | salvage
	Salvage   string    `json:"salvage,omitempty"`
	Over      bool      `json:"over,omitempty"`
	Since     time.Time `json:"since"`
	SizeBytes int64     `json:"size_bytes"`
	Addresses []string  `json:"addresses"` // on that server
	Clients   int       `json:"clients"`
}

// ViewName is the name of a view's export. No volume has such a name.
func ViewName(volume, salvage string, over bool) string {
	switch {
	case salvage == "":
		return volume + "@copy"
	case over:
		return volume + "@" + salvage + "+copy"
	}
	return volume + "@" + salvage
}

// Check finds what is wrong in the request without knowing anything else.
func (r ViewChange) Check() error {
	switch {
	case r.Action != "attach" && r.Action != "detach":
		return Errorf(Usage, "volume "+r.Volume, "action %q is neither attach nor detach", r.Action)
	case r.Over && r.Salvage == "":
		return Errorf(Usage, "volume "+r.Volume, "only a salvage is shown over a copy")
	case len(r.Salvage) > 64:
		return Errorf(Usage, "volume "+r.Volume, "the id of a salvage has at most 64 characters")
	}
	return checkVolume(r.Volume)
}

// ChangeView implements Service.
func (c *Client) ChangeView(ctx context.Context, r ViewChange) (*View, error) {
	return call[View](ctx, c, "ChangeView", r)
}
