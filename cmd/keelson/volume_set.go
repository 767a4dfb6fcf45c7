package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeSet(a *app) *cobra.Command {
	var copies int
	var hold string
	c := &cobra.Command{
		Use: "set NAME", Short: "Changes settings of a volume", Args: cobra.ExactArgs(1),
		Long: `Changes settings of a volume as a whole. With --min-copies 2 nothing is answered to an application that only one server
holds: while no sync target is Mirroring writes wait (copies-wait in the agent's configuration), and then fail.

With --hold-old-copies on a take-over by force leaves the copies of the other servers as they were, until the administrator has seen that
the new source is good (its file system mounts) and says so: keelson volume accept NAME. Until then the new source is alone, so it cannot
be had together with min-copies above 1. Turning it off does not accept a source that is not accepted yet.`,
		Example: "  keelson volume set data --min-copies 2\n  keelson volume set data --hold-old-copies on",
		RunE: func(c *cobra.Command, args []string) error {
			r := api.VolumeChange{Name: args[0]}
			if c.Flags().Changed("min-copies") {
				r.MinCopies = &copies
			}
			if on := hold == "on"; hold != "" {
				if !on && hold != "off" {
					return api.Errorf(api.Usage, "volume "+r.Name, "--hold-old-copies is on or off, not %q", hold)
				}
				r.HoldOldCopies = &on
			}
			return a.changeVolume(c, r, func(v *api.VolumeStatus) {
				a.print("volume %s: min-copies %d, %d copies hold a write now\n", v.Name, v.MinCopies, v.Copies)
				if v.HoldOldCopies {
					a.print("a take-over by force keeps the other copies as they were until it is accepted\n")
				}
			})
		},
	}
	c.Flags().IntVar(&copies, "min-copies", 0, "how many copies have to hold a write before it is answered: 1, or up to the source and its sync targets")
	c.Flags().StringVar(&hold, "hold-old-copies", "", "`on`: a take-over by force keeps the other copies as they were until it is accepted; off")
	return c
}

func volumeAccept(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "accept NAME", Short: "Accepts a new source: old copies that are held are brought up to date", Args: cobra.ExactArgs(1),
		Long: `Accepts the source that a take-over by force made: the other copies, which were kept as they were since the volume has
hold-old-copies, are brought up to date. Look first whether the new source is good: its file system mounts, its data is there. If it is
no good, stop its agent, and make a server with an old copy the source by force.`,
		Example: "  keelson volume accept data",
		RunE: func(c *cobra.Command, args []string) error {
			r := api.VolumeChange{Name: args[0], Accept: true}
			return a.changeVolume(c, r, func(v *api.VolumeStatus) {
				a.print("volume %s: the source %s is accepted\n", v.Name, v.Source)
			})
		},
	}
}

// changeVolume has the volume's source make the change; tell prints what the volume is then.
func (a *app) changeVolume(c *cobra.Command, r api.VolumeChange, tell func(*api.VolumeStatus)) error {
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
	tell(v)
	return nil
}
