package wire

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"
)

// TestRefusedFrames: every way in which a frame can be wrong has its rule and its message.
func TestRefusedFrames(t *testing.T) {
	write := sample{Header{Type: TypeWrite, Number: 1}, []byte("content")}.frame()
	tests := []struct {
		name, rule, message string
		frame               []byte
	}{
		{"truncated header", RuleShort, "a header has 40 bytes, not 39", write[:39]},
		{"truncated body", RuleShort, "body has 6 bytes, the header says 7", write[:46]},
		{"wrong magic: not a frame", RuleHeaderCRC, "look at the network", []byte("GET / HTTP/1.1\r\nHost: localhost:7401\r\n\r\n")},
		{"header changed on its way", RuleHeaderCRC, "checksum of the header", changed(write, 9)},
		{"body changed on its way", RuleBodyCRC, "checksum of the body of 7 bytes", changed(write, 41)},
		{"oversized", RuleBodyLimit, "longer than 33619968", with(write, func(h *Header) { h.Body = BodyMax + 1 })},
		{"oversized JSON", RuleBodyLimit, "longer than 1048576", with(write, func(h *Header) { *h = Header{Type: TypeHello, Body: JSONMax + 1} })},
		{"oversized list", RuleBodyLimit, "longer than 4194304", with(write, func(h *Header) { *h = Header{Type: TypePages, Body: ListMax + 8} })},
		{"no body", RuleBodyShape, "at least 1 are needed", with(write, func(h *Header) { h.Body = 0 })},
		{"body where none belongs", RuleBodyLimit, "body of 7 bytes is longer than 0", with(write, func(h *Header) { h.Type, h.Length = TypeAck, 0 })},
		{"checksum of no body", RuleBodyShape, "of no body", with(write, func(h *Header) { *h = Header{Type: TypeFlush, BodyCRC: 1} })},
		{"half a digest", RuleBodyShape, "in units of 32", with(write, func(h *Header) { *h = Header{Type: TypeProbe, Body: 16, Length: 1} })},
		{"digests of too few pages", RuleRange, "not the digests of 3 pages", with(write, func(h *Header) { *h = Header{Type: TypeDigests, Body: 32, Length: 3} })},
		{"no type", RuleType, "there is no such type", with(write, func(h *Header) { h.Type = 0 })},
		{"unknown type", RuleType, "type 200: there is no such type", with(write, func(h *Header) { h.Type = 200 })},
		{"a later release's type", RuleType, "reserved for later ones: run the same release", with(write, func(h *Header) { h.Type = ReservedFirst })},
		{"unknown flag", RuleFlags, "flags 0x02", with(write, func(h *Header) { h.Flags = 2 })},
		{"number above the limit", RuleNumber, "above 281474976710655", with(write, func(h *Header) { h.Number = 1 << 48 })},
		{"a write without number", RuleRange, "no write has the number 0", with(write, func(h *Header) { h.Number = 0 })},
		{"length that is not the body's", RuleRange, "length 8 is not that of the body of 7", with(write, func(h *Header) { h.Length = 8 })},
		{"range that wraps", RuleRange, "end above", with(write, func(h *Header) { *h = Header{Type: TypeZero, Number: 1, Offset: 1 << 61, Length: 1 << 63} })},
		{"a read that is too long", RuleRange, "longer than 33554432", with(write, func(h *Header) { *h = Header{Type: TypeRead, Length: ReadMax + 1} })},
		{"empty range", RuleRange, "a range of 0 bytes", with(write, func(h *Header) { *h = Header{Type: TypeCopyZero} })},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h, err := Decode(test.frame)
			if err == nil {
				err = h.CheckBody(test.frame[HeaderBytes:])
			}
			wantRule(t, err, test.rule, test.message)
		})
	}
}

func TestRefusedBodies(t *testing.T) {
	var hello Hello
	wantRule(t, Unmarshal(TypeHello, []byte(`{"protocol":"1"}`), &hello), RuleJSON, "frame of type hello")
	wantRule(t, Unmarshal(TypeHello, []byte(`{} {}`), &hello), RuleJSON, "after top-level value")
	wantRule(t, Unmarshal(TypeHello, []byte(`{"history":[{"id":"00"}]}`), &hello), RuleJSON, "32 hexadecimal digits")
	wantRule(t, Unmarshal(TypeHello, make([]byte, JSONMax+1), &hello), RuleBodyLimit, "longer than 1048576")
	_, err := Marshal(TypeBye, Bye{Reason: strings.Repeat("x", JSONMax)})
	wantRule(t, err, RuleBodyLimit, "longer than 1048576")
}

func TestOtherProtocols(t *testing.T) {
	if err := CheckProtocol(Version); err != nil {
		t.Error(err)
	}
	wantRule(t, CheckProtocol(Version+1), RuleProtocol, "this server is older: run the same release on both servers")
	wantRule(t, CheckProtocol(Version-1), RuleProtocol, "the peer is older")
}

func wantRule(t *testing.T, err error, rule, message string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Rule != rule || !strings.Contains(e.Error(), message) || !strings.HasSuffix(e.Error(), "("+rule+")") {
		t.Errorf("got %v, want rule %s and %q", err, rule, message)
	}
}

func changed(frame []byte, at int) []byte {
	frame = append([]byte(nil), frame...)
	frame[at] ^= 0x10
	return frame
}

// with changes the header and makes its checksum right again.
func with(frame []byte, change func(*Header)) []byte {
	h, _ := Decode(frame)
	change(&h)
	var head [HeaderBytes]byte
	h.Encode(&head)
	binary.LittleEndian.PutUint32(head[36:], crc32.Checksum(head[:36], castagnoli))
	return append(head[:], frame[HeaderBytes:]...)
}

func BenchmarkHeader(b *testing.B) {
	h := Header{Type: TypeWrite, Number: 1, Offset: 4096, Body: 4096, BodyCRC: 7}
	var head [HeaderBytes]byte
	b.ReportAllocs()
	for b.Loop() {
		h.Number++
		h.Encode(&head)
		if _, err := Decode(head[:]); err != nil {
			b.Fatal(err)
		}
	}
}
