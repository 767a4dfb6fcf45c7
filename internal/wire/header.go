package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"keelson/internal/lineage"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC32C of a body; 0 of an empty one.
func Checksum(body []byte) uint32 { return crc32.Checksum(body, castagnoli) }

// Encode writes the frame's header, with its own checksum, to dst.
func (h *Header) Encode(dst *[HeaderBytes]byte) {
	le := binary.LittleEndian
	dst[0], dst[1] = byte(h.Type), h.Flags
	le.PutUint16(dst[2:], h.Gen)
	le.PutUint32(dst[4:], h.Body)
	le.PutUint64(dst[8:], h.Number)
	le.PutUint64(dst[16:], h.Offset)
	le.PutUint64(dst[24:], h.Length)
	le.PutUint32(dst[32:], h.BodyCRC)
	le.PutUint32(dst[36:], crc32.Checksum(dst[:36], castagnoli))
}

// Decode reads a header from the first HeaderBytes of src and checks its checksum and the limits of its type, so that
// nothing is allocated or awaited for a frame that cannot be. Errors are *Error.
func Decode(src []byte) (Header, error) {
	if len(src) < HeaderBytes {
		return Header{}, &Error{Rule: RuleShort, Detail: fmt.Sprintf("a header has %d bytes, not %d", HeaderBytes, len(src))}
	}
	le := binary.LittleEndian
	src = src[:HeaderBytes]
	if want, got := le.Uint32(src[36:]), crc32.Checksum(src[:36], castagnoli); want != got {
		return Header{}, &Error{Rule: RuleHeaderCRC, Detail: fmt.Sprintf("checksum of the header is %08x, it says %08x", got, want)}
	}
	h := Header{
		Type: Type(src[0]), Flags: src[1],
		Gen:     le.Uint16(src[2:]),
		Body:    le.Uint32(src[4:]),
		Number:  le.Uint64(src[8:]),
		Offset:  le.Uint64(src[16:]),
		Length:  le.Uint64(src[24:]),
		BodyCRC: le.Uint32(src[32:]),
	}
	return h, h.Check()
}

// Check returns nil if the header is within the limits of its type, else an *Error. Decode has called it already.
func (h *Header) Check() error {
	s := &shapes[h.Type]
	switch {
	case s.name == "":
		return h.unknown()
	case h.Flags&^s.flags != 0:
		return h.wrong(RuleFlags, "flags %#02x are not of this type", h.Flags&^s.flags)
	case h.Body > s.bodyMax:
		return h.wrong(RuleBodyLimit, "body of %d bytes is longer than %d", h.Body, s.bodyMax)
	case h.Body < s.bodyMin || h.Body%s.unit != 0:
		return h.wrong(RuleBodyShape, "body of %d bytes: at least %d are needed, in units of %d", h.Body, s.bodyMin, s.unit)
	case h.Body == 0 && h.BodyCRC != 0:
		return h.wrong(RuleBodyShape, "checksum %08x of no body", h.BodyCRC)
	case h.Number > lineage.NumberMax:
		return h.wrong(RuleNumber, "number %d is above %d", h.Number, uint64(lineage.NumberMax))
	case h.Offset > RangeMax || h.Length > RangeMax-h.Offset:
		return h.wrong(RuleRange, "%d bytes at %d end above %d", h.Length, h.Offset, uint64(RangeMax))
	}
	if s.check != nil {
		if why := s.check(*h); why != "" {
			return h.wrong(RuleRange, "%s", why)
		}
	}
	return nil
}

// CheckBody returns nil if the body is the one the header speaks of, else an *Error.
func (h *Header) CheckBody(body []byte) error {
	if len(body) != int(h.Body) {
		return h.wrong(RuleShort, "body has %d bytes, the header says %d", len(body), h.Body)
	}
	if got := Checksum(body); got != h.BodyCRC {
		return h.wrong(RuleBodyCRC, "checksum of the body of %d bytes is %08x, the header says %08x", h.Body, got, h.BodyCRC)
	}
	return nil
}

func (h *Header) unknown() error {
	if h.Type >= ReservedFirst && h.Type <= ReservedLast {
		return h.wrong(RuleType, "this release does not know it; it is reserved for later ones")
	}
	return h.wrong(RuleType, "there is no such type")
}

func onePerPage(h Header) string {
	if uint64(h.Body) != 16*h.Length {
		return fmt.Sprintf("%d bytes are not the digests of %d pages", h.Body, h.Length)
	}
	return ""
}

func numbered(h Header) string {
	if h.Number == 0 {
		return "no write has the number 0"
	}
	return bodyIsRange(h)
}

// bodyIsRange: the range is the body's; Length repeats it or is left out.
func bodyIsRange(h Header) string {
	if h.Length != 0 && h.Length != uint64(h.Body) {
		return fmt.Sprintf("length %d is not that of the body of %d bytes", h.Length, h.Body)
	}
	return ""
}

func numberedRange(h Header) string {
	if h.Number == 0 {
		return "no write has the number 0"
	}
	return hasRange(h)
}

func readRange(h Header) string {
	if h.Length > ReadMax {
		return fmt.Sprintf("a read of %d bytes is longer than %d", h.Length, ReadMax)
	}
	return hasRange(h)
}

func hasRange(h Header) string {
	if h.Length == 0 {
		return "a range of 0 bytes"
	}
	return ""
}
