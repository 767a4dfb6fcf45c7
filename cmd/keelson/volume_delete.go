package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Ends the replication of a volume; the copies stay on the servers' disks",
		Aliases: []string{"rm"}, Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r := api.DeleteVolume{Name: args[0]}
			if err := r.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			if err := a.client().DeleteVolume(ctx, r); err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(map[string]any{"name": r.Name, "deleted": true})
			}
			a.print("volume %s deleted; the copies stay on the servers' disks\n", r.Name)
			return nil
		},
	}
}
