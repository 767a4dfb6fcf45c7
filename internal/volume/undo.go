package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/undo"
	"keelson/internal/vfs"
)

// What Header.Consistent says.
const (
	consistentYes     = "yes"
	consistentRolling = "rolling" // a resync runs, and the undo log can bring the anchor back
	consistentNo      = "no"      // a resync runs, and there is no way back
)

// undoing is the undo log and the salvages of a replica. Both are opened when they are first needed.
//
// States, by Header.Consistent: yes: what the log holds is void. rolling: the log holds the anchor of Header.Anchor. no: the
// anchor was given up (or the replica never held anything that somebody was told is safe); the log then holds only
// content that has to go to a salvage.
type undoing struct {
	mu    sync.Mutex // over opening, closing and tally
	log   atomic.Pointer[undo.Log]
	store atomic.Pointer[undo.Store]
	stale bool  // the log failed: it is opened anew before it is used
	tally tally // of the log's images

	overdue map[string]time.Time // salvages whose time is over, and since when that is seen. Guarded by mu, and never changed in place

	busy   bool   // a rollback runs: no session may begin. Guarded by Volume.mu
	reason string // why the way back was given up, or the last resync stopped. Guarded by Volume.mu
	gaveUp atomic.Int64
}

// anchorNote is Header.Anchor.
type anchorNote struct {
	ID     string `json:"id,omitempty"`      // of the anchor, while rolling
	GaveUp string `json:"gave_up,omitempty"` // why there is none, while "no"
	// What the replica had before: with GaveUp, for its salvages.
	History  lineage.History  `json:"history,omitempty"`
	Position lineage.Position `json:"position,omitzero"`
	// Tenure is the generation in which the source of the last session of the resync was: what has arrived is from it, or was kept.
	Tenure lineage.GenID `json:"tenure,omitzero"`
}

func noteOf(h intentlog.Header) (n anchorNote) {
	if len(h.Anchor) > 0 {
		_ = json.Unmarshal(h.Anchor, &n) // not JSON: no anchor
	}
	return n
}

func (n anchorNote) encode() json.RawMessage {
	text, err := json.Marshal(n)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return text
}

// omission is a protection that a test leaves out, to show that its checks notice.
type omission uint

const (
	omitStreamSaves     omission = 1 << iota // writes of the stream are saved like copies
	omitSaveFirst                            // an image is durable before the overwrite is issued
	omitAdoptFirst                           // the log is dropped after history and position were adopted
	omitSalvageUnknown                       // a region of unknown version is salvaged
	omitSalvageRollback                      // what a rollback overwrites is salvaged
	omitUndo                                 // everything (to measure what it costs)
)

func (v *Volume) omits(o omission) bool { return v.o.omit&o != 0 }

// Limits of undo log and salvages that are not set: a quarter of the volume, within these bounds.
const (
	undoBytesLeast = 256 << 20
	undoBytesMost  = 16 << 30
)

func quarter(limit, size int64) int64 {
	if limit > 0 {
		return limit
	}
	return min(max(size/4, undoBytesLeast), undoBytesMost)
}

// KeepBytes is the room that undo log and salvages of a volume of that size may take.
func (l Limits) KeepBytes(size int64) int64 {
	return quarter(l.UndoBytesMax, size) + quarter(l.SalvageBytesMax, size)
}

func (v *Volume) undoDir() string    { return filepath.Join(v.o.Dir, "undo") }
func (v *Volume) salvageDir() string { return filepath.Join(v.o.Dir, "salvage") }

// exists reports whether a file is there.
func (v *Volume) exists(path string) bool {
	_, err := v.o.FS.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// openUndo takes what an earlier run left, before anything else happens to the replica: a rollback is repeated, a log that
// nothing needs is emptied, and a way back that is gone is noted.
func (v *Volume) openUndo() error {
	if v.exists(filepath.Join(v.salvageDir(), "lock")) {
		if _, err := v.salvages(); err != nil {
			v.o.Log.Error("the salvages cannot be used", "volume", v.name, "err", err)
		}
	}
	h := v.log.Header()
	if v.exists(filepath.Join(v.undoDir(), "images")) {
		if _, err := v.undoLog(); err != nil {
			return err
		}
		h = v.log.Header() // a damaged log was put aside
	}
	log := v.undo.log.Load()
	switch {
	case h.Consistent == consistentYes && log != nil:
		return v.dropUndo(log) // of a resync that has ended, or had not begun
	case h.Consistent == consistentYes:
		return nil
	case h.Consistent == consistentRolling && v.anchor(h) == nil:
		if err := v.noWayBack(h, "the undo log is gone"); err != nil {
			return err
		}
	}
	if err := v.settleFloor(); err != nil {
		return err
	}
	v.undo.reason = noteOf(h).GaveUp
	if err := v.finishRollback(); err != nil {
		v.o.Log.Error("a rollback cannot be finished yet", "volume", v.name, "err", err)
	}
	return nil
}

// settleFloor makes the floor what the header says while a resync runs: the cut of rule 12 is two writes.
func (v *Volume) settleFloor() error {
	h := v.log.Header()
	v.position = h.Position
	if v.log.Floor() != h.Position {
		return v.log.ResetFloor(h.Position)
	}
	return nil
}

// undoLog opens the log if it is not open. One that is damaged is put aside, and with it the way back.
func (v *Volume) undoLog() (*undo.Log, error) {
	v.undo.mu.Lock()
	defer v.undo.mu.Unlock()
	log := v.undo.log.Load()
	if log != nil && !v.undo.stale {
		return log, nil
	}
	if log != nil {
		_ = log.Close() // it failed: what counts is what is on the disk
	}
	h := v.log.Header()
	o := undo.Options{BytesMax: quarter(v.o.Limits.UndoBytesMax, v.size), RegionBytes: h.RegionBytes}
	log, err := undo.Open(v.o.FS, v.undoDir(), o)
	var bad *undo.CorruptError
	if errors.As(err, &bad) && !bad.Newer {
		if err := v.putAside(h, bad); err != nil {
			return nil, err
		}
		log, err = undo.Open(v.o.FS, v.undoDir(), o)
	}
	if err != nil {
		return nil, v.undoError(err)
	}
	v.undo.tally = tally{complete: log.Anchor() == nil}
	v.undo.stale = false
	v.undo.log.Store(log)
	return log, nil
}

// putAside keeps the files of a damaged log for people to look at. Without its way back the replica is inconsistent first.
func (v *Volume) putAside(h intentlog.Header, bad *undo.CorruptError) error {
	v.o.Log.Error("the undo log is damaged; it is put aside, and there is no way back to before the resync", "volume", v.name, "err", bad)
	if h.Consistent == consistentRolling {
		if err := v.noWayBack(h, bad.Error()); err != nil {
			return err
		}
	}
	for _, name := range []string{"anchor", "images"} {
		path := filepath.Join(v.undoDir(), name)
		if err := v.o.FS.Rename(path, path+".damaged"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return v.o.FS.SyncDir(v.undoDir())
}

// noWayBack notes durably that the anchor is given up: what is inconsistent is never promotable (rule 11).
func (v *Volume) noWayBack(h intentlog.Header, why string) error {
	note := anchorNote{GaveUp: why, History: h.History, Position: h.Position, Tenure: noteOf(h).Tenure}
	if a := v.anchor(h); a != nil {
		note.History, note.Position = a.History, a.Position
	}
	if err := v.log.Save(func(h *intentlog.Header) { h.Consistent, h.Anchor = consistentNo, note.encode() }); err != nil {
		return err
	}
	v.undo.gaveUp.Add(1)
	v.setUndoReason(why)
	v.o.Log.Warn("the way back to before the resync is given up; the copy cannot be promoted until the resync has ended", "volume", v.name, "why", why)
	return nil
}

func (v *Volume) setUndoReason(why string) {
	v.mu.Lock()
	v.undo.reason = why
	v.mu.Unlock()
}

// anchor is what this replica can be rolled back to, or nil.
func (v *Volume) anchor(h intentlog.Header) *undo.Anchor {
	log := v.undo.log.Load()
	if log == nil || h.Consistent != consistentRolling {
		return nil
	}
	if a := log.Anchor(); a != nil && a.ID == noteOf(h).ID {
		return a
	}
	return nil
}

// Anchor is the consistent state that a resync under way can be rolled back to: with its history, position and record the
// replica answers survivors (rule 12). nil: no resync runs, or there is no way back.
func (v *Volume) Anchor() *undo.Anchor { return v.anchor(v.log.Header()) }

// AgreedWith is where this replica's content agrees with a source of that history and position, and this replica's
// history up to there (rule 12). In mid-resync that is not where its anchor agrees.
func (v *Volume) AgreedWith(history lineage.History, at lineage.Position) (lineage.Position, lineage.History) {
	h := v.log.Header()
	mine := h.Position
	if h.Consistent == consistentYes {
		v.mu.Lock()
		mine = v.at()
		v.mu.Unlock()
	}
	agreed := lineage.CutBack(h.History, mine, history, at)
	return agreed, lineage.CutHistory(h.History, agreed)
}

// setAnchor makes what the replica has now the anchor (rule 26): a checkpoint, then the anchor, both durable.
func (v *Volume) setAnchor(reason string) (*undo.Anchor, error) {
	log, err := v.undoLog()
	if err != nil {
		return nil, err
	}
	if err := v.checkpoint(true, nil); err != nil {
		return nil, err
	}
	if a := log.Anchor(); a != nil && v.omits(omitVoid) {
		return a, nil
	}
	h := v.log.Header()
	v.mu.Lock()
	at := v.at()
	v.mu.Unlock()
	a := undo.Anchor{ID: undo.NewID(), History: h.History, Position: at, Record: h.Record, Time: v.now(), Reason: reason}
	return &a, v.beginUndo(log, a)
}

// beginUndo voids what the log has.
func (v *Volume) beginUndo(log *undo.Log, a undo.Anchor) error {
	err := log.Begin(a)
	v.undo.mu.Lock()
	defer v.undo.mu.Unlock()
	if err == nil {
		v.undo.tally = tally{complete: true}
	}
	return v.undoError(err)
}

// undoError: the first error of the undo log's disk fails the copy, as one of its own disk does (guarantee 9): images of
// which nobody knows whether they are durable can neither be gone back to (rule 26) nor be given up, as they may be all that
// is left of what a salvage has to keep. No room is an error of its own.
func (v *Volume) undoError(err error) error {
	var io *vfs.Error
	onDisk := errors.As(err, &io) && slices.Contains([]string{"read", "write", "sync", "syncdir", "truncate"}, io.Op) && !noRoom(err)
	if onDisk || errors.Is(err, undo.ErrFailed) {
		v.fail(err)
	}
	return err
}

// dropUndo gives the log's space back.
func (v *Volume) dropUndo(log *undo.Log) error {
	if v.omits(omitVoid) {
		return nil
	}
	err := log.Drop()
	v.undo.mu.Lock()
	defer v.undo.mu.Unlock()
	if err == nil {
		v.undo.tally = tally{complete: true}
	} else {
		v.undo.stale = true
	}
	return err
}

// closeUndo gives the files up.
func (v *Volume) closeUndo() error {
	v.undo.mu.Lock()
	defer v.undo.mu.Unlock()
	var err error
	if log := v.undo.log.Load(); log != nil {
		err = log.Close()
	}
	if store := v.undo.store.Load(); store != nil {
		err = errors.Join(err, store.Close())
	}
	return err
}

// tally knows in little space whether any image can be out of a lineage: the greatest number of each generation.
type tally struct {
	complete bool // of all images
	unknown  bool
	most     map[lineage.GenID]uint64
}

func (t *tally) add(images []undo.Image) {
	if t.most == nil {
		t.most = map[lineage.GenID]uint64{}
	}
	for k := range images {
		i := &images[k]
		if i.Unknown {
			t.unknown = true
		} else {
			t.most[i.Gen] = max(t.most[i.Gen], i.Number)
		}
	}
}

// within reports that surely every image is in the lineage.
func (t *tally) within(source lineageAt) bool {
	if !t.complete || t.unknown && !source.followed {
		return false
	}
	for gen, number := range t.most {
		if !lineage.InLineage(gen, number, source.history, source.at) {
			return false
		}
	}
	return true
}

// lineageAt is a source's history and position: what is in it needs no salvage (rule 28).
type lineageAt struct {
	history  lineage.History
	at       lineage.Position
	followed bool // what is unknown here is in it as well (hasFollowed)
}

// hasFollowed reports whether this replica had followed the source in the generation that it still is in. Then all that
// it holds came from that source, which has lost nothing since: what a crash here made unknown needs no salvage. A source that
// was started again, or took over, is in another generation (rule 1).
func (v *Volume) hasFollowed(tenure lineage.GenID) bool {
	h := v.log.Header()
	if _, foreign := h.Extra[extraForeign]; foreign || tenure == (lineage.GenID{}) {
		return false
	}
	history := h.History
	if h.Consistent != consistentYes { // cut back (rule 12): what it was before the resync began counts
		history = noteOf(h).History
		if a := v.anchor(h); a != nil {
			history = a.History
		}
	}
	return history.Last().ID == tenure
}

// Tenure is the generation that this source is in, zero if it has begun none since it became source or was started.
func (v *Volume) Tenure() lineage.GenID {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.index == 0 || !v.serving {
		return lineage.GenID{}
	}
	return v.gen.ID
}

// noRoom reports that a limit, or the disk, is full.
func noRoom(err error) bool { return errors.Is(err, undo.ErrFull) || errors.Is(err, vfs.ErrNoSpace) }

// NoRoom reports that something was refused for lack of room, and no log failed by that: it may succeed when there is some.
func NoRoom(err error) bool {
	return noRoom(err) && !errors.Is(err, intentlog.ErrFailed) && !errors.Is(err, undo.ErrFailed)
}

// Room reports whether the intent log takes a save now; it changes nothing.
func (v *Volume) Room() error { return v.log.Save(func(*intentlog.Header) {}) }

// UndoStatus is how a resync under way could be undone, and what is kept.
type UndoStatus struct {
	State    string // "" (no resync runs) | rolling | given-up | rolling-back | none (the replica never held anything)
	Reason   string // of given-up, or why the last resync stopped
	Bytes    int64  // of the undo log on the disk
	BytesMax int64
	Regions  int64 // saved in it
	GaveUp   int64 // how often the way back was given up since the start

	Salvages        int   // kept
	SalvageBytes    int64 // of them, on the disk
	SalvageBytesMax int64
	RoomBytes       int64 // for more of them
	RoomLow         bool
}

// GaveUp is how often the way back was given up since the start.
func (v *Volume) GaveUp() int64 { return v.undo.gaveUp.Load() }

// UndoStatus is the state now.
func (v *Volume) UndoStatus() UndoStatus {
	h := v.log.Header()
	s := UndoStatus{BytesMax: quarter(v.o.Limits.UndoBytesMax, v.size), GaveUp: v.undo.gaveUp.Load()}
	if log := v.undo.log.Load(); log != nil {
		s.Bytes, s.Regions = log.Bytes(), log.Regions()
		if log.Rolling() {
			s.State = "rolling-back"
		}
	}
	switch {
	case s.State != "" || h.Consistent == consistentYes:
	case h.Consistent == consistentRolling:
		s.State = "rolling"
	case noteOf(h).GaveUp != "":
		s.State = "given-up"
	default:
		s.State = "none"
	}
	s.RoomBytes, s.RoomLow = v.SalvageRoom()
	s.SalvageBytesMax = quarter(v.o.Limits.SalvageBytesMax, v.size)
	if store := v.undo.store.Load(); store != nil {
		s.Salvages, s.SalvageBytes = len(store.List()), store.Bytes()
	}
	v.mu.Lock()
	s.Reason = v.undo.reason
	v.mu.Unlock()
	return s
}

func (v *Volume) noAnchorError() error {
	why := noteOf(v.log.Header()).GaveUp
	if why == "" {
		why = "it never held anything to go back to"
	}
	return fmt.Errorf("volume %s: this copy is in the middle of a resync and has no way back (%s); wait for the end of the resync (%s)", v.name, why, lineage.RuleNotConsistent)
}
