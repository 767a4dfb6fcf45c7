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

// encode writes a document: a line with magic, version, length and checksum, then JSON.
func (d *Document) encode() ([]byte, error) {
	body := d.text()
	if len(body) > DocumentBytesMax {
		return nil, fmt.Errorf("the cluster document has %d bytes, more than %d", len(body), DocumentBytesMax)
	}
	head := fmt.Appendf(nil, "%s %d %d %08x\n", documentMagic, documentVersion, len(body), crc32.Checksum(body, castagnoli))
	return append(head, body...), nil
}

// text is the one form that a document has as JSON: with its entries sorted, equal documents are equal bytes.
func (d *Document) text() []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(d); err != nil {
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
	fail := func(at int, format string, args ...any) (*Document, error) {
		return nil, &FormatError{"cluster document", int64(at), fmt.Sprintf(format, args...)}
	}
	end := bytes.IndexByte(data[:min(len(data), headLineMax)], '\n')
	if end < 0 {
		return fail(0, "it does not begin with the line of a cluster document")
	}
	var magic string
	var version, length int
	var sum uint32
	if n, err := fmt.Sscanf(string(data[:end]), "%s %d %d %x", &magic, &version, &length, &sum); n < 2 || err != nil && version <= documentVersion || magic != documentMagic {
		return fail(0, "it does not begin with the line of a cluster document")
	}
	if version != documentVersion {
		return fail(len(documentMagic)+1, "its format is %d, and this program knows %d: use the version that wrote it", version, documentVersion)
	}
	body := data[end+1:]
	if length != len(body) || length > DocumentBytesMax {
		return fail(0, "it has %d bytes and not the %d that it names", len(body), length)
	}
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return fail(end+1, "its checksum is %08x and not %08x", got, sum)
	}
	d := new(Document)
	j := json.NewDecoder(bytes.NewReader(body))
	j.DisallowUnknownFields()
	if err := j.Decode(d); err != nil {
		return fail(end+1+int(j.InputOffset()), "%v", err)
	}
	if _, err := j.Token(); !errors.Is(err, io.EOF) {
		return fail(end+1+int(j.InputOffset()), "there is more than one document")
	}
	if err := d.check(); err != nil {
		return fail(end+1, "%v", err)
	}
	return d, nil
}
