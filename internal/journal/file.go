package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

	"keelson/internal/api"
	"keelson/internal/vfs"
)

// Names of the files, and their limits (docs/formats/events.md).
const (
	current      = "events.jsonl"
	before       = "events.old.jsonl"
	lineBytesMax = 16 << 10
	fileBytesMax = 64 << 20 // what is read of a file at a start
)

var errGivenUp = errors.New("given up earlier")

// writer appends events to the current file and begins a new one when it has linesMax lines. It is used by one
// goroutine at a time: Open, then the journal's own, then Close.
type writer struct {
	fs       vfs.FS
	dir      string
	linesMax int

	file  vfs.File // nil: given up
	size  int64
	lines int
	seq   uint64 // of the last event written
}

// open reads both files and opens the current one behind its last whole line.
func (w *writer) open() (events []api.Event, damaged int, err error) {
	if err := w.fs.MkdirAll(w.dir); err != nil {
		return nil, 0, err
	}
	older, err := readFile(w.fs, filepath.Join(w.dir, before))
	if err != nil {
		return nil, 0, err
	}
	newer, err := readFile(w.fs, filepath.Join(w.dir, current))
	if err != nil {
		return nil, 0, err
	}
	events, damaged, _ = parse(older)
	more, bad, whole := parse(newer)
	for _, e := range more {
		if e.Seq > lastSeq(events) { // a rotation that was cut off may have left a line in both
			events = append(events, e)
		}
	}
	w.size, w.lines = int64(whole), len(more)
	if w.file, err = w.fs.Open(filepath.Join(w.dir, current), vfs.Create); err == nil {
		err = w.file.Truncate(w.size) // what a crash left of a line
	}
	if err == nil {
		err = w.fs.SyncDir(w.dir)
	}
	return events, damaged + bad, err
}

// readFile returns the content of a file, nothing if it is not there, and at most fileBytesMax.
func readFile(fsys vfs.FS, path string) ([]byte, error) {
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
	if size > fileBytesMax {
		return nil, fmt.Errorf("%s has %d bytes, more than %d: it is none of the agent's; move it away", path, size, fileBytesMax)
	}
	data := make([]byte, size)
	n, err := f.ReadAt(data, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return data[:n], nil
}

// parse reads lines. Those that are no events, or are not in order, count as damaged; a last line without its end was
// cut off by a crash and does not. whole is the length of what ends with a line's end.
func parse(data []byte) (events []api.Event, damaged, whole int) {
	for {
		end := bytes.IndexByte(data[whole:], '\n')
		if end < 0 {
			return events, damaged, whole
		}
		line := data[whole : whole+end]
		whole += end + 1
		var e api.Event
		if len(line) > lineBytesMax || json.Unmarshal(line, &e) != nil || e.Seq <= lastSeq(events) {
			damaged++
			continue
		}
		events = append(events, e)
	}
}

// append writes events and makes them durable.
func (w *writer) append(events []api.Event) error {
	if w.file == nil {
		return errGivenUp
	}
	if len(events) == 0 {
		return nil
	}
	if w.lines >= w.linesMax {
		if err := w.rotate(); err != nil {
			return err
		}
	}
	var text []byte
	for _, e := range events {
		line, err := json.Marshal(shortened(e))
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	if _, err := w.file.WriteAt(text, w.size); err != nil {
		return err
	}
	if err := w.file.Datasync(); err != nil {
		return err
	}
	w.size += int64(len(text))
	w.lines += len(events)
	w.seq = lastSeq(events)
	return nil
}

// shortened makes sure that the event's line fits.
func shortened(e api.Event) api.Event {
	const most = 4 << 10 // bytes, so that the line fits however they are escaped
	for _, text := range []*string{&e.Message, &e.Next, &e.Object} {
		if len(*text) > most {
			*text = (*text)[:most/4] + " ..."
		}
	}
	return e
}

// rotate makes the current file the one before, and begins a new one.
func (w *writer) rotate() error {
	err := errors.Join(w.file.Close(), w.fs.Rename(filepath.Join(w.dir, current), filepath.Join(w.dir, before)))
	w.file = nil
	if err != nil {
		return err
	}
	if w.file, err = w.fs.Open(filepath.Join(w.dir, current), vfs.Create); err != nil {
		return err
	}
	w.size, w.lines = 0, 0
	return w.fs.SyncDir(w.dir)
}

func (w *writer) giveUp() {
	if w.file != nil {
		_ = w.file.Close() // it failed already
		w.file = nil
	}
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	err := w.file.Close()
	w.file = nil
	return err
}
