package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"keelson/internal/intentlog"
	"keelson/internal/vfs"
)

// Keys of Header.Extra that speak of what is under the copy.
const (
	// extraForeign is there while the backing store holds what this replica never wrote: it was not as it was left (rule 9).
	extraForeign = "foreign"
	// extraAnew is there from that moment until the content is part of a history: as a target at the end of a resync, as a source with
	// the generation that begins on it.
	extraAnew = "anew"
	// extraDisk is vfs.Identity.Disk of the backing store when it was opened last.
	extraDisk = "disk"
)

// begunAnew reports that what is under the copy is not what it left, and part of no history yet.
func begunAnew(h intentlog.Header) bool { return h.Extra[extraAnew] != nil }

// openBacking opens what is under the copy, and makes everything unknown if that is not what it was when the copy was left.
func openBacking(o Options, log *intentlog.Log, h intentlog.Header) (vfs.File, error) {
	if h.Failed != "" { // never used again, whatever it says now (guarantee 9)
		return deadDisk{failedBefore(h)}, nil
	}
	disk, err := o.FS.Open(h.Backing.Path, vfs.Lock)
	if err != nil {
		return nil, err
	}
	if err := claimBacking(o, log, h, disk); err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	return disk, nil
}

// claimBacking notes durably what is under the copy, before anything of it is believed.
func claimBacking(o Options, log *intentlog.Log, h intentlog.Header, disk vfs.File) error {
	have, err := disk.Size()
	if err == nil && have < h.SizeBytes {
		err = fmt.Errorf("volume %s: %s has %d bytes now, the volume has %d: it was cut off; give it back its size",
			h.Name, h.Backing.Path, have, h.SizeBytes)
	}
	id, err2 := disk.Identity()
	if err = errors.Join(err, err2); err != nil {
		return err
	}
	was, clean := log.WasClean()
	if !clean {
		was = h.Backing.Identity
	}
	same := sameStore(h, was, clean, id)
	if !same { // rule 9: another disk, or changed while nobody looked
		o.Log.Warn("the backing store is not as it was left; everything is unknown until a resync has compared it", "volume", h.Name, "path", h.Backing.Path)
		// First of all: after a crash in the middle a file that was changed in place looks like the one that was in use.
		if err := log.Save(func(h *intentlog.Header) { setExtra(h, extraForeign, true); setExtra(h, extraAnew, true) }); err != nil {
			return err
		}
		if err := log.ForgetAll(); err != nil {
			return err
		}
	}
	if err := forgetHot(disk, log, h, same); err != nil {
		return err
	}
	id.ChangeTime = 0
	return errors.Join(log.ClearClean(), log.Save(func(h *intentlog.Header) {
		h.Backing.Identity = id
		setExtra(h, extraDisk, id.Disk)
	}))
}

func setExtra(h *intentlog.Header, key string, value any) {
	h.Extra = maps.Clone(h.Extra)
	if h.Extra == nil {
		h.Extra = map[string]json.RawMessage{}
	}
	h.Extra[key], _ = json.Marshal(value) // strings and bools always can
}

// sameStore reports whether the backing store is what it was when the copy was left, cleanly or not. Numbers of devices are given out anew with each
// start of the machine, so what the disk itself says of itself counts first. After a clean stop a file's inode, size and time of
// change say enough without it.
func sameStore(h intentlog.Header, was vfs.Identity, clean bool, id vfs.Identity) bool {
	_ = json.Unmarshal(h.Extra[extraDisk], &was.Disk) // "" in a log of an earlier version
	known := was.Disk != "" && id.Disk != ""
	switch {
	case id.Kind != was.Kind || id.Inode != was.Inode:
		return false
	case clean && (id.Size != was.Size || id.ChangeTime != was.ChangeTime):
		return false
	case clean && id.Kind == vfs.KindFile:
		return true
	case known:
		return id.Disk == was.Disk
	}
	return id.Dev == was.Dev
}
