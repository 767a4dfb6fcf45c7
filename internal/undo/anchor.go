package undo

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// Anchor is the consistent state that a log can bring back: the replica's standing when a resync began (rule 26).
type Anchor struct {
	ID       string           `json:"id"` // 32 hexadecimal digits, random: see NewID
	History  lineage.History  `json:"history"`
	Position lineage.Position `json:"position"`
	Record   lineage.Record   `json:"record"`
	Time     time.Time        `json:"time"`
	Reason   string           `json:"reason"`
}

// NewID makes the id of an anchor or a salvage: 128 random bits, hexadecimal.
func NewID() string {
	var id ident
	if _, err := rand.Read(id[:]); err != nil {
		panic(err) // crypto/rand never fails
	}
	return hex.EncodeToString(id[:])
}

func parseID(s string) (id ident, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("the id %q is not 32 hexadecimal digits", s)
	}
	copy(id[:], b)
	return id, nil
}

// anchorDoc is what the file `anchor` has.
type anchorDoc struct {
	Anchor
	RegionBytes int64 `json:"region_bytes"`
	rolling     bool  // a rollback to it has begun (rule 27)
}

// The anchor's file is replaced as a whole, but for the flag of its first sector, which is changed in place: a rollback must
// be possible when the disk is full. Little endian:
//
//	0 magic (8) | 8 version u16 | 10 flags u16 | 12 bytes of JSON u32 | 16 CRC32C of the JSON | 20 zero | 508 CRC32C of bytes 0..507 | 512 JSON
const (
	anchorMagic     = "KUNDOANC"
	anchorHeadBytes = sectorBytes
	anchorBytesMax  = 16 << 20
	flagRolling     = 1
)

func encodeAnchor(d anchorDoc) ([]byte, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	if len(text) > anchorBytesMax {
		return nil, fmt.Errorf("an anchor of %d bytes: at most %d", len(text), anchorBytesMax)
	}
	b := make([]byte, anchorHeadBytes, anchorHeadBytes+len(text))
	copy(b, anchorMagic)
	le := binary.LittleEndian
	le.PutUint16(b[8:], formatVersion)
	if d.rolling {
		le.PutUint16(b[10:], flagRolling)
	}
	le.PutUint32(b[12:], uint32(len(text)))
	le.PutUint32(b[16:], checksum(text))
	le.PutUint32(b[508:], checksum(b[:508]))
	return append(b, text...), nil
}

// decodeAnchor reads an anchor's file. name is for the error.
func decodeAnchor(name string, b []byte) (d anchorDoc, id ident, err error) {
	le := binary.LittleEndian
	bad := func(at int64, why string, args ...any) (anchorDoc, ident, error) {
		return anchorDoc{}, ident{}, corrupt(name, at, why, args...)
	}
	switch {
	case len(b) < anchorHeadBytes:
		return bad(int64(len(b)), "the file ends after %d bytes", len(b))
	case string(b[:8]) != anchorMagic:
		return bad(0, "it begins with %q, not %q", b[:8], anchorMagic)
	case le.Uint32(b[508:]) != checksum(b[:508]):
		return bad(508, "the header's checksum is wrong")
	case le.Uint16(b[8:]) > formatVersion:
		return d, id, newerFormat(name, 8, le.Uint16(b[8:]))
	case le.Uint16(b[8:]) == 0 || le.Uint16(b[10:])&^flagRolling != 0 || !allZero(b[20:508]):
		return bad(8, "the header has a field that format %d has not", formatVersion)
	case int64(le.Uint32(b[12:])) != int64(len(b)-anchorHeadBytes):
		return bad(12, "it has %d bytes, not %d", len(b), anchorHeadBytes+int64(le.Uint32(b[12:])))
	case le.Uint32(b[16:]) != checksum(b[anchorHeadBytes:]):
		return bad(anchorHeadBytes, "the checksum is wrong")
	}
	dec := json.NewDecoder(bytes.NewReader(b[anchorHeadBytes:]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return bad(anchorHeadBytes, "%v", err)
	}
	if id, err = parseID(d.ID); err != nil {
		return bad(anchorHeadBytes, "%v", err)
	}
	if err := checkRegionBytes(d.RegionBytes); err != nil {
		return bad(anchorHeadBytes, "%v", err)
	}
	d.rolling = le.Uint16(b[10:])&flagRolling != 0
	return d, id, nil
}

func checkRegionBytes(n int64) error {
	if n <= 0 || n > regionBytesMax || n%sectorBytes != 0 {
		return fmt.Errorf("regions of %d bytes: must be a multiple of %d, at most %d", n, sectorBytes, regionBytesMax)
	}
	return nil
}

// readWhole reads a small file; nil if there is none.
func readWhole(fsys vfs.FS, path string, bytesMax int64) ([]byte, error) {
	f, err := fsys.Open(path, vfs.ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > bytesMax {
		return nil, corrupt(path, bytesMax, "it has %d bytes, at most %d", size, bytesMax)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); err != nil && !(errors.Is(err, io.EOF) && int64(n) == size) {
		return nil, err
	}
	return b, nil
}

// writeWhole makes a file of its own and syncs it; its name is not durable yet. What is left of a failure is removed.
func writeWhole(fsys vfs.FS, path string, b []byte, sync bool) error {
	f, err := fsys.Open(path, vfs.Create)
	if err != nil {
		return err
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err == nil && sync {
		err = f.Datasync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = fsys.Remove(path)
	}
	return err
}

// overwrite writes the start of a file in place, durably. It takes no room.
func overwrite(fsys vfs.FS, path string, b []byte, sync bool) error {
	f, err := fsys.Open(path, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil && sync {
		err = f.Datasync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// replace gives the file a new content, durably and as a whole. Uncertain: the error came when the new one may be there already.
func (l *Log) replace(name string, b []byte) (uncertain bool, err error) {
	path := filepath.Join(l.dir, name)
	if err := writeWhole(l.fs, path+newSuffix, b, !l.leftOut(anchorSynced)); err != nil {
		return false, err
	}
	if err := l.fs.Rename(path+newSuffix, path); err != nil {
		_ = l.fs.Remove(path + newSuffix)
		return !noRoom(err), err
	}
	if l.leftOut(nameSynced) {
		return false, nil
	}
	return true, l.fs.SyncDir(l.dir)
}
