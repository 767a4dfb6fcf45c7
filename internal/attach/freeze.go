package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"keelson/internal/blockdev"
	"keelson/internal/frontend/loop"
	"keelson/internal/frontend/nbdkernel"
	"keelson/internal/vfs"
)

// Who writes to a frozen file system waits, and cannot be killed, until somebody thaws it. The kernel does not do that by itself, and
// a freeze that takes too long cannot be taken back: it is thawed when it is done. That something is frozen, or may be, is noted in a
// file without content in the folder of the wish, for the next agent: it thaws what a dead one left.

// frozenFile is that file's name.
const frozenFile = "frozen"

func (a *Attachment) frozenNote() string { return filepath.Join(filepath.Dir(a.o.File), frozenFile) }

// freeze makes a file system write everything out and hold still. late: it was not done in time, and is thawed as soon as the kernel
// is done with it.
func (a *Attachment) freeze(folder string) (late bool, err error) {
	f, err := a.o.Files.Open(a.frozenNote(), vfs.Create)
	if err == nil {
		err = errors.Join(f.Close(), a.o.Files.SyncDir(filepath.Dir(a.frozenNote())))
	}
	if err != nil {
		return false, fmt.Errorf("note that %s is frozen: %w", folder, err)
	}
	a.thawing.Lock() // what an earlier agent froze is thawed first
	defer a.thawing.Unlock()
	return commandOr(freezeMax, func() {
		if err := thaw(folder); err != nil {
			a.o.Log.Info("after a freeze that was not done in time", "volume", a.o.Volume, "err", err) // it had not begun
		}
		a.noneFrozen()
	}, "fsfreeze", "--freeze", folder)
}

// mayBeFrozen reports that there is such a note.
func (a *Attachment) mayBeFrozen() bool {
	_, err := a.o.Files.Stat(a.frozenNote())
	return err == nil
}

func thaw(folder string) error { return command(freezeMax, "fsfreeze", "--unfreeze", folder) }

// noneFrozen forgets the note. One that stays does no harm.
func (a *Attachment) noneFrozen() {
	if err := a.o.Files.Remove(a.frozenNote()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.o.Log.Warn("the note that a file system is frozen stays", "volume", a.o.Volume, "err", err)
	}
}

// thawLeft thaws what an earlier agent froze for a switchover and left so. It waits for nothing: where the volume is not here yet, the
// device answers later.
func (a *Attachment) thawLeft(ctx context.Context) {
	if !a.o.Kernel || !a.mayBeFrozen() {
		return
	}
	left, _ := loop.Stale(a.o.Loop, "") // what cannot be looked at is told when it is cleaned
	var devices []string
	for _, l := range left {
		devices = append(devices, l.Path)
	}
	for _, index := range nbdkernel.Left(a.o.NBD.Backend) {
		devices = append(devices, fmt.Sprintf("/dev/nbd%d", index))
	}
	a.thawing.Lock()
	a.thaws.Go(func() {
		defer a.thawing.Unlock()
		a.thawAll(ctx, devices)
	})
}

// thawAll thaws what is mounted of the devices. When the agent stops it ends with the command that runs, at most freezeMax later; the note
// stays then, for the next agent.
func (a *Attachment) thawAll(ctx context.Context, devices []string) {
	for _, device := range devices {
		holders, _ := blockdev.Holders(device)
		for _, h := range holders {
			if h.Kind != "mount" || h.PID != 0 {
				continue
			}
			if ctx.Err() != nil {
				return
			}
			if thaw(h.Mount) == nil {
				a.o.Note("warning", h.Mount+" was frozen for a switchover by an agent that ended; it is thawed", "")
			}
		}
	}
	a.noneFrozen()
}
