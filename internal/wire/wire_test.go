package wire

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"keelson/internal/lineage"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// sample is a frame of each type, as a session has them.
type sample struct {
	h    Header
	body []byte
}

func samples(t testing.TB) []sample {
	j := func(ty Type, v any) []byte {
		body, err := Marshal(ty, v)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	gen := lineage.GenID{0xab, 15: 0xcd}
	term := lineage.Term{N: 3, Node: "a"}
	history := lineage.History{{ID: gen, Term: term, Began: 8000, Held: 7990}}
	position := lineage.Position{Gen: gen, Number: 8141}
	record := lineage.Record{Epoch: lineage.Epoch{Term: term, N: 5}, Members: []string{"a", "b"}, Since: 8100}
	settings := lineage.Settings{Version: lineage.Epoch{Term: term, N: 2}, Members: []lineage.Member{{Node: "a", Path: "/dev/vg/data", Mode: lineage.Sync}}}
	bytes := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 7)
		}
		return b
	}
	return []sample{
		{Header{Type: TypeHello}, j(TypeHello, Hello{
			Protocol: Version, Cluster: "c1", Volume: "v1", Name: "data", Node: "a", Incarnation: "i1", Session: "s1", Encryption: EncryptionOn,
			Term: term, History: history, Position: position, Record: record, SettingsVersion: settings.Version, SizeBytes: 1 << 30, RegionBytes: 64 << 10, Mode: "sync",
		})},
		{Header{Type: TypeHelloReply}, j(TypeHelloReply, HelloReply{
			Node: "b", Incarnation: "i2", Encryption: EncryptionOn, Promised: term, History: history, Position: position, Floor: position,
			Consistent: "yes", Record: record, Pages: 32,
		})},
		{Header{Type: TypeRefuse}, j(TypeRefuse, Refusal{Rule: "older-term", Message: "promised 4@b", Next: "nothing"})},
		{Header{Type: TypeDigests, Number: 4, Length: 2}, bytes(32)},
		{Header{Type: TypeWantPages}, bytes(8)},
		{Header{Type: TypePages, Number: 4}, bytes(16)},
		{Header{Type: TypeGens, Gen: 2}, bytes(16)},
		{Header{Type: TypeBegin}, j(TypeBegin, Begin{Kind: "partial", Rule: "versions-differ", Regions: 16, Bytes: 1 << 20})},
		{Header{Type: TypeWrite, Gen: 2, Number: 8142, Offset: 65536, Length: 24}, bytes(24)},
		{Header{Type: TypeZero, Flags: FlagTrim, Gen: 2, Number: 8143, Offset: 1 << 20, Length: 1 << 30}, nil},
		{Header{Type: TypeCopy, Gen: 1, Number: 17, Offset: 131072}, bytes(24)},
		{Header{Type: TypeCopyZero, Gen: 1, Number: 18, Offset: 196608, Length: 65536}, nil},
		{Header{Type: TypeProbe, Gen: 1, Number: 19, Offset: 262144, Length: 65536}, bytes(32)},
		{Header{Type: TypeProbeAnswer, Flags: FlagSame, Offset: 262144}, nil},
		{Header{Type: TypeEnd}, j(TypeEnd, End{History: history, Position: position, Record: record, Settings: settings})},
		{Header{Type: TypeEnded, Number: 8141}, nil},
		{Header{Type: TypeFlush, Number: 8143}, nil},
		{Header{Type: TypeAck, Number: 8143, Offset: 8141}, nil},
		{Header{Type: TypeRecord}, j(TypeRecord, record)},
		{Header{Type: TypeRecordAck}, j(TypeRecordAck, record.Epoch)},
		{Header{Type: TypeSettings}, j(TypeSettings, settings)},
		{Header{Type: TypeNewGen, Gen: 3}, j(TypeNewGen, history[0])},
		{Header{Type: TypeCheckpoint, Number: 8143}, nil},
		{Header{Type: TypeChecked, Number: 8143}, nil},
		{Header{Type: TypePing, Number: 12345}, nil},
		{Header{Type: TypePong, Number: 12345}, nil},
		{Header{Type: TypeBye}, j(TypeBye, Bye{Reason: "paused"})},
		{Header{Type: TypeRead, Number: 7, Offset: 65536, Length: 24}, nil},
		{Header{Type: TypeReadAnswer, Number: 7, Offset: 65536, Length: 24}, bytes(24)},
	}
}

// frame is the sample as it travels.
func (s sample) frame() []byte {
	h := s.h
	h.Body, h.BodyCRC = uint32(len(s.body)), Checksum(s.body)
	var head [HeaderBytes]byte
	h.Encode(&head)
	return append(head[:], s.body...)
}

func TestEveryTypeRoundTrips(t *testing.T) {
	seen := map[Type]bool{}
	for _, s := range samples(t) {
		seen[s.h.Type] = true
		frame := s.frame()
		got, err := Decode(frame)
		if err != nil {
			t.Fatalf("%v: %v", s.h.Type, err)
		}
		want := s.h
		want.Body, want.BodyCRC = uint32(len(s.body)), Checksum(s.body)
		if got != want {
			t.Errorf("%v: got %+v, want %+v", s.h.Type, got, want)
		}
		if err := got.CheckBody(frame[HeaderBytes:]); err != nil {
			t.Errorf("%v: %v", s.h.Type, err)
		}
	}
	for i := range shapes {
		if ty := Type(i); ty.Known() != seen[ty] {
			t.Errorf("%v: known %v, sampled %v", ty, ty.Known(), seen[ty])
		}
	}
}

// TestGoldenFrames: the bytes of every type never change within a protocol version.
func TestGoldenFrames(t *testing.T) {
	var text strings.Builder
	for _, s := range samples(t) {
		frame := s.frame()
		fmt.Fprintf(&text, "%-12s %x\n", s.h.Type, frame[:HeaderBytes])
		if len(s.body) > 0 && shapes[s.h.Type].bodyMax == JSONMax {
			fmt.Fprintf(&text, "    %s\n", s.body)
		} else if len(s.body) > 0 {
			fmt.Fprintf(&text, "    %x\n", s.body)
		}
	}
	const file = "testdata/frames.golden"
	if *update {
		if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), text.String()); diff != "" {
		t.Errorf("frames changed (-update rewrites the file; a change needs a new protocol version):\n%s", diff)
	}
}

func TestJSONBodiesRoundTrip(t *testing.T) {
	for _, s := range samples(t) {
		into := bodyOf(s.h.Type)
		if into == nil {
			continue
		}
		if err := Unmarshal(s.h.Type, s.body, into); err != nil {
			t.Fatal(err)
		}
		again, err := Marshal(s.h.Type, into)
		if err != nil || string(again) != string(s.body) {
			t.Errorf("%v: %s became %s (%v)", s.h.Type, s.body, again, err)
		}
	}
}

// bodyOf is where the JSON body of a type goes; nil if it has none.
func bodyOf(t Type) any {
	switch t {
	case TypeHello:
		return new(Hello)
	case TypeHelloReply:
		return new(HelloReply)
	case TypeRefuse:
		return new(Refusal)
	case TypeBegin:
		return new(Begin)
	case TypeEnd:
		return new(End)
	case TypeRecord:
		return new(lineage.Record)
	case TypeRecordAck:
		return new(lineage.Epoch)
	case TypeSettings:
		return new(lineage.Settings)
	case TypeNewGen:
		return new(lineage.Generation)
	case TypeBye:
		return new(Bye)
	}
	return nil
}

// TestEveryFlippedBitIsFound: no single changed bit of a frame goes unnoticed.
func TestEveryFlippedBitIsFound(t *testing.T) {
	for _, s := range samples(t) {
		frame := s.frame()
		for bit := range 8 * len(frame) {
			frame[bit/8] ^= 1 << (bit % 8)
			h, err := Decode(frame)
			if err == nil {
				err = h.CheckBody(frame[HeaderBytes:])
			}
			if err == nil {
				t.Fatalf("%v: bit %d flipped, nobody noticed", s.h.Type, bit)
			}
			frame[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestDecodeTakesExactlyWhatCheckTakes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{
			Type: Type(rapid.Uint8Range(0, 100).Draw(t, "type")), Flags: rapid.Uint8Range(0, 3).Draw(t, "flags"),
			Gen: rapid.Uint16().Draw(t, "gen"), Body: rapid.Uint32().Draw(t, "body"), Number: rapid.Uint64().Draw(t, "number"),
			Offset: rapid.Uint64().Draw(t, "offset"), Length: rapid.Uint64().Draw(t, "length"), BodyCRC: rapid.Uint32().Draw(t, "crc"),
		}
		var head [HeaderBytes]byte
		h.Encode(&head)
		got, err := Decode(head[:])
		if got != h {
			t.Fatalf("got %+v, want %+v", got, h)
		}
		if (err == nil) != (h.Check() == nil) {
			t.Fatalf("Decode says %v, Check %v", err, h.Check())
		}
		if err == nil && (h.Body > BodyMax || h.Offset+h.Length > RangeMax || h.Number > lineage.NumberMax) {
			t.Fatalf("%+v was taken", h)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(s.frame())
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, err := Decode(frame)
		if err != nil {
			if err.(*Error).Rule == "" {
				t.Fatal("an error without a rule")
			}
			return
		}
		var head [HeaderBytes]byte
		if h.Encode(&head); string(head[:]) != string(frame[:HeaderBytes]) {
			t.Fatalf("%x was decoded as %+v and encoded as %x", frame[:HeaderBytes], h, head)
		}
	})
}

func FuzzBodies(f *testing.F) {
	for _, s := range samples(f) {
		if bodyOf(s.h.Type) != nil {
			f.Add(uint8(s.h.Type), s.body)
		}
	}
	f.Fuzz(func(t *testing.T, ty uint8, body []byte) {
		into := bodyOf(Type(ty))
		if into == nil || Unmarshal(Type(ty), body, into) != nil {
			return
		}
		again, err := Marshal(Type(ty), into)
		if err != nil {
			t.Fatal(err)
		}
		twice := bodyOf(Type(ty))
		if err := Unmarshal(Type(ty), again, twice); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(mustJSON(into), mustJSON(twice)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func mustJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// TestExamplesOfThePage: the bytes that docs/formats/stream.md shows are frames, and those of the golden file.
func TestExamplesOfThePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/formats/stream.md")
	if err != nil {
		t.Fatal(err)
	}
	_, examples, _ := strings.Cut(string(page), "## Examples")
	golden := map[string]bool{}
	for _, s := range samples(t) {
		golden[fmt.Sprintf("%x", s.frame())] = true
	}
	n := 0
	for i, block := range strings.Split(examples, "```") {
		if i%2 == 0 {
			continue
		}
		if n++; !golden[strings.Join(strings.Fields(block), "")] {
			t.Errorf("no frame of the golden file: %s", block)
		}
	}
	if n != 3 {
		t.Errorf("%d examples", n)
	}
}
