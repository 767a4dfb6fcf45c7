package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/api"
	"keelson/internal/blockdev"
	"keelson/internal/config"
	"keelson/internal/frontend/loop"
	"keelson/internal/frontend/nbdkernel"
	"keelson/internal/node"
)

// aborted is what became of one device.
type aborted struct {
	Volume  string            `json:"volume"`
	Aborted bool              `json:"aborted"`
	Held    map[string]string `json:"held"` // what is left, useless, until its holders let it go
}

// abortOne ends the device of one volume without the agent: by its socket's path alone it is known where to look.
func (a *app) abortOne(c *cobra.Command, r api.DeviceChange) error {
	if err := r.Check(); err != nil {
		return err
	}
	result, err := a.abortDevice(c, r.Volume, true)
	if err != nil {
		return err
	}
	if a.json {
		return a.document(result)
	}
	a.tellAborted(result)
	return nil
}

// abortAll ends the loop devices of all volumes of the agent; those of other kinds wait for its restart. One that cannot be ended does not keep it from the others.
func (a *app) abortAll(c *cobra.Command) error {
	socket, err := filepath.Abs(a.socket)
	if err != nil {
		return runError{err}
	}
	// The folders stay when their devices go; a name that no volume can have is nothing of the agent's.
	folders, err := os.ReadDir(filepath.Dir(config.LoopMount(socket, "x")))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.Failed, "block devices", "%v", err)
	}
	results := []aborted{}
	var failed []error
	for _, f := range folders {
		if api.CheckVolumeName(f.Name()) != nil {
			continue
		}
		result, err := a.abortDevice(c, f.Name(), false)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		results = append(results, result)
		if !a.json {
			a.tellAborted(result)
		}
	}
	if a.json && len(failed) == 0 {
		return a.document(results)
	}
	return errors.Join(failed...)
}

// abortDevice ends the volume's loop device, and with waiting also a device that would wait for the agent's restart.
func (a *app) abortDevice(c *cobra.Command, volume string, waiting bool) (aborted, error) {
	result := aborted{volume, true, map[string]string{}}
	socket, err := filepath.Abs(a.socket)
	if err != nil {
		return result, runError{err}
	}
	cfg := config.Default()
	cfg.API.Socket = socket
	ctx, cancel := context.WithTimeout(c.Context(), a.timeout)
	defer cancel()
	left, err := loop.Clean(ctx, node.LoopOptions(cfg, volume, slog.New(slog.DiscardHandler)))
	if waiting {
		for _, index := range nbdkernel.Find(func(backend string) bool { return strings.HasSuffix(backend, node.NBDBackend(socket, volume)) }) {
			err = errors.Join(err, nbdkernel.Drop(index))
		}
	}
	if err != nil {
		return result, api.Errorf(api.Failed, "volume "+volume, "%v", err)
	}
	for _, l := range left {
		result.Held[l.Path] = blockdev.Join(l.Holders)
	}
	return result, nil
}

func (a *app) tellAborted(r aborted) {
	a.print("the block device of volume %s is ended\n", r.Volume)
	for path, holders := range r.Held {
		a.note("%s answers with errors until it is let go: it is %s", path, holders)
	}
}
