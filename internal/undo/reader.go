package undo

import (
	"errors"
	"io"

	"keelson/internal/vfs"
)

// window reads a file forwards, in large pieces. Past the end of the file everything reads as zero: so does what a power
// cut took.
type window struct {
	file  vfs.File
	piece int // bytes read at least at a time
	at    int64
	buf   []byte // what the file has at `at`
}

// windowBytes is the usual piece.
const windowBytes = 1 << 20

// get returns n bytes of the file at off, valid until the next get.
func (w *window) get(off int64, n int) ([]byte, error) {
	if off >= w.at && off+int64(n) <= w.at+int64(len(w.buf)) {
		return w.buf[off-w.at:][:n], nil
	}
	w.at, w.buf = off, extend(w.buf[:0], max(n, w.piece))
	got, err := w.file.ReadAt(w.buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		w.buf = w.buf[:0]
		return nil, err
	}
	clear(w.buf[got:])
	return w.buf[:n], nil
}
