package volume

import (
	"errors"
	"fmt"

	"keelson/internal/block"
	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/undo"
)

// RollBack brings a copy in mid-resync back to its anchor: content, versions, history, position and in-sync record (rule
// 27). No session may be attached, and no device open. Where nothing is to be done it does nothing.
//
// Order: what is overwritten is durable where it is, and then in a salvage; then the note that a rollback has begun, then content and versions, a
// checkpoint that says so, and the undo log is dropped. Before the note a failure has changed nothing; after it the rollback is
// repeated, here, at the next session or at the next Open, until it is done. The caller reads its standing again from Header.
func (v *Volume) RollBack() error {
	if err := v.claimRollback(); err != nil {
		return err
	}
	defer v.releaseRollback()
	v.endViews()
	h := v.log.Header()
	if h.Consistent == consistentYes {
		return nil
	}
	log, err := v.undoLog()
	if err != nil {
		return err
	}
	a := v.anchor(v.log.Header())
	if a == nil {
		return v.noAnchorError()
	}
	if !log.Rolling() {
		if err := log.Verify(); err != nil {
			return err
		}
		// A try that is repeated replaces the salvage: a power cut between them must not leave less to keep than there was.
		if err := v.datasync(); err != nil {
			v.fail(err)
			return err
		}
		if err := v.salvageRollback(log, a); err != nil {
			return err
		}
		v.crash("rollback-salvaged")
		if err := log.BeginRollback(); err != nil {
			return v.undoError(err)
		}
	}
	v.crash("rollback-begun")
	return v.restore(log, a)
}

func (v *Volume) claimRollback() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.session != nil || v.serving || v.undo.busy || v.inFlight() {
		return fmt.Errorf("volume %s: roll back: a session, a device or another rollback is under way; end it first", v.name)
	}
	if v.failed != nil {
		return v.failed
	}
	v.undo.busy = true
	return nil
}

func (v *Volume) releaseRollback() {
	v.mu.Lock()
	v.undo.busy = false
	v.mu.Unlock()
}

// finishRollback repeats a rollback that had begun. Nothing may use the copy meanwhile.
func (v *Volume) finishRollback() error {
	log := v.undo.log.Load()
	if log == nil || !log.Rolling() {
		return nil
	}
	a := v.anchor(v.log.Header())
	if a == nil {
		return nil
	}
	return v.restore(log, a)
}

// salvageRollback keeps what a rollback overwrites. One that an earlier try kept is replaced: nothing was rolled back since.
func (v *Volume) salvageRollback(log *undo.Log, a *undo.Anchor) error {
	if v.omits(omitSalvageRollback) {
		return nil
	}
	store, err := v.salvages()
	if err != nil {
		return err
	}
	id := salvageID(a.ID, "rollback", 0)
	if find(store, id) != nil {
		if err := store.Delete(id); err != nil {
			return err
		}
	}
	meta := v.describe(id, fmt.Sprintf("rolled back to before the %s", a.Reason), a)
	meta.From = "what the resync had brought until then"
	buf := block.NewBuffer(int(min(int64(1)<<v.region, v.size)))
	defer buf.Release()
	var ahead dataAhead
	saved, err := store.Keep(meta, func(yield func(undo.Image) error) error {
		return log.Each(func(i undo.Image) error {
			same, zero, err := v.isNow(&i, &ahead, buf)
			if same || err != nil {
				return err
			}
			now := v.versionOf(i.Region)
			if now.Zero = zero; !zero {
				now.Data = buf.Bytes[:min(int64(len(buf.Bytes)), v.size-i.Region<<v.region)]
			}
			return yield(now)
		})
	})
	return v.kept(saved, err)
}

// restore is the redo: whatever was done of it already is done again.
func (v *Volume) restore(log *undo.Log, a *undo.Anchor) error {
	if err := v.heatSaved(log); err != nil {
		return err
	}
	var marks []int64
	err := log.Each(func(i undo.Image) error { return v.putBack(&i, &marks) })
	if err != nil {
		return fmt.Errorf("volume %s: roll back: %w", v.name, err)
	}
	v.crash("rollback-restored")
	if err := v.log.ResetFloor(a.Position); err != nil {
		return v.logError(err)
	}
	err = v.checkpoint(true, func(h *intentlog.Header) {
		h.History, h.Position, h.Record = a.History, a.Position, a.Record
		h.Consistent, h.Anchor = consistentYes, nil
	})
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.position, v.number, v.gen, v.inStep = a.Position, a.Position.Number, a.History.Last(), false
	v.mu.Unlock()
	v.o.Log.Warn("the copy was rolled back to before the resync", "volume", v.name, "regions", log.Regions(), "position", a.Position.Number)
	v.unsalvage(a.ID)
	v.crash("rollback-adopted")
	if err := v.dropUndo(log); err != nil {
		v.o.Log.Error("the undo log could not be emptied", "volume", v.name, "err", err)
	}
	v.setUndoReason("")
	v.o.Post(mirror.RolledBack{Record: a.Record})
	return nil
}

// heatSaved makes all extents with images hot, durably, with few syncs.
func (v *Volume) heatSaved(log *undo.Log) error {
	var marks []int64
	for r := int64(0); r < v.regions; r++ {
		if e := r << v.region >> v.extent; log.Has(r) && (len(marks) == 0 || marks[len(marks)-1] != e) {
			marks = append(marks, e)
		}
	}
	return v.markHot(marks)
}

// putBack restores one region.
func (v *Volume) putBack(i *undo.Image, marks *[]int64) error {
	off := i.Region << v.region
	length := min(int64(1)<<v.region, v.size-off)
	version := lineage.Unknown
	if !i.Unknown {
		index, err := v.log.GenIndex(i.Gen)
		if err != nil {
			return err
		}
		version = lineage.MakeVersion(index, i.Number)
	}
	parity, err := v.hot(off>>v.extent, off>>v.extent, 0, marks)
	if err != nil {
		return err
	}
	if i.Zero {
		err = v.disk.Zero(off, length, true)
	} else {
		_, err = v.disk.WriteAt(i.Data, off)
	}
	if err != nil {
		version = lineage.Unknown
	}
	v.landed(i.Region, i.Region, version, parity)
	if err != nil {
		return v.targetFailed(err)
	}
	return nil
}

// unsalvage deletes what an end of the resync that did not come to its end had kept: it is on the volume again.
func (v *Volume) unsalvage(anchor string) {
	store := v.undo.store.Load()
	for k := 0; store != nil && k < salvagesOfOne; k++ {
		if err := store.Delete(salvageID(anchor, "", k)); err != nil && !errors.Is(err, undo.ErrUnknown) {
			v.o.Log.Error("a salvage of what was rolled back could not be deleted", "volume", v.name, "err", err)
		}
	}
}
