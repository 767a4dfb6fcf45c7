package main

import (
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"keelson/internal/api"
)

// manCommand writes the manual pages from the same definitions as --help. It is for whoever makes packages.
func manCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Writes manual pages into a directory", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			made := a.now()
			if seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
				made = time.Unix(seconds, 0).UTC() // reproducible-builds.org
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return api.Errorf(api.Failed, "directory "+args[0], "%v", err)
			}
			root := c.Root()
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "Keelson " + version, Manual: "Keelson", Date: &made}, args[0]); err != nil {
				return api.Errorf(api.Failed, "directory "+args[0], "%v", err)
			}
			return nil
		},
	}
}
