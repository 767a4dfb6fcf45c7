// Package wire has the frames of a mirror's stream: a header of 40 bytes, limits for each type, checksums, and the JSON
// bodies. It is pure: it knows neither sockets nor clocks. The format's page is docs/formats/stream.md.
//
// A frame is a Header and, after it, Header.Body bytes. Everything is little endian:
//
//	 0 u8  type
//	 1 u8  flags
//	 2 u16 gen         index in the table of generations that the sender has announced (TypeGens, TypeNewGen)
//	 4 u32 body        bytes after the header
//	 8 u64 number
//	16 u64 offset      bytes from the start of the volume
//	24 u64 length      bytes
//	32 u32 CRC32C of the body; 0 without one
//	36 u32 CRC32C of bytes 0 to 35
package wire

import "fmt"

// Version of the protocol that this release speaks, in every Hello.
const Version = 2

// Limits of frames, in bytes.
const (
	HeaderBytes = 40
	ReadMax     = 32 << 20        // of one read: a request's longest
	BodyMax     = 32<<20 + 64<<10 // data: the longest request and room to spare
	JSONMax     = 1 << 20         // a JSON body
	ListMax     = 4 << 20         // digests, page numbers, versions, generations
	RangeMax    = 1 << 62         // offset + length of any frame
)

// Type says what a frame means.
type Type uint8

// The types. Source to target unless said; which of Number, Offset, Length, Gen and the body each uses is in
// docs/formats/stream.md, and as far as Decode checks it in the table below.
const (
	TypeHello       Type = 1  // JSON Hello; the first frame of the dialing side, always inside TLS
	TypeHelloReply  Type = 2  // target to source: JSON HelloReply; the last frame that is always inside TLS
	TypeRefuse      Type = 3  // either: JSON Refusal; ends the session
	TypeDigests     Type = 4  // target to source: 16 bytes for each of Length pages from page Number
	TypeWantPages   Type = 5  // u32 page numbers
	TypePages       Type = 6  // target to source: u64 versions of the regions of pages from page Number
	TypeGens        Type = 7  // either: 16 bytes for each generation of the sender's table from index Gen
	TypeBegin       Type = 8  // JSON Begin: a resync begins
	TypeWrite       Type = 9  // write Number at Offset
	TypeZero        Type = 10 // write Number makes [Offset, Offset+Length) zero; FlagTrim: storage may be given back
	TypeCopy        Type = 11 // content of a region of version (Gen, Number)
	TypeCopyZero    Type = 12 // the same, all zero: [Offset, Offset+Length)
	TypeProbe       Type = 13 // 32 bytes digest of [Offset, Offset+Length), which has version (Gen, Number) at the source
	TypeProbeAnswer Type = 14 // target to source: of the probe at Offset; FlagSame
	TypeEnd         Type = 15 // JSON End: the resync is complete
	TypeEnded       Type = 16 // target to source: the end of Number is durable
	TypeFlush       Type = 17 // make everything up to Number durable
	TypeAck         Type = 18 // target to source: written up to Number, durable up to Offset
	TypeRecord      Type = 19 // JSON lineage.Record
	TypeRecordAck   Type = 20 // target to source: JSON lineage.Epoch of the record that is durable
	TypeSettings    Type = 21 // JSON lineage.Settings
	TypeNewGen      Type = 22 // JSON lineage.Generation; Gen is its index in the sender's table
	TypeCheckpoint  Type = 23 // checkpoint up to Number
	TypeChecked     Type = 24 // target to source: the checkpoint up to Number is durable
	TypePing        Type = 25 // either; Number is the sender's own and comes back
	TypePong        Type = 26 // either
	TypeBye         Type = 27 // either: JSON Bye; nothing follows

	TypeRead       Type = 28 // read [Offset, Offset+Length) after everything before it; Number is the sender's own and comes back
	TypeReadAnswer Type = 29 // target to source: the content, of the read Number at Offset

	// ReservedFirst to ReservedLast are kept for undo, verify, bookmarks and resize.
	ReservedFirst Type = 64
	ReservedLast  Type = 95
)

// Flags of frames. A flag that the type does not have is refused.
const (
	FlagTrim uint8 = 1 // TypeZero: the storage may be given back
	FlagSame uint8 = 1 // TypeProbeAnswer: the target's content has that digest
)

// Header is what comes before each body.
type Header struct {
	Type    Type
	Flags   uint8
	Gen     uint16
	Body    uint32 // bytes
	Number  uint64
	Offset  uint64
	Length  uint64
	BodyCRC uint32 // Checksum of the body
}

// shape is what Decode knows of a type.
type shape struct {
	name    string
	bodyMin uint32 // bytes
	bodyMax uint32
	unit    uint32 // the body is a multiple of so many bytes
	flags   uint8  // allowed
	check   func(Header) string
}

// shapes of all types; the name of a type that does not exist is "".
var shapes = [256]shape{
	TypeHello:       jsonBody("hello"),
	TypeHelloReply:  jsonBody("hello-reply"),
	TypeRefuse:      jsonBody("refuse"),
	TypeDigests:     {name: "digests", bodyMin: 16, bodyMax: ListMax, unit: 16, check: onePerPage},
	TypeWantPages:   {name: "want-pages", bodyMax: ListMax, unit: 4},
	TypePages:       {name: "pages", bodyMax: ListMax, unit: 8},
	TypeGens:        {name: "gens", bodyMax: ListMax, unit: 16},
	TypeBegin:       jsonBody("begin"),
	TypeWrite:       {name: "write", bodyMin: 1, bodyMax: BodyMax, unit: 1, check: numbered},
	TypeZero:        {name: "zero", unit: 1, flags: FlagTrim, check: numberedRange},
	TypeCopy:        {name: "copy", bodyMin: 1, bodyMax: BodyMax, unit: 1, check: bodyIsRange},
	TypeCopyZero:    {name: "copy-zero", unit: 1, check: hasRange},
	TypeProbe:       {name: "probe", bodyMin: 32, bodyMax: 32, unit: 32, check: hasRange},
	TypeProbeAnswer: {name: "probe-answer", unit: 1, flags: FlagSame},
	TypeEnd:         jsonBody("end"),
	TypeEnded:       bare("ended"),
	TypeFlush:       bare("flush"),
	TypeAck:         bare("ack"),
	TypeRecord:      jsonBody("record"),
	TypeRecordAck:   jsonBody("record-ack"),
	TypeSettings:    jsonBody("settings"),
	TypeNewGen:      jsonBody("new-gen"),
	TypeCheckpoint:  bare("checkpoint"),
	TypeChecked:     bare("checked"),
	TypePing:        bare("ping"),
	TypePong:        bare("pong"),
	TypeBye:         jsonBody("bye"),
	TypeRead:        {name: "read", unit: 1, check: readRange},
	TypeReadAnswer:  {name: "read-answer", bodyMin: 1, bodyMax: ReadMax, unit: 1, check: bodyIsRange},
}

func bare(name string) shape { return shape{name: name, unit: 1} }

func jsonBody(name string) shape { return shape{name: name, bodyMin: 2, bodyMax: JSONMax, unit: 1} }

// Known reports whether this release knows the type.
func (t Type) Known() bool { return shapes[t].name != "" }

// String is the type's name as errors and logs show it.
func (t Type) String() string {
	if name := shapes[t].name; name != "" {
		return name
	}
	return fmt.Sprintf("type %d", uint8(t))
}
