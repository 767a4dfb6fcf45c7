package main

import (
	"os"

	"github.com/spf13/cobra"

	"keelson/internal/attach"
	"keelson/internal/node"
)

// deviceHelper is what the agent starts to touch its own devices: it must not wait for them itself.
func deviceHelper(a *app) *cobra.Command {
	return &cobra.Command{
		Use: node.DeviceHelper, Hidden: true, Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := attach.HelperMain(args, os.Stdin, a.out); err != nil {
				return runError{err}
			}
			return nil
		},
	}
}
