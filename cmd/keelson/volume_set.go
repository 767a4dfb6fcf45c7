package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeSet(a *app) *cobra.Command {
	var copies int
	c := &cobra.Command{
		Use: "set NAME --min-copies N", Short: "Changes settings of a volume", Args: cobra.ExactArgs(1),
		Long: `Changes settings of a volume as a whole. With --min-copies 2 nothing is answered to an application that only one server
holds: while no sync target is Mirroring writes wait (copies-wait in the agent's configuration), and then fail.`,
		Example: "  keelson volume set data --min-copies 2",
		RunE: func(c *cobra.Command, args []string) error {
			r := api.VolumeChange{Name: args[0], MinCopies: &copies}
			if err := r.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			v, err := a.client().SetVolume(ctx, r)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(v)
			}
			a.print("volume %s: min-copies %d, %d copies hold a write now\n", v.Name, v.MinCopies, v.Copies)
			return nil
		},
	}
	c.Flags().IntVar(&copies, "min-copies", 0, "how many copies have to hold a write before it is answered: 1, or up to the source and its sync targets")
	_ = c.MarkFlagRequired("min-copies") // fails only for a flag that is not defined
	return c
}
