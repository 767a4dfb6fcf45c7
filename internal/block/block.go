// Package block has the one interface that everything offering or using a range of bytes speaks:
// requests, their payload buffers and the Device. A frontend turns a protocol into requests; a
// volume turns requests into disk writes and stream frames. It knows neither disks nor networks.
package block

import (
	"fmt"
	"time"
)

// Op is what a Request asks for.
type Op uint8

// The operations of a Device.
const (
	Read  Op = iota
	Write    // Buf holds Len bytes
	Zero     // the range reads as zero afterwards; storage stays allocated if NoHole is set
	Trim     // the range reads as zero afterwards (rule 30), its storage may be given back
	Flush    // everything answered before the flush was submitted is durable when it completes
)

// String names the operation as status and errors show it.
func (op Op) String() string {
	switch op {
	case Read:
		return "read"
	case Write:
		return "write"
	case Zero:
		return "write-zeroes"
	case Trim:
		return "trim"
	case Flush:
		return "flush"
	}
	return fmt.Sprintf("op %d", uint8(op))
}

// Flags modify a Request.
type Flags uint8

// Flags of a request.
const (
	FUA    Flags = 1 << iota // Write, Zero, Trim: durable before it completes
	NoHole                   // Zero: do not deallocate
)

// LenMax is the most bytes that one Read or Write carries (the NBD protocol's usual maximum).
// Trim and Zero may be longer: a device splits them (rule 30).
const LenMax = 32 << 20

// Request is one operation on a Device. Its life: the frontend fills the first block of fields and submits it;
// the device owns it until it calls By.Complete, exactly once, with Err set; then the frontend owns it again
// and may use it anew.
type Request struct {
	Op    Op
	Flags Flags
	Off   int64   // bytes from the start of the device
	Len   int64   // bytes; 0 for Flush
	Buf   *Buffer // Write: the payload; Read: where the content goes; nil otherwise. len(Buf.Bytes) == Len
	By    Completer
	Err   error     // set by the device before Complete
	Until time.Time // a change that has not begun by then never does, and ends with ErrLate; zero: whenever

	Cookie uint64 // the frontend's own
	Tag    any    // the frontend's own

	// Owned by the device while it has the request.
	Began  time.Duration // when it was submitted, by the device's own clock
	Number uint64        // of the volume's sequence (writes), or the number a flush waits for
	Local  bool          // local part is done
	Sum    uint32        // checksum of the payload
	Next   *Request      // in the device's queues
}

// Completer receives requests that are done. Complete must not block and must not submit.
//
// Batches: a device that completes requests outside of Submit calls Complete for each and then Flush once for
// every Completer it completed something for. What it completes within Submit is not followed by Flush: the
// submitter flushes when Submit returns.
type Completer interface {
	Complete(*Request)
	Flush()
}

// Device is a range of bytes that can be read and written. All methods may be called concurrently.
type Device interface {
	// Size in bytes; never changes while the device is open.
	Size() int64
	// Submit starts the requests, in this order as far as they overlap, and may block while the device holds
	// writes back (limits, a hand-over). Every request is completed exactly once, perhaps before Submit returns.
	// Requests are checked already: inside the device, Len > 0 but for Flush, Len <= LenMax for Read and Write.
	// The slice is the caller's again when Submit returns.
	Submit(batch []*Request)
	// Extents reports allocation from off for at most length bytes, in order, without gaps, at least one extent;
	// it may stop early.
	Extents(off, length int64) ([]Extent, error)
}

// Extent is a part of a device that is alike.
type Extent struct {
	Len  int64 // bytes
	Hole bool  // nothing is stored: reads as zero
	Zero bool  // reads as zero
}

// Errors of devices. Frontends translate them; anything else is an I/O error.
var (
	ErrShutdown = fmt.Errorf("the volume is no longer served here: look for its source")
	ErrLate     = fmt.Errorf("it has not begun within its time limit, and never will")
	ErrNoSpace  = fmt.Errorf("no space left under the volume")
	ErrReadOnly = fmt.Errorf("read-only")
)

// Check returns nil if the request lies inside a device of that size and within the limits, and otherwise what is wrong with it.
func (r *Request) Check(size int64) error {
	if r.Op == Flush {
		return nil
	}
	if r.Off < 0 || r.Len <= 0 || r.Off > size || r.Len > size-r.Off {
		return fmt.Errorf("%s of %d bytes at %d is outside of the device of %d bytes", r.Op, r.Len, r.Off, size)
	}
	if (r.Op == Read || r.Op == Write) && r.Len > LenMax {
		return fmt.Errorf("%s of %d bytes is longer than %d", r.Op, r.Len, LenMax)
	}
	return nil
}
