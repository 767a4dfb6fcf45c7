package volume

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zeebo/blake3"

	"keelson/internal/block"
	"keelson/internal/lineage"
	"keelson/internal/undo"
)

// RuleSalvageFull is the rule that a resync stops by when what it would overwrite cannot be kept (rule 28).
const RuleSalvageFull = lineage.RuleSalvageFull

// ErrSalvageFull is in the error of a session, or a rollback, that stopped by RuleSalvageFull.
var ErrSalvageFull = errors.New("there is no room to keep what would be overwritten")

// salvagesOfOne is how many salvages the images of one anchor may make: one, unless sources with different histories take turns.
const salvagesOfOne = 16

func (v *Volume) now() time.Time { return time.Now().UTC() }

func (v *Volume) salvageFull(err error) error {
	err = fmt.Errorf("volume %s: %w: the resync stops until some salvages of this server are exported and deleted, or the limit is raised (%s): %w", v.name, ErrSalvageFull, RuleSalvageFull, err)
	v.setUndoReason(err.Error())
	return &ruledError{RuleSalvageFull, err}
}

// ruledError is an end of a session that the other server learns with its rule.
type ruledError struct {
	rule string
	error
}

// RuleName is the rule.
func (e *ruledError) RuleName() string { return e.rule }

func (e *ruledError) Unwrap() error { return e.error }

// salvages opens the store if it is not open.
func (v *Volume) salvages() (*undo.Store, error) {
	v.undo.mu.Lock()
	defer v.undo.mu.Unlock()
	if store := v.undo.store.Load(); store != nil {
		return store, nil
	}
	store, err := undo.OpenStore(v.o.FS, v.salvageDir(), undo.StoreOptions{BytesMax: quarter(v.o.Limits.SalvageBytesMax, v.size), Retention: v.o.Limits.SalvageRetention})
	if err == nil {
		v.undo.store.Store(store)
	}
	return store, err
}

// salvageID is the id of the k-th salvage of an anchor. Made from the anchor's, so that one that is there already is known.
func salvageID(anchor, use string, k int) string {
	if use == "" && k == 0 {
		return anchor
	}
	sum := blake3.Sum256(binary.LittleEndian.AppendUint32([]byte(anchor+" "+use), uint32(k)))
	return hex.EncodeToString(sum[:16])
}

// find returns the salvage of that id, if it is kept.
func find(store *undo.Store, id string) *undo.Salvage {
	for _, m := range store.List() {
		if m.ID == id {
			return &m
		}
	}
	return nil
}

// salvageImages keeps, durably, every image in the undo log that is not in the source's lineage and that is not what is on
// the disk now (rule 28). Regions that an earlier call kept are not kept again: a crash may have come between.
func (v *Volume) salvageImages(source lineageAt, reason string) error {
	log := v.undo.log.Load()
	if log == nil || log.Anchor() == nil || log.Regions() == 0 {
		return nil
	}
	v.undo.mu.Lock()
	none := v.undo.tally.within(source)
	v.undo.mu.Unlock()
	if none {
		return nil
	}
	store, err := v.salvages()
	if err != nil {
		return err
	}
	a := log.Anchor()
	kept := map[int64]struct{}{}
	id := ""
	for k := 0; k < salvagesOfOne && id == ""; k++ {
		id = salvageID(a.ID, "", k)
		if find(store, id) == nil {
			break
		}
		if err := regionsOf(store, id, kept); err != nil {
			return err
		}
		id = ""
	}
	if id == "" {
		return v.salvageFull(fmt.Errorf("%d salvages were made of one state of this copy", salvagesOfOne))
	}
	meta := v.describe(id, reason, a)
	buf := block.NewBuffer(int(min(int64(1)<<v.region, v.size)))
	defer buf.Release()
	var ahead dataAhead
	saved, err := store.Keep(meta, func(yield func(undo.Image) error) error {
		return log.Each(func(i undo.Image) error {
			if _, done := kept[i.Region]; done || v.inLineage(&i, source) {
				return nil
			}
			if same, _, err := v.isNow(&i, &ahead, buf); same || err != nil {
				return err
			}
			return yield(i)
		})
	})
	return v.kept(saved, err)
}

// salvageArrived keeps, durably, what an interrupted resync had brought and the source that goes on with it has not (rule 28): the undo
// log has what was there before all of them. Content that an earlier call kept is not kept again: a crash may have come between.
func (v *Volume) salvageArrived(source lineageAt, reason string) error {
	if v.omits(omitSalvageArrived) {
		return nil
	}
	log, err := v.undoLog()
	if err != nil {
		return err
	}
	a := log.Anchor()
	if a == nil { // nothing of what had to be kept was overwritten yet
		return nil
	}
	foreign := false
	for r := int64(0); r < v.regions && !foreign; r++ {
		if log.Has(r) {
			now := v.versionOf(r)
			foreign = !v.inLineage(&now, source)
		}
	}
	if !foreign {
		return nil
	}
	store, err := v.salvages()
	if err != nil {
		return err
	}
	var earlier []*undo.View
	regions := map[int64][]*undo.View{} // of earlier
	defer func() {
		for _, view := range earlier {
			_ = view.Close() // it was only read
		}
	}()
	id := salvageID(a.ID, "arrived", 0)
	for k := 1; find(store, id) != nil; k++ {
		if k == salvagesOfOne {
			return v.salvageFull(fmt.Errorf("%d salvages were made of what interrupted resyncs of this copy had brought", salvagesOfOne))
		}
		view, err := store.Open(id)
		if err != nil {
			return err
		}
		earlier = append(earlier, view)
		for r := range view.Regions() {
			regions[r] = append(regions[r], view)
		}
		id = salvageID(a.ID, "arrived", k)
	}
	meta := v.describe(id, reason, a)
	meta.From = "what an interrupted resync from another line had brought"
	buf, was := block.NewBuffer(int(min(int64(1)<<v.region, v.size))), make([]byte, min(int64(1)<<v.region, v.size))
	defer buf.Release()
	var ahead dataAhead
	saved, err := store.Keep(meta, func(yield func(undo.Image) error) error {
		return log.Each(func(i undo.Image) error {
			now := v.versionOf(i.Region)
			if v.inLineage(&now, source) {
				return nil
			}
			same, zero, err := v.isNow(&i, &ahead, buf)
			if same || err != nil {
				return err
			}
			length := min(int64(len(buf.Bytes)), v.size-i.Region<<v.region)
			if zero {
				clear(buf.Bytes[:length])
			}
			for _, view := range regions[i.Region] {
				if _, err := view.ReadAt(was[:length], i.Region<<v.region); err != nil || bytes.Equal(was[:length], buf.Bytes[:length]) {
					return err
				}
			}
			if now.Zero = zero; !zero {
				now.Data = buf.Bytes[:length]
			}
			return yield(now)
		})
	})
	return v.kept(saved, err)
}

// kept says what was kept.
func (v *Volume) kept(saved undo.Salvage, err error) error {
	if noRoom(err) {
		return v.salvageFull(err)
	}
	if err == nil && saved.ID != "" {
		v.o.Log.Warn("content that is given up was kept", "volume", v.name, "salvage", saved.ID, "bytes", saved.Bytes, "why", saved.Reason)
	}
	return err
}

// describe fills in what a salvage is of.
func (v *Volume) describe(id, reason string, a *undo.Anchor) undo.Salvage {
	return undo.Salvage{
		ID: id, Volume: v.name, Node: v.self, Reason: reason, RegionBytes: 1 << v.region, SizeBytes: v.size,
		From:    fmt.Sprintf("generation %s of term %s, number %d", a.Position.Gen, a.History.Last().Term, a.Position.Number),
		History: a.History, Position: a.Position,
	}
}

// regionsOf adds the regions that a salvage has.
func regionsOf(store *undo.Store, id string, to map[int64]struct{}) error {
	view, err := store.Open(id)
	if err != nil {
		return err
	}
	defer view.Close()
	for r := range view.Regions() {
		to[r] = struct{}{}
	}
	return nil
}

// isNow reports whether the image is what is on the disk now. What is there is in buf, unless it is zero.
func (v *Volume) isNow(i *undo.Image, ahead *dataAhead, buf *block.Buffer) (same, zero bool, err error) {
	off := i.Region << v.region
	now := buf.Bytes[:min(int64(len(buf.Bytes)), v.size-off)]
	if zero, err = v.content(ahead, off, now); err != nil {
		return false, false, v.targetFailed(err)
	}
	switch {
	case zero || i.Zero:
		return zero == i.Zero || zero && isZero(i.Data), zero, nil
	}
	return bytes.Equal(now, i.Data), false, nil
}

// Salvages is what this server keeps of content that was given up, oldest first.
func (v *Volume) Salvages() []undo.Salvage {
	if store := v.undo.store.Load(); store != nil {
		return store.List()
	}
	return nil
}

// SalvageRoom is how many bytes are left for more of them, and whether that is little.
func (v *Volume) SalvageRoom() (left int64, low bool) {
	if store := v.undo.store.Load(); store != nil {
		return store.Room()
	}
	return quarter(v.o.Limits.SalvageBytesMax, v.size), false
}

// storeOf returns the store, or an error that says that there is no such salvage.
func (v *Volume) storeOf(id string) (*undo.Store, error) {
	if store := v.undo.store.Load(); store != nil {
		return store, nil
	}
	return nil, fmt.Errorf("volume %s: salvage %s: %w", v.name, id, undo.ErrUnknown)
}

// ExportSalvage writes a salvage as files, the manifest last: see undo.Store.Export.
func (v *Volume) ExportSalvage(id string, to func(name string) (io.WriteCloser, error)) error {
	store, err := v.storeOf(id)
	if err != nil {
		return err
	}
	return store.Export(id, to)
}

// OpenSalvage opens a salvage for reading; the caller closes it. It cannot be deleted meanwhile.
func (v *Volume) OpenSalvage(id string) (*undo.View, error) {
	store, err := v.storeOf(id)
	if err != nil {
		return nil, err
	}
	return store.Open(id)
}

// DeleteSalvage gives a salvage up for good.
func (v *Volume) DeleteSalvage(id string) error {
	store, err := v.storeOf(id)
	if err != nil {
		return err
	}
	return store.Delete(id)
}

// overdueWait is how long a salvage has to have been over, without a break and by a clock that nobody sets, before it is deleted: a
// clock that jumps ahead for a while, or was wrong when the salvage was made, must not take away the only copy of anything.
const overdueWait = 24 * time.Hour

// expire deletes the salvages whose time is over; the checkpointer calls it. now has the reading of the clock that nobody sets.
func (v *Volume) expire(now time.Time) {
	store := v.undo.store.Load()
	if store == nil {
		return
	}
	v.undo.mu.Lock()
	seen := v.undo.overdue
	v.undo.mu.Unlock()
	since := map[string]time.Time{}
	for _, m := range store.Expired(now) {
		first, known := seen[m.ID]
		if !known {
			first = now
			v.o.Log.Warn("the time of a salvage is over: it will be deleted", "volume", v.name, "salvage", m.ID, "made", m.Time, "expired", m.Expires, "in", v.overdueWait())
		}
		since[m.ID] = first
		if now.Sub(first) < v.overdueWait() {
			continue
		}
		err := store.Delete(m.ID)
		if err != nil && !errors.Is(err, undo.ErrInUse) {
			v.o.Log.Error("a salvage whose time is over could not be deleted", "volume", v.name, "salvage", m.ID, "err", err)
		}
		if err == nil {
			v.o.Log.Info("a salvage was deleted: its time is over", "volume", v.name, "salvage", m.ID, "expired", m.Expires, "bytes", m.Bytes, "was", m.Reason)
		}
	}
	v.undo.mu.Lock()
	defer v.undo.mu.Unlock()
	v.undo.overdue = since
}

func (v *Volume) overdueWait() time.Duration { return min(overdueWait, v.o.Limits.SalvageRetention) }
