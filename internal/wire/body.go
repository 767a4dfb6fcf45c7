package wire

import (
	"encoding/json"
	"fmt"

	"keelson/internal/lineage"
)

// Encryption of the stream, as a hello says it.
const (
	EncryptionOn  = "on"  // TLS 1.3 (the default)
	EncryptionOff = "off" // plain TCP after the hellos, which are inside TLS; only if both sides say so
)

// Hello is the source's first frame: who it is, of which volume, and what it has.
type Hello struct {
	Protocol        int              `json:"protocol"` // Version
	Cluster         string           `json:"cluster"`
	Volume          string           `json:"volume"` // its id
	Name            string           `json:"name"`   // what people call it
	Node            string           `json:"node"`   // the sender; its certificate's too
	Incarnation     string           `json:"incarnation"`
	Session         string           `json:"session"`
	Encryption      string           `json:"encryption"` // "on" or "off"
	Term            lineage.Term     `json:"term"`
	History         lineage.History  `json:"history"`
	Position        lineage.Position `json:"position"`
	Tenure          lineage.GenID    `json:"tenure,omitzero"` // the generation that the source is in, zero: it has not begun one since it became source or was started
	Record          lineage.Record   `json:"record"`
	SettingsVersion lineage.Epoch    `json:"settings_version"`
	SizeBytes       int64            `json:"size_bytes"`
	RegionBytes     int64            `json:"region_bytes"`
	Mode            string           `json:"mode"`
}

// HelloReply is the target's answer when it takes the session.
type HelloReply struct {
	Node        string           `json:"node"`
	Incarnation string           `json:"incarnation"`
	Encryption  string           `json:"encryption"` // "on" or "off"; off only if the hello said off too
	Promised    lineage.Term     `json:"promised"`
	History     lineage.History  `json:"history"`
	Position    lineage.Position `json:"position"`
	Floor       lineage.Position `json:"floor"`
	Consistent  string           `json:"consistent"` // "yes" | "rolling" | "no"
	Record      lineage.Record   `json:"record"`
	Pages       int64            `json:"pages"` // of its map
}

// Refusal says why a session is not taken, or is ended.
type Refusal struct {
	Rule    string `json:"rule"`
	Message string `json:"message"`
	Next    string `json:"next,omitempty"`
}

// Begin says which resync follows.
type Begin struct {
	Kind    string `json:"kind"` // none | partial | compare | full
	Rule    string `json:"rule"`
	Regions int64  `json:"regions"`
	Bytes   int64  `json:"bytes"`
}

// End is what the target adopts when it has applied everything before it.
type End struct {
	History  lineage.History  `json:"history"`
	Position lineage.Position `json:"position"`
	Record   lineage.Record   `json:"record"`
	Settings lineage.Settings `json:"settings"`
}

// Bye is the last frame of a session that is ended on purpose.
type Bye struct {
	Reason string `json:"reason"`
}

// Marshal is the JSON body of a frame of type t; an *Error if it is longer than JSONMax.
func Marshal(t Type, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, &Error{Rule: RuleJSON, Type: t, Detail: err.Error()}
	}
	if len(text) > JSONMax {
		return nil, &Error{Rule: RuleBodyLimit, Type: t, Detail: fmt.Sprintf("JSON of %d bytes is longer than %d", len(text), JSONMax)}
	}
	return text, nil
}

// Unmarshal reads the JSON body of a frame of type t. Fields that this release does not know are left alone: what a
// receiver has to understand comes with a new protocol version. Errors are *Error.
func Unmarshal(t Type, body []byte, into any) error {
	if len(body) > JSONMax {
		return &Error{Rule: RuleBodyLimit, Type: t, Detail: fmt.Sprintf("JSON of %d bytes is longer than %d", len(body), JSONMax)}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &Error{Rule: RuleJSON, Type: t, Detail: err.Error()}
	}
	return nil
}

// CheckProtocol returns nil if this release can talk to a peer of that protocol version.
func CheckProtocol(version int) error {
	switch {
	case version == Version:
		return nil
	case version > Version:
		return &Error{Rule: RuleProtocol, Type: TypeHello, Detail: fmt.Sprintf("the peer speaks protocol %d, this release %d: this server is older", version, Version)}
	default:
		return &Error{Rule: RuleProtocol, Type: TypeHello, Detail: fmt.Sprintf("the peer speaks protocol %d, this release %d: the peer is older", version, Version)}
	}
}
