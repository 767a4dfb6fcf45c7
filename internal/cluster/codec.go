package cluster

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The format of the document's file: docs/formats/cluster.md.
const (
	documentMagic   = "keelson-cluster"
	documentVersion = 1
	headLineMax     = 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// FormatError is content that is not what this program writes.
type FormatError struct {
	What    string // "cluster document", "audit log"
	Offset  int64  // in bytes
	Message string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s, byte %d: %s", e.What, e.Offset, e.Message)
}

// seal writes content as a file: a line with magic, version, length and checksum, then the content.
func seal(magic string, version int, body []byte) []byte {
	head := fmt.Appendf(nil, "%s %d %d %08x\n", magic, version, len(body), crc32.Checksum(body, castagnoli))
	return append(head, body...)
}

// unseal is the content of what seal wrote, and where it begins.
func unseal(what, magic string, version int, data []byte, bytesMax int) (body []byte, at int, err error) {
	fail := func(at int, format string, args ...any) ([]byte, int, error) {
		return nil, 0, &FormatError{what, int64(at), fmt.Sprintf(format, args...)}
	}
	end := bytes.IndexByte(data[:min(len(data), headLineMax)], '\n')
	if end < 0 {
		return fail(0, "it does not begin with the line of one")
	}
	var name string
	var has, length int
	var sum uint32
	n, err := fmt.Sscanf(string(data[:end]), "%s %d %d %x", &name, &has, &length, &sum)
	if name != magic || n < 2 || err != nil && has <= version {
		return fail(0, "it does not begin with the line of one")
	}
	if has != version {
		return fail(len(magic)+1, "its format is %d, and this program knows %d: use the version that wrote it", has, version)
	}
	body = data[end+1:]
	if length != len(body) || length > bytesMax {
		return fail(0, "it has %d bytes and not the %d that it names", len(body), length)
	}
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return fail(end+1, "its checksum is %08x and not %08x", got, sum)
	}
	return body, end + 1, nil
}

// strictly reads exactly one JSON value without unknown fields.
func strictly(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one value")
	}
	return nil
}

// encode writes a document.
func (d *Document) encode() ([]byte, error) {
	body := d.text()
	if len(body) > DocumentBytesMax {
		return nil, fmt.Errorf("the cluster document has %d bytes, more than %d", len(body), DocumentBytesMax)
	}
	return seal(documentMagic, documentVersion, body), nil
}

// text is the one form that a document has as JSON: with its entries sorted, equal documents are equal bytes. A list that
// is not there and one without entries are the same.
func (d *Document) text() []byte {
	whole := Document{Members: append([]Member{}, d.Members...), Users: append([]User{}, d.Users...), Clients: d.Clients}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(whole); err != nil {
		panic(fmt.Sprintf("cluster: %v", err)) // see text
	}
	return b.Bytes()
}

// digest names a document's content.
func (d *Document) digest() string {
	sum := sha256.Sum256(d.text())
	return hex.EncodeToString(sum[:])
}

// decode reads what encode wrote, and refuses everything else.
func decode(data []byte) (*Document, error) {
	body, at, err := unseal("cluster document", documentMagic, documentVersion, data, DocumentBytesMax)
	if err != nil {
		return nil, err
	}
	d := new(Document)
	if err := strictly(body, d); err != nil {
		return nil, &FormatError{"cluster document", int64(at), err.Error()}
	}
	if err := d.check(); err != nil {
		return nil, &FormatError{"cluster document", int64(at), err.Error()}
	}
	return d, nil
}
