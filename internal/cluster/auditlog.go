package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"path"
	"strconv"

	"keelson/internal/vfs"
)

// The format of the audit's files: docs/formats/audit.md.
const (
	auditFile    = "audit"
	auditOld     = "audit.old"
	auditDamaged = "audit.damaged"
	auditMagic   = "keelson-audit"
	auditVersion = 1
)

// auditHead is the first line of a segment: what the log had had of each server when the segment began. Without it a
// server whose lines are all forgotten would be sent them again.
type auditHead struct {
	Magic   string            `json:"magic"`
	Version int               `json:"version"`
	Heads   map[string]uint64 `json:"heads"`
}

// auditLog is the log on disk: two segments, of which the newer grows. The Store's mutex guards it.
type auditLog struct {
	fs    vfs.FS
	dir   string
	file  vfs.File // the newer segment
	size  int64    // of what is whole in it
	heads map[string]uint64
	max   int64 // bytes of a segment: segmentBytesMax
	bad   error // of an append: what the file holds is not known, so the next one begins a new segment
}

// open reads the heads of what is there. What follows the first line that is not whole was never answered for, or is
// damaged: it is cut off, and comes again from other members. If it holds more than a torn line it is kept aside.
func (a *auditLog) open() error {
	a.heads = map[string]uint64{}
	if err := a.scan(auditFile); errors.Is(err, fs.ErrNotExist) {
		// New, or a crash between the two steps of begin.
		if err := a.scan(auditOld); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return a.begin()
	} else if err != nil {
		return err
	}
	f, err := a.fs.Open(path.Join(a.dir, auditFile), 0)
	if err != nil {
		return err
	}
	a.file = f
	if size, err := f.Size(); err != nil || size == a.size {
		return err
	}
	return f.Truncate(a.size)
}

// scan reads the heads of one segment, and how much of it is whole.
func (a *auditLog) scan(file string) error {
	name := path.Join(a.dir, file)
	data, err := readAll(a.fs, name, segmentBytesMax+lineBytesMax*AuditBatchMax)
	if err != nil {
		return err
	}
	head, size, err := readSegment(data, func(l Line) bool {
		a.heads[l.Node] = max(a.heads[l.Node], l.Seq)
		return true
	})
	var format *FormatError
	if errors.As(err, &format) && head.Version <= auditVersion || err == nil && size < int64(len(data)) && wholeLineIn(data[size:]) {
		if err := WriteFile(a.fs, path.Join(a.dir, auditDamaged), data); err != nil {
			return err
		}
	}
	switch {
	case err == nil:
		for node, seq := range head.Heads {
			a.heads[node] = max(a.heads[node], seq)
		}
		a.size = size
		return nil
	case format != nil && head.Version <= auditVersion:
		if err := a.fs.Remove(name); err != nil {
			return err
		}
		return fs.ErrNotExist
	}
	return fmt.Errorf("%s: %w", name, err)
}

// begin makes a new segment; the one that was becomes the old one.
func (a *auditLog) begin() error {
	name := path.Join(a.dir, auditFile)
	if a.file != nil {
		if err := a.file.Close(); err != nil && a.bad == nil {
			return err
		}
		a.file = nil
	}
	if _, err := a.fs.Stat(name); err == nil {
		if err := a.fs.Rename(name, path.Join(a.dir, auditOld)); err != nil {
			return err
		}
		if err := a.fs.SyncDir(a.dir); err != nil { // before the name is used again
			return err
		}
	}
	head := frame(auditHead{auditMagic, auditVersion, a.heads})
	if err := WriteFile(a.fs, name, head); err != nil {
		return err
	}
	f, err := a.fs.Open(name, 0)
	if err != nil {
		return err
	}
	a.file, a.size, a.bad = f, int64(len(head)), nil
	return nil
}

// append adds lines, whose numbers are above the heads, durably: all of them or, with an error, none.
func (a *auditLog) append(lines []Line) error {
	heads := maps.Clone(a.heads)
	var text []byte
	for _, l := range lines {
		if _, known := heads[l.Node]; !known && len(heads) >= auditOriginsMax {
			continue
		}
		text = append(text, frame(l)...)
		heads[l.Node] = max(heads[l.Node], l.Seq)
	}
	if a.file == nil || a.bad != nil || a.size+int64(len(text)) > a.max {
		if err := a.begin(); err != nil {
			return err
		}
	}
	_, err := a.file.WriteAt(text, a.size)
	if err == nil {
		err = a.file.Datasync()
	}
	if err != nil {
		a.bad = err
		return err
	}
	a.size += int64(len(text))
	a.heads = heads
	return nil
}

// each gives fn every kept line, in the order in which they came here, until it returns false.
func (a *auditLog) each(fn func(Line) bool) error {
	more := true
	for _, name := range []string{auditOld, auditFile} {
		data, err := readAll(a.fs, path.Join(a.dir, name), segmentBytesMax+lineBytesMax*AuditBatchMax)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if name == auditFile && a.size < int64(len(data)) {
			data = data[:a.size]
		}
		_, _, err = readSegment(data, func(l Line) bool { more = fn(l); return more })
		if err != nil && name == auditFile { // one of the old segment hides no line of the newer
			return fmt.Errorf("%s: %w", path.Join(a.dir, name), err)
		}
		if !more {
			return nil
		}
	}
	return nil
}

func (a *auditLog) close() error {
	if a.file == nil {
		return nil
	}
	f := a.file
	a.file = nil
	return f.Close()
}

// frame is a line as it is in the file: checksum, space, JSON, line end.
func frame(v any) []byte {
	body := text(v)
	return fmt.Appendf(nil, "%08x %s\n", crc32.Checksum(body, castagnoli), body)
}

// unframe is the JSON of a line, without its line end.
func unframe(line []byte) ([]byte, bool) {
	const sumBytes = 8
	if len(line) < sumBytes+1 || line[sumBytes] != ' ' {
		return nil, false
	}
	sum, err := strconv.ParseUint(string(line[:sumBytes]), 16, 32)
	body := line[sumBytes+1:]
	return body, err == nil && uint32(sum) == crc32.Checksum(body, castagnoli)
}

// readSegment gives fn the lines of a segment until it returns false. size is how much of it is whole, up to the first
// line that is not.
func readSegment(data []byte, fn func(Line) bool) (head auditHead, size int64, err error) {
	at := int64(0)
	fail := func(format string, args ...any) (auditHead, int64, error) {
		return head, at, &FormatError{"audit log", at, fmt.Sprintf(format, args...)}
	}
	for first := true; ; first = false {
		rest := data[at:]
		end := bytes.IndexByte(rest, '\n')
		body, ok := []byte(nil), false
		if end >= 0 {
			body, ok = unframe(rest[:end])
		}
		switch {
		case first && !ok:
			return fail("it does not begin as an audit log")
		case first:
			if err := json.Unmarshal(body, &head); err != nil || head.Magic != auditMagic {
				return fail("it does not begin as an audit log")
			}
			if head.Version != auditVersion {
				return fail("its format is %d, and this program knows %d: use the version that wrote it", head.Version, auditVersion)
			}
		case !ok:
			return head, at, nil
		default:
			var l Line
			if json.Unmarshal(body, &l) != nil || l.check() != nil || !fn(l) {
				return head, at, nil
			}
		}
		at += int64(end) + 1
	}
}

// wholeLineIn reports whether a whole line follows the first line end of data.
func wholeLineIn(data []byte) bool {
	lines := bytes.Split(data, []byte("\n"))
	for i := 1; i < len(lines)-1; i++ {
		if _, ok := unframe(lines[i]); ok {
			return true
		}
	}
	return false
}
