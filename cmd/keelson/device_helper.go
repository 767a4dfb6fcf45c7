package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/frontend/loop"
	"keelson/internal/node"
)

// deviceHelper is what the agent starts to touch its own devices: it must not wait for them itself.
func deviceHelper(a *app) *cobra.Command {
	return &cobra.Command{
		Use: node.DeviceHelper, Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			out, err := loop.HelperMain(args)
			if err != nil {
				return runError{err}
			}
			a.print("%s\n", out)
			return nil
		},
	}
}
