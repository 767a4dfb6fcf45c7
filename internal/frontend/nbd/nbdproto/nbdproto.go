// Package nbdproto has the numbers and headers of the NBD protocol that server and client share. All integers
// travel in big endian.
package nbdproto

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Magic numbers.
const (
	MagicServer      = 0x4e42444d41474943 // "NBDMAGIC", the first 8 bytes of a server
	MagicOption      = 0x49484156454f5054 // "IHAVEOPT", the second 8 bytes and the start of every option
	MagicOptionReply = 0x3e889045565a9
	MagicRequest     = 0x25609513
	MagicSimple      = 0x67446698
	MagicStructured  = 0x668e33ef
)

// Flags of the handshake, server (16 bits) and client (32 bits).
const (
	FixedNewstyle = 1 << 0
	NoZeroes      = 1 << 1
)

// Options of the handshake.
const (
	OptExportName      = 1
	OptAbort           = 2
	OptList            = 3
	OptStartTLS        = 5
	OptInfo            = 6
	OptGo              = 7
	OptStructuredReply = 8
	OptListMetaContext = 9
	OptSetMetaContext  = 10
)

// Replies to options.
const (
	RepAck         = 1
	RepServer      = 2
	RepInfo        = 3
	RepMetaContext = 4

	repErr         = 1 << 31
	RepErrUnsup    = repErr | 1
	RepErrPolicy   = repErr | 2
	RepErrInvalid  = repErr | 3
	RepErrTLSReqd  = repErr | 5
	RepErrUnknown  = repErr | 6
	RepErrShutdown = repErr | 7
	RepErrTooBig   = repErr | 9
)

// Kinds of information about an export.
const (
	InfoExport      = 0
	InfoName        = 1
	InfoDescription = 2
	InfoBlockSize   = 3
)

// Transmission flags of an export.
const (
	HasFlags        = 1 << 0
	ReadOnly        = 1 << 1
	SendFlush       = 1 << 2
	SendFUA         = 1 << 3
	SendTrim        = 1 << 5
	SendWriteZeroes = 1 << 6
	SendDF          = 1 << 7
	CanMultiConn    = 1 << 8
)

// Commands.
const (
	CmdRead        = 0
	CmdWrite       = 1
	CmdDisc        = 2
	CmdFlush       = 3
	CmdTrim        = 4
	CmdCache       = 5
	CmdWriteZeroes = 6
	CmdBlockStatus = 7
)

// Flags of a command.
const (
	FlagFUA      = 1 << 0
	FlagNoHole   = 1 << 1
	FlagDF       = 1 << 2
	FlagReqOne   = 1 << 3
	FlagFastZero = 1 << 4
)

// Structured replies: the flag of the last chunk and the types of chunks.
const (
	ChunkDone = 1 << 0

	ChunkNone        = 0
	ChunkOffsetData  = 1
	ChunkOffsetHole  = 2
	ChunkBlockStatus = 5
	ChunkError       = 1<<15 | 1
	ChunkErrorOffset = 1<<15 | 2
)

// Status flags of base:allocation.
const (
	StateHole = 1 << 0
	StateZero = 1 << 1
)

// Errno is an error number of the protocol.
type Errno uint32

// Error numbers.
const (
	EPERM     Errno = 1
	EIO       Errno = 5
	ENOMEM    Errno = 12
	EINVAL    Errno = 22
	ENOSPC    Errno = 28
	EOVERFLOW Errno = 75
	ENOTSUP   Errno = 95
	ESHUTDOWN Errno = 108
)

var errnoNames = map[Errno]string{
	EPERM: "EPERM: not permitted", EIO: "EIO: input/output error", ENOMEM: "ENOMEM: out of memory",
	EINVAL: "EINVAL: invalid request", ENOSPC: "ENOSPC: no space", EOVERFLOW: "EOVERFLOW: value too large",
	ENOTSUP: "ENOTSUP: not supported", ESHUTDOWN: "ESHUTDOWN: the server is shutting down",
}

// Error names the number.
func (e Errno) Error() string {
	if name, ok := errnoNames[e]; ok {
		return name
	}
	return fmt.Sprintf("NBD error %d", uint32(e))
}

// Sizes of headers in bytes.
const (
	RequestBytes    = 28
	SimpleBytes     = 16
	StructuredBytes = 20
	OptionBytes     = 16
	OptReplyBytes   = 20
)

// Limits.
const (
	PayloadBytesMax = 32 << 20 // of one read or write
	NameBytesMax    = 4096     // of a string
)

// ContextAllocation is the one metadata context offered.
const ContextAllocation = "base:allocation"

// Request is the header of a request.
//
//	0 u32 magic | 4 u16 flags | 6 u16 command | 8 u64 cookie | 16 u64 offset | 24 u32 length
type Request struct {
	Flags, Cmd uint16
	Cookie     uint64
	Off        uint64
	Len        uint32
}

// ErrMagic is a request that does not begin with the magic number: nothing after it can be understood.
var ErrMagic = errors.New("a request without the magic number")

// Decode reads a request from RequestBytes bytes.
func Decode(b []byte) (Request, error) {
	_ = b[RequestBytes-1]
	if binary.BigEndian.Uint32(b) != MagicRequest {
		return Request{}, ErrMagic
	}
	return Request{
		Flags:  binary.BigEndian.Uint16(b[4:]),
		Cmd:    binary.BigEndian.Uint16(b[6:]),
		Cookie: binary.BigEndian.Uint64(b[8:]),
		Off:    binary.BigEndian.Uint64(b[16:]),
		Len:    binary.BigEndian.Uint32(b[24:]),
	}, nil
}

// Encode writes the request into RequestBytes bytes.
func (r Request) Encode(b []byte) {
	_ = b[RequestBytes-1]
	binary.BigEndian.PutUint32(b, MagicRequest)
	binary.BigEndian.PutUint16(b[4:], r.Flags)
	binary.BigEndian.PutUint16(b[6:], r.Cmd)
	binary.BigEndian.PutUint64(b[8:], r.Cookie)
	binary.BigEndian.PutUint64(b[16:], r.Off)
	binary.BigEndian.PutUint32(b[24:], r.Len)
}

// PutSimple writes the header of a simple reply.
//
//	0 u32 magic | 4 u32 error | 8 u64 cookie
func PutSimple(b []byte, errno Errno, cookie uint64) {
	_ = b[SimpleBytes-1]
	binary.BigEndian.PutUint32(b, MagicSimple)
	binary.BigEndian.PutUint32(b[4:], uint32(errno))
	binary.BigEndian.PutUint64(b[8:], cookie)
}

// PutStructured writes the header of a chunk whose body has n bytes.
//
//	0 u32 magic | 4 u16 flags | 6 u16 type | 8 u64 cookie | 16 u32 length
func PutStructured(b []byte, flags, kind uint16, cookie uint64, n int) {
	_ = b[StructuredBytes-1]
	binary.BigEndian.PutUint32(b, MagicStructured)
	binary.BigEndian.PutUint16(b[4:], flags)
	binary.BigEndian.PutUint16(b[6:], kind)
	binary.BigEndian.PutUint64(b[8:], cookie)
	binary.BigEndian.PutUint32(b[16:], uint32(n))
}
