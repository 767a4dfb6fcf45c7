package nbd

import "io"

// input is the read side of a connection: a buffer before the socket. Only the reader goroutine uses it.
type input struct {
	sock socket
	buf  []byte
	r, w int // buf[r:w] has arrived and is not yet used
}

func (in *input) buffered() int { return in.w - in.r }

// need waits until n bytes are buffered, n <= len(buf), and returns them; they are used then.
func (in *input) need(n int) ([]byte, error) {
	for in.buffered() < n {
		if in.r == in.w {
			in.r, in.w = 0, 0
		} else if in.r+n > len(in.buf) {
			in.w = copy(in.buf, in.buf[in.r:in.w])
			in.r = 0
		}
		got, err := in.sock.readv(nil, in.buf[in.w:])
		if err != nil {
			if err == io.EOF && in.buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		in.w += got
	}
	b := in.buf[in.r : in.r+n]
	in.r += n
	return b, nil
}

// fill fills p: from the buffer, then straight from the socket. What arrives behind it goes into the buffer with the same system call.
func (in *input) fill(p []byte) error {
	n := copy(p, in.buf[in.r:in.w])
	in.r += n
	for p = p[n:]; len(p) > 0; {
		in.r, in.w = 0, 0 // empty: p took everything
		got, err := in.sock.readv(p, in.buf)
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if got > len(p) {
			in.w = got - len(p)
			return nil
		}
		p = p[got:]
	}
	return nil
}

// skip drops n bytes.
func (in *input) skip(n int64) error {
	for {
		k := min(n, int64(in.buffered()))
		in.r += int(k)
		if n -= k; n == 0 {
			return nil
		}
		in.r, in.w = 0, 0
		got, err := in.sock.readv(nil, in.buf)
		if err != nil {
			return err
		}
		in.w = got
	}
}

// grow makes the buffer n bytes long; what is buffered stays.
func (in *input) grow(n int) {
	buf := make([]byte, n)
	in.w = copy(buf, in.buf[in.r:in.w])
	in.r = 0
	in.buf = buf
}
