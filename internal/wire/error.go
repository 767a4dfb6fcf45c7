package wire

import "fmt"

// Rules that frames break, as Error.Rule names them. What breaks one ends the session: after it the stream is not to be trusted.
const (
	RuleShort     = "wire-short"      // fewer bytes than the frame needs
	RuleHeaderCRC = "wire-header-crc" // the header is not what was sent, or this is no frame
	RuleBodyCRC   = "wire-body-crc"   // the body is not what was sent
	RuleType      = "wire-type"       // a type that this release does not know
	RuleFlags     = "wire-flags"      // a flag that the type does not have
	RuleBodyLimit = "wire-body-limit" // longer than the type allows
	RuleBodyShape = "wire-body-shape" // not of the type's form
	RuleNumber    = "wire-number"     // above lineage.NumberMax
	RuleRange     = "wire-range"      // offset and length
	RuleJSON      = "wire-json"       // a body that is not the JSON it should be
	RuleProtocol  = "wire-protocol"   // another version of the protocol
	RuleHello     = "wire-hello"      // a hello that lacks something
	RuleOrder     = "wire-order"      // a type that may not come now
)

// next is what to do about each rule.
var next = map[string]string{
	RuleHeaderCRC: "look at the network and the memory of both servers; the session is begun anew",
	RuleBodyCRC:   "look at the network and the memory of both servers; the session is begun anew",
	RuleType:      "run the same release on both servers",
	RuleFlags:     "run the same release on both servers",
	RuleProtocol:  "run the same release on both servers",
}

// Error is a frame that cannot be taken.
type Error struct {
	Rule   string // one of the Rule constants
	Type   Type   // of the frame, 0 if not known
	Detail string
}

// Error says which frame, what is wrong and what to do.
func (e *Error) Error() string {
	text := "frame: " + e.Detail
	if e.Type != 0 {
		text = fmt.Sprintf("frame of %s: %s", describe(e.Type), e.Detail)
	}
	if n := e.Next(); n != "" {
		text += ": " + n
	}
	return text + " (" + e.Rule + ")"
}

// Next is what the administrator can do, perhaps "".
func (e *Error) Next() string { return next[e.Rule] }

func describe(t Type) string {
	if t.Known() {
		return "type " + t.String()
	}
	return t.String()
}

func (h *Header) wrong(rule, format string, args ...any) error {
	return &Error{Rule: rule, Type: h.Type, Detail: fmt.Sprintf(format, args...)}
}
