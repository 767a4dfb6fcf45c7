package nbd

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/frontend/nbd/nbdproto"
)

// Limits that are no options.
const (
	nameBytesMax       = nbdproto.NameBytesMax
	optionBytesMax     = 16 << 10  // data of one option
	optionSkipBytesMax = 1 << 20   // data of an option that is too big but is still skipped
	optionsMax         = 64        // options in one handshake
	handshakeBytes     = 4 << 10   // read buffer during the handshake
	readBytes          = 256 << 10 // read buffer afterwards
	batchRequestsMax   = 64        // requests submitted at once
	batchBytesMax      = 1 << 20   // their payload, except that one request may be longer
	extentsMax         = 4096      // extents in one block status reply
	iovecsMax          = 256       // pieces in one system call
	flushRoundsMax     = 4         // system calls of one Flush
	acceptPause        = 50 * time.Millisecond
	lingerMax          = 50 * time.Millisecond // for a client to read a last error before its unread requests reset the socket
)

// isTransient tells errors of accept that pass.
func isTransient(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) ||
		errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ECONNABORTED)
}
