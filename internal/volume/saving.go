package volume

import (
	"fmt"

	"keelson/internal/block"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/undo"
	"keelson/internal/wire"
)

// A batch of changes is saved with one sync and then applied, in order.
const (
	batchFramesMax = 64
	batchBytesMax  = 8 << 20 // also the buffer for old content
)

// saving is what a session does before a region changes.
type saving uint8

const (
	saveNothing saving = iota // in step, or the replica never held anything that somebody was told is safe
	saveAll                   // every region's first change since the anchor (rule 26)
	saveForeign               // the anchor was given up: what has to go to a salvage (rule 28)
)

// waitingFrame is a change that waits for others.
type waitingFrame struct {
	h    wire.Header
	body *block.Buffer
}

// saver saves what regions were before a session changes them. It belongs to the session's goroutine.
type saver struct {
	mode   saving
	batch  []waitingFrame
	bytes  int64 // of the changes in batch
	images []undo.Image
	queued map[int64]struct{} // regions of images
	old    []byte             // content of images
	used   int
	ahead  dataAhead
}

// changesRegions reports whether a frame does.
func changesRegions(t wire.Type) bool {
	return t == wire.TypeWrite || t == wire.TypeZero || t == wire.TypeCopy || t == wire.TypeCopyZero
}

// take applies a frame, at once or with those that follow at hand. The body is released.
func (s *session) take(h wire.Header, body *block.Buffer) error {
	if s.saver.mode == saveNothing || !changesRegions(h.Type) {
		err := s.applyBatch()
		if err == nil {
			err = s.apply(h, body)
		}
		body.Release()
		return err
	}
	s.saver.batch = append(s.saver.batch, waitingFrame{h, body})
	s.saver.bytes += int64(h.Body)
	if len(s.saver.batch) < batchFramesMax && s.saver.bytes < batchBytesMax && s.stream.Buffered() {
		return nil
	}
	return s.applyBatch()
}

// applyBatch saves what the waiting changes overwrite, durably, and then applies them.
func (s *session) applyBatch() error {
	if len(s.saver.batch) == 0 {
		return nil
	}
	defer s.forgetBatch()
	if !s.v.omits(omitSaveFirst) {
		if err := s.saveBatch(); err != nil {
			return err
		}
		s.v.crash("target-saved")
	}
	if err := s.heatBatch(); err != nil {
		return err
	}
	for _, w := range s.saver.batch {
		if err := s.apply(w.h, w.body); err != nil {
			return err
		}
	}
	if s.v.omits(omitSaveFirst) {
		return s.saveBatch()
	}
	return nil
}

// forgetBatch gives its buffers back.
func (s *session) forgetBatch() {
	for i := range s.saver.batch {
		s.saver.batch[i].body.Release()
		s.saver.batch[i] = waitingFrame{}
	}
	s.saver.batch, s.saver.bytes = s.saver.batch[:0], 0
}

// heatBatch makes the extents of the batch hot with one sync.
func (s *session) heatBatch() error {
	v := s.v
	s.marks = s.marks[:0]
	for _, w := range s.saver.batch {
		off, length, err := s.span(w.h)
		if err != nil {
			return err
		}
		for e := off >> v.extent; e <= (off+length-1)>>v.extent; e++ {
			if !v.log.IsHot(e) {
				s.marks = append(s.marks, e)
			}
		}
	}
	if len(s.marks) == 0 {
		return nil
	}
	for e := s.marks[len(s.marks)-1] + 1; len(s.marks) < hotAhead && e<<v.extent < v.size; e++ {
		s.marks = append(s.marks, e)
	}
	return v.markHot(s.marks)
}

// saveBatch saves the regions that the batch changes, where that has to be.
func (s *session) saveBatch() error {
	v := s.v
	for _, w := range s.saver.batch {
		if stream := w.h.Type == wire.TypeWrite || w.h.Type == wire.TypeZero; stream && v.omits(omitStreamSaves) {
			continue
		}
		off, length, err := s.span(w.h)
		if err != nil {
			return err
		}
		for r := off >> v.region; r <= (off+length-1)>>v.region; r++ {
			if err := s.saveRegion(r); err != nil {
				return err
			}
		}
	}
	return s.saveImages()
}

// saveRegion puts the region's image to the others, if it has to be saved and is not.
func (s *session) saveRegion(r int64) error {
	v, k := s.v, &s.saver
	log := v.undo.log.Load()
	if log != nil && log.Has(r) {
		return nil
	}
	if _, queued := k.queued[r]; queued {
		return nil
	}
	i := v.versionOf(r)
	if k.mode == saveForeign && v.inLineage(&i, s.source) {
		return nil
	}
	off := r << v.region
	length := int(min(int64(1)<<v.region, v.size-off))
	if k.old == nil {
		k.old = make([]byte, max(min(batchBytesMax, v.size), 1<<v.region))
		k.queued = map[int64]struct{}{}
	}
	if k.used+length > len(k.old) {
		if err := s.saveImages(); err != nil {
			return err
		}
		if k.mode == saveForeign && v.inLineage(&i, s.source) { // the anchor was given up meanwhile
			return nil
		}
	}
	i.Data = k.old[k.used:][:length:length]
	if i.Zero = !i.Unknown && i.Gen == lineage.ZeroGen; !i.Zero {
		var err error
		if i.Zero, err = v.content(&k.ahead, off, i.Data); err != nil {
			return v.targetFailed(err)
		}
	}
	if i.Zero {
		i.Data = nil
	}
	k.used += len(i.Data)
	k.images = append(k.images, i)
	k.queued[r] = struct{}{}
	return nil
}

// versionOf is an image of the region without its content.
func (v *Volume) versionOf(r int64) undo.Image {
	version := v.log.Version(r)
	if version == lineage.Unknown {
		return undo.Image{Region: r, Unknown: true}
	}
	return undo.Image{Region: r, Gen: v.log.GenByIndex(version.Index()), Number: version.Number()}
}

// inLineage reports that the image need not be kept: it is of a write that the source has (rule 28).
func (v *Volume) inLineage(i *undo.Image, source lineageAt) bool {
	if i.Unknown {
		return source.followed || v.omits(omitSalvageUnknown)
	}
	if v.omits(omitLineage) {
		return i.Number <= source.at.Number
	}
	return lineage.InLineage(i.Gen, i.Number, source.history, source.at)
}

// saveImages makes the collected images durable. Where there is no room, the way back is given up; what has to be kept
// goes to the salvage; without room for that the resync stops (rule 28).
func (s *session) saveImages() error {
	v, k := s.v, &s.saver
	defer func() {
		clear(k.queued)
		k.images, k.used = k.images[:0], 0
	}()
	if len(k.images) == 0 {
		return nil
	}
	err := s.saveInto()
	if noRoom(err) && k.mode == saveAll {
		if err = s.giveUp(err); err != nil {
			return err
		}
		if err = s.saveInto(); err == nil {
			return nil
		}
	}
	if log := v.undo.log.Load(); noRoom(err) && log != nil && log.Regions() > 0 {
		if err := v.spill(s.source, s.reason()); err != nil {
			return err
		}
		err = s.saveInto()
	}
	if noRoom(err) {
		return v.salvageFull(err)
	}
	return err
}

// saveInto saves the images that the mode asks for.
func (s *session) saveInto() error {
	v, k := s.v, &s.saver
	if k.mode == saveForeign {
		keep := k.images[:0]
		for _, i := range k.images {
			if !v.inLineage(&i, s.source) {
				keep = append(keep, i)
			}
		}
		if k.images = keep; len(keep) == 0 {
			return nil
		}
	}
	log, err := v.undoLog()
	if err != nil {
		return err
	}
	if log.Anchor() == nil { // only in saveForeign: no anchor to go back to, but a name for the images
		note := noteOf(v.log.Header())
		a := undo.Anchor{ID: undo.NewID(), History: note.History, Position: note.Position, Time: v.now(), Reason: "what is to be kept of a resync without a way back"}
		if err := v.beginUndo(log, a); err != nil {
			return err
		}
	}
	end := v.watch.noting()
	err = log.Save(k.images)
	if end(); err != nil {
		return v.undoError(err)
	}
	v.undo.mu.Lock()
	defer v.undo.mu.Unlock()
	v.undo.tally.add(k.images)
	return nil
}

// giveUp gives the anchor up, since the undo log has no room: what has to be kept of it goes to the salvage first.
func (s *session) giveUp(why error) error {
	v := s.v
	if err := v.salvageImages(s.source, s.reason()); err != nil {
		return err
	}
	v.crash("target-gives-up")
	if err := v.noWayBack(v.log.Header(), why.Error()); err != nil {
		return v.logError(err)
	}
	s.saver.mode = saveForeign
	return v.dropUndo(v.undo.log.Load())
}

// spill empties a log that only has what is to be kept into a salvage.
func (v *Volume) spill(source lineageAt, reason string) error {
	if err := v.salvageImages(source, reason); err != nil {
		return err
	}
	return v.dropUndo(v.undo.log.Load())
}

// reason is what a salvage of this session's resync says.
func (s *session) reason() string {
	return fmt.Sprintf("resync from %s in term %s", s.from, s.source.history.Last().Term)
}

// beginResync sets the anchor, and notes durably that something may come out of order: history and position go back
// to where this replica agrees with the source, before the first of it is written (rules 11 and 12).
func (s *session) beginResync() error {
	v := s.v
	h := v.log.Header()
	if v.omits(omitFreeze) {
		return s.adoptAtOnce()
	}
	agreed, kept := s.agreed, s.kept
	if v.omits(omitCutBack) {
		agreed, kept = v.Own().Position, h.History
	}
	var note anchorNote
	switch {
	case h.Consistent == consistentYes && (len(h.History) == 0 || v.omits(omitUndo)): // it never followed anybody: nobody was told anything
		h.Consistent = consistentNo
	case h.Consistent == consistentYes:
		a, err := v.setAnchor(s.reason())
		if noRoom(err) {
			note = anchorNote{GaveUp: err.Error(), History: h.History, Position: v.Own().Position}
			h.Consistent = consistentNo
			break
		}
		if err != nil {
			return err
		}
		v.crash("target-anchored")
		note.ID = a.ID
		h.Consistent = consistentRolling
	default: // an interrupted resync goes on
		source := s.source
		source.followed = source.followed || s.tenure != lineage.GenID{} && s.tenure == noteOf(h).Tenure
		if err := v.salvageArrived(source, s.reason()); err != nil {
			return err
		}
		agreed, kept = v.AgreedWith(s.source.history, s.source.at)
		h = v.log.Header() // an undo log that is gone changes it
		note = noteOf(h)
	}
	note.Tenure = s.tenure
	v.ckptMu.Lock() // a checkpoint that knew the old position must not save it after this
	defer v.ckptMu.Unlock()
	err := v.log.Save(func(d *intentlog.Header) {
		d.Consistent, d.History, d.Position, d.Anchor = h.Consistent, kept, agreed, note.encode()
	})
	if err == nil && agreed != v.log.Floor() {
		err = v.log.ResetFloor(agreed)
	}
	if err != nil {
		return v.logError(err)
	}
	v.mu.Lock()
	v.position = agreed
	v.undo.reason = note.GaveUp
	v.mu.Unlock()
	return nil
}

// resume decides what a session saves: it may have begun a resync, or have found one that was interrupted.
func (s *session) resume() error {
	v := s.v
	h := v.log.Header()
	if v.omits(omitUndo) {
		return nil
	}
	if h.Consistent != consistentYes {
		if _, err := v.undoLog(); err != nil { // it had failed, or a resync without a way back goes on
			return err
		}
		h = v.log.Header()
	}
	switch {
	case v.anchor(h) != nil:
		s.saver.mode = saveAll
	case h.Consistent == consistentRolling:
		if err := v.noWayBack(h, "the undo log is gone"); err != nil {
			return v.logError(err)
		}
		s.saver.mode = saveForeign
	case h.Consistent == consistentNo && (noteOf(h).GaveUp != "" || len(h.History) > 0):
		s.saver.mode = saveForeign
	case h.Consistent == consistentNo && !v.omits(omitSalvageArrived) && v.holdsOfAnother(s.source):
		s.saver.mode, s.source.followed = saveForeign, true // what is unknown was there before
	}
	return nil
}

// holdsOfAnother reports whether a replica that never held anything whole has something that an interrupted resync from another line than
// that source's has brought, or had, before this source overwrote it: what was answered there may be nowhere else by now (rule 28).
func (v *Volume) holdsOfAnother(source lineageAt) bool {
	if v.undo.log.Load().Anchor() != nil {
		return true
	}
	source.followed = true
	for r := range v.regions {
		if now := v.versionOf(r); !v.inLineage(&now, source) {
			return true
		}
	}
	return false
}
