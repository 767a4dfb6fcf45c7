// Package volume is the data path of one replica: a block.Device upward, a disk, an intent log and streams downward.
//
// A write's way at the source: Submit -> range free? hot? number, versions, one frame for each stream (all under mu) ->
// the streams are flushed -> the local disk -> answered when the condition of the mode holds (answer.go). At a target:
// apply.go reads one ordered stream and writes to the disk in that order. The same intent log serves both.
//
// While a resync runs a target can be brought back to what it was (undo.go, saving.go, rollback.go), and what it gives up that
// the source never had is kept (salvage.go). Order of durability at a target, stated once: a checkpoint, the anchor, the
// header that says rolling; each region's image before it is overwritten; at the end the salvages, the header that
// adopts, and then the undo log is dropped.
//
// The package decides nothing about roles, members or sessions: it tells what happened as events of package mirror
// and is told what to do by its methods. It knows nothing of sockets: a Stream is whatever carries frames in order.
//
// Locks: mu guards the sequence, the ranges in flight, what waits for answers, links and their sets of regions. The
// intent log has a lock of its own and is called with mu held (Hot, SetVersions, Version); what is slow (MarkHot,
// Save, Checkpoint, disk and stream I/O) is called without it.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"keelson/internal/block"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
	"keelson/internal/wire"
)

// Stream carries frames in order to one peer and from it (peer.Conn; a pipe in tests).
type Stream interface {
	// Read returns the next frame; the body's one owner is the caller.
	Read() (wire.Header, *block.Buffer, error)
	// Buffered reports that another frame is at hand without waiting.
	Buffered() bool
	// Queue appends a frame with its body (retained until sent) or small (copied). Never blocks; drops after an error.
	Queue(h wire.Header, body *block.Buffer, small []byte)
	// TryFlush sends what can be sent without waiting; the rest follows by itself.
	TryFlush()
	QueuedBytes() int64
	WaitRoom(ctx context.Context, below int64) error
	SetRate(bytesPerSecond int64)
	Sent() int64
	Close(reason error) error
	Done() <-chan struct{}
	Err() error
}

// Limits bound what a volume holds and how long it waits.
type Limits struct {
	DiskStall       time.Duration // what the disk has not finished for so long is reported; 0: never
	CopiesWait      time.Duration // how long a write waits for as many copies as it needs before it fails
	SyncTimeout     time.Duration // a sync target that acknowledges nothing for so long while something waits for it is dropped
	AsyncStall      time.Duration // how long writers wait for room in an async target's full queue before it is dropped
	QueueBytesMax   int64         // of frames waiting for one target's socket, unless the mirror has its own limit
	CheckpointEvery time.Duration
	HotExtentsMax   int   // a checkpoint begins at three quarters of it
	ProbesMax       int   // regions whose digests are on their way in one resync
	CopyQueueBytes  int64 // a resync adds nothing while so much waits for the socket

	UndoBytesMax     int64         // of the undo log; 0: a quarter of the volume, at least 256 MiB and at most 16 GiB
	SalvageBytesMax  int64         // of all salvages; 0: the same
	SalvageRetention time.Duration // after which a salvage is deleted; 0: never
}

// DefaultLimits are used where the configuration says nothing.
var DefaultLimits = Limits{
	DiskStall: 30 * time.Second, CopiesWait: 30 * time.Second,
	SyncTimeout: 10 * time.Second, AsyncStall: time.Second, QueueBytesMax: 64 << 20,
	CheckpointEvery: 10 * time.Second, HotExtentsMax: 4096, ProbesMax: 256, CopyQueueBytes: 4 << 20,
	SalvageRetention: 30 * 24 * time.Hour,
}

// Options make a Volume.
type Options struct {
	FS     vfs.FS
	Dir    string // of the intent log; DIR/undo and DIR/salvage have the undo log and the salvages
	Limits Limits
	Post   func(mirror.Event) // must not block and must not call back
	// Owner, if set, refuses a log that is somebody else's, before anything of the replica is changed.
	Owner func(intentlog.Header) error
	Log   *slog.Logger
	Crash func(point string) // test hook: may kill the process; nil for none
	omit  omission           // tests only, as is

	omitLog string
}

// Volume is one replica, open. Its life: Open -> (Serve as target, any number of sessions | BecomeSource, OpenDevice,
// links) in turns -> Close.
type Volume struct {
	name    string
	self    string
	path    string
	size    int64
	region  uint // log2 of bytes
	extent  uint // log2 of bytes
	regions int64
	disk    vfs.File
	nowait  nowaiter // nil if the disk has none
	log     *intentlog.Log
	o       Options

	mu       sync.Mutex
	freed    sync.Cond // a range, a hold, an in-flight count or a state changed
	reserved uint64    // numbers up to this may be used (rule 10), as the log has it durably
	number   uint64    // the last number used (source) or applied (target)
	gen      lineage.Generation
	index    uint16 // of gen in the log's table; 0: the generation of this tenure has not begun
	active   []span // local writes in flight, and ranges locked by a resync
	epoch    int    // parity: which of inflight counts new writes
	landings uint64 // changes that ended, as target
	flight   [2]int // local writes in flight by parity of the checkpoint epoch in which they began

	serving  bool
	ended    error // while it does not serve: what requests have got since CloseDevice; nil before
	held     bool
	failed   error                   // the first error of the disk; see elsewhere.go for a source's
	unnoted  bool                    // ... which is not in the log yet
	late     bool                    // CloseDevice did not wait for all that the disk has
	there    elsewhere               // whom a source with a failed disk serves from
	copies   int                     // that have to hold a write before it is answered (rule 18); 0 and 1: this one
	shortAt  time.Time               // since when something waits for more copies; zero: it does not
	short    bool                    // it waited for too long: until there are enough copies changes are refused
	links    []*link                 // copy on write: a snapshot may be used without mu
	shown    atomic.Pointer[[]*link] // the same, for whoever does not hold mu
	required []string

	waiting  queue // writes that are not answered, by number
	flushes  queue // flushes and FUA writes that are not answered
	answered uint64
	floored  uint64 // number up to which everything is durable here, as SetFloor noted it
	flooring uint64 // ... or is about to
	flushTo  uint64 // the greatest number that a flush waits for
	waits    bool   // AnswersWait was posted for what waits now

	undo    undoing
	views   []*CopyView // of this copy while it stands still
	opening bool        // OpenDevice ends them: there are no new ones

	session  *session // incoming
	position lineage.Position
	inStep   bool // as target

	wake     chan struct{} // flusher
	wantCkpt chan struct{}
	stop     chan struct{}
	done     sync.WaitGroup
	readers  chan int    // free slots for reads that wait for the disk
	ckptMu   turn        // one checkpoint at a time
	genMu    turn        // one generation begins at a time
	changed  atomic.Bool // since the last checkpoint
	watch    watch
	stats    stats
	latency  [block.Flush + 1]histogram // by operation
	opened   time.Time
	resyncs  map[string]ResyncStatus // by target, the newest that compared or moved anything
}

// span is a range of bytes that nobody else may write: [off, end).
type span struct {
	off, end int64
	number   uint64 // of the write; 0: a lock
}

// turn is a lock that is held while the disk works. It is a channel, so that in the simulator's time those who wait for
// it are seen to wait.
type turn chan struct{}

func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

type nowaiter interface {
	ReadNowait(p []byte, off int64) (int, bool, error)
}

type stats struct {
	reads, writes, flushes, readBytes, writeBytes, checkpoints, hotMisses, diskErrors atomic.Int64
}

// New is how a replica comes to be on this server.
type New struct {
	Header    intentlog.Header // identity, standing; sizes may be 0 (then: from the backing store, defaults)
	Path      string
	SizeBytes int64 // 0: that of the existing file or device
	Exact     bool  // refuse a file that exists already and is smaller than SizeBytes instead of asking for more
}

// regionBytesFor keeps the map under 128 MiB (8 bytes a region), from 64 KiB up.
func regionBytesFor(size int64) int64 {
	region := int64(64 << 10)
	for (size+region-1)/region > 16<<20 {
		region *= 2
	}
	return region
}

// extentBytesFor gives at most 64 Ki extents, of 1 to 4 MiB, and never less than a region.
func extentBytesFor(size, region int64) int64 {
	extent := int64(1 << 20)
	for extent < 4<<20 && size/extent > 64<<10 {
		extent *= 2
	}
	return max(extent, region)
}

// Create makes a replica: the backing file if there is none (zeroes, so every region is known), and the intent log.
// Nothing is left behind when it fails. Returns the header as saved.
func Create(o Options, n New) (intentlog.Header, error) {
	h := n.Header
	object := fmt.Sprintf("volume %s: %s", h.Name, n.Path)
	initial, made := lineage.Unknown, false
	disk, err := o.FS.Open(n.Path, vfs.Lock)
	if errors.Is(err, errNotExist) {
		if n.SizeBytes == 0 {
			return h, fmt.Errorf("%s does not exist; create it, or give --size so that it is made", object)
		}
		disk, err = o.FS.Open(n.Path, vfs.Lock|vfs.Create|vfs.Exclusive)
		initial, made = lineage.ZeroVersion, true
	}
	if err != nil {
		return h, err
	}
	defer disk.Close()
	undo := func(err error) (intentlog.Header, error) {
		if made {
			err = errors.Join(err, o.FS.Remove(n.Path))
		}
		return h, err
	}
	if made {
		if err := disk.Truncate(n.SizeBytes); err != nil {
			return undo(err)
		}
		if err := disk.Datasync(); err != nil {
			return undo(err)
		}
		if err := o.FS.SyncDir(filepath.Dir(n.Path)); err != nil {
			return undo(err)
		}
	}
	have, err := disk.Size()
	if err != nil {
		return undo(err)
	}
	h.SizeBytes = n.SizeBytes
	if h.SizeBytes == 0 {
		h.SizeBytes = have
	}
	switch {
	case h.SizeBytes <= 0 || h.SizeBytes%512 != 0:
		return undo(fmt.Errorf("%s: a volume of %d bytes is not possible: the size must be a multiple of 512; give --size", object, h.SizeBytes))
	case have < h.SizeBytes:
		return undo(fmt.Errorf("%s has %d bytes, the volume needs %d; use a larger file or device", object, have, h.SizeBytes))
	}
	if h.RegionBytes == 0 {
		h.RegionBytes = regionBytesFor(h.SizeBytes)
	}
	h.ExtentBytes = extentBytesFor(h.SizeBytes, h.RegionBytes)
	id, err := disk.Identity()
	if err != nil {
		return undo(err)
	}
	h.Backing = intentlog.Backing{Path: n.Path, Identity: id}
	h.Consistent = consistentYes
	log, err := intentlog.Create(o.FS, o.Dir, h, initial, intentlog.Options{HotExtentsMax: o.Limits.HotExtentsMax})
	if err != nil {
		return undo(err)
	}
	h = log.Header()
	return h, log.Close()
}

// Open opens the replica whose log is in o.Dir: exclusively, verified; what is not known after the last stop is unknown.
// The volume serves nobody until it is told to.
func Open(o Options) (*Volume, error) {
	lo := intentlog.Options{HotExtentsMax: o.Limits.HotExtentsMax}
	lo.Omit(o.omitLog)
	log, err := intentlog.Open(o.FS, o.Dir, lo)
	if err != nil {
		return nil, err
	}
	h := log.Header()
	if o.Owner != nil {
		if err := o.Owner(h); err != nil {
			return nil, errors.Join(err, log.Close())
		}
	}
	disk, err := openBacking(o, log, h)
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	v := &Volume{
		name: h.Name, self: h.Node, path: h.Backing.Path, size: h.SizeBytes, disk: disk, log: log, o: o,
		region: uint(bits.TrailingZeros64(uint64(h.RegionBytes))), extent: uint(bits.TrailingZeros64(uint64(h.ExtentBytes))),
		regions: log.Regions(), wake: make(chan struct{}, 1), wantCkpt: make(chan struct{}, 1), stop: make(chan struct{}),
		readers: make(chan int, readersMax), ckptMu: make(turn, 1), genMu: make(turn, 1), opened: time.Now(),
	}
	for slot := range readersMax {
		v.readers <- slot
	}
	v.freed.L = &v.mu
	v.nowait, _ = disk.(nowaiter)
	v.position = log.Floor()
	v.number, v.reserved = v.position.Number, log.Reserved()
	v.gen = h.History.Last()
	if h.Failed != "" {
		v.failed = failedBefore(h)
	}
	if err := v.openUndo(); err != nil {
		return nil, errors.Join(err, v.closeUndo(), disk.Close(), log.Close())
	}
	v.done.Add(3)
	go v.flusher()
	go v.keeper()
	go v.checkpointer()
	return v, nil
}

func failedBefore(h intentlog.Header) error {
	return fmt.Errorf("volume %s: the disk under %s failed earlier: %s; replace it, remove the mirror to this server and add it again", h.Name, h.Backing.Path, h.Failed)
}

// Size of the volume in bytes.
func (v *Volume) Size() int64 { return v.size }

// Header is what the log holds.
func (v *Volume) Header() intentlog.Header { return v.log.Header() }

// SaveStanding makes the standing durable.
func (v *Volume) SaveStanding(s lineage.Standing) error {
	return v.log.Save(func(h *intentlog.Header) { h.Standing = s })
}

// Own is what the data path knows of this replica. While a resync can be rolled back, history and position are the
// anchor's (rule 12).
func (v *Volume) Own() mirror.Own {
	h := v.log.Header()
	v.mu.Lock()
	defer v.mu.Unlock()
	own := mirror.Own{History: h.History, Position: h.Position, Floor: v.log.Floor(), Consistent: h.Consistent, Reserved: v.reserved, Unknown: v.log.UnknownRegions() > 0, Failed: v.failed != nil, Foreign: begunAnew(h)}
	if h.Consistent == consistentYes {
		own.Position = v.at()
	} else if a := v.anchor(h); a != nil {
		own.History, own.Position, own.Floor = a.History, a.Position, a.Position // a checkpoint
	}
	return own
}

// at is the position now. mu is held.
func (v *Volume) at() lineage.Position {
	if v.index != 0 || v.inStep {
		return lineage.Position{Gen: v.gen.ID, Number: v.number}
	}
	return v.position
}

func (v *Volume) crash(point string) {
	if v.o.Crash != nil {
		v.o.Crash(point)
	}
}
