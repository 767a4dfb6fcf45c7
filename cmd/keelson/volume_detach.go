package main

import (
	"context"
	"errors"
	"log/slog"
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

func volumeDetach(a *app) *cobra.Command {
	r := api.DeviceChange{Action: "detach"}
	var abort bool
	c := &cobra.Command{
		Use: "detach NAME", Short: "Ends the block device of a volume, and does not bring it back",
		Long: `Ends the block device of a volume, and does not bring it back. While somebody uses the device it is refused and says who.

With --abort the device on this machine is ended at once, whoever uses it and whether or not the agent answers: every
request to it ends with an error, and what was not written yet is lost. It is for devices that hang.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			if abort {
				return a.abortDevice(c, r)
			}
			return a.changeDevice(c, r)
		},
	}
	c.Flags().BoolVar(&abort, "abort", false, "end the device on this machine at once, without the agent")
	onFlag(c, &r.Nodes)
	return c
}

// abortDevice ends the device without the agent: by its socket's path alone it is known where to look.
func (a *app) abortDevice(c *cobra.Command, r api.DeviceChange) error {
	if err := r.Check(); err != nil {
		return err
	}
	socket, err := filepath.Abs(a.socket)
	if err != nil {
		return runError{err}
	}
	cfg := config.Default()
	cfg.API.Socket = socket
	ctx, cancel := context.WithTimeout(c.Context(), a.timeout)
	defer cancel()
	left, err := loop.Clean(ctx, node.LoopOptions(cfg, r.Volume, slog.New(slog.DiscardHandler)))
	for _, index := range nbdkernel.Find(func(backend string) bool { return strings.HasSuffix(backend, node.NBDBackend(socket, r.Volume)) }) {
		err = errors.Join(err, nbdkernel.Drop(index))
	}
	if err != nil {
		return api.Errorf(api.Failed, "volume "+r.Volume, "%v", err)
	}
	result := struct {
		Volume  string            `json:"volume"`
		Aborted bool              `json:"aborted"`
		Held    map[string]string `json:"held"` // what is left, useless, until its holders let it go
	}{r.Volume, true, map[string]string{}}
	for _, l := range left {
		result.Held[l.Path] = blockdev.Join(l.Holders)
	}
	if a.json {
		return a.document(result)
	}
	a.print("the block device of volume %s is ended\n", r.Volume)
	for _, l := range left {
		a.note("%s answers with errors until it is let go: it is %s", l.Path, blockdev.Join(l.Holders))
	}
	return nil
}
