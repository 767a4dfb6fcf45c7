package main

import (
	"path/filepath"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func salvageExport(a *app) *cobra.Command {
	r := api.SalvageChange{Action: "export"}
	c := &cobra.Command{
		Use: "export VOLUME ID --dir DIR", Short: "Writes a salvage to files, with a manifest", Args: cobra.ExactArgs(2),
		Long: `Writes a salvage to files: manifest.json, and one file for each stretch without gaps. They are written by the agent
that keeps the salvage, on its server. DIR is made if it is not there.`,
		Example: "  keelson salvage export data 5f0c12ab34cd56ef5f0c12ab34cd56ef --dir /srv/given-up",
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume, r.ID = args[0], args[1]
			if r.Dir != "" {
				dir, err := filepath.Abs(r.Dir)
				if err != nil {
					return api.Errorf(api.Usage, "salvage "+r.ID, "directory %s: %v", r.Dir, err)
				}
				r.Dir = dir
			}
			return a.changeSalvage(c, r, nil)
		},
	}
	c.Flags().StringVar(&r.Dir, "dir", "", "where the files are written, `DIR` on the server that keeps the salvage")
	nodeFlag(c, &r.Node)
	_ = c.MarkFlagRequired("dir") // fails only for a flag that is not defined
	return c
}
