package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func volumeShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Shows everything about one volume", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			s, err := a.client().Status(ctx)
			if err != nil {
				return runError{err}
			}
			v, err := find(s, args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.document(v)
			}
			o := overview{now: a.now()}
			o.volume(s.Node, v)
			o.printf("  id          %s\n", v.ID)
			o.printf("  regions     %s each; %s of unknown version; %d hot extents\n", human(v.RegionBytes), human(v.UnknownBytes), v.HotExtents)
			o.counters(v)
			a.print("%s", o.String())
			return nil
		},
	}
}

// counters lists the counters in the order of their names.
func (o *overview) counters(v *api.VolumeStatus) {
	for _, name := range slices.Sorted(maps.Keys(v.Counters)) {
		o.printf("  %s\n", fmt.Sprintf("%-28s %d", name, v.Counters[name]))
	}
}
