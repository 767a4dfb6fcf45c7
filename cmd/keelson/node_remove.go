package main

import (
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func nodeRemove(a *app) *cobra.Command {
	var r api.RemoveNode
	var yes bool
	c := &cobra.Command{
		Use: "remove NODE", Short: "Shuts a server out of the cluster, at once and for good; removes its mirrors", Args: cobra.ExactArgs(1),
		Long: "Shuts a server out: every member ends its connections with it and takes none from it, also after restarts. Its mirrors are\n" +
			"removed; its copies stay on its disks. Only a new token lets it in again.",
		RunE: func(c *cobra.Command, args []string) error {
			r.Name = args[0]
			if err := r.Check(); err != nil {
				return err
			}
			if !yes {
				if err := a.askable("node remove", ""); err != nil {
					return err
				}
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			if !yes {
				if err := a.ask(ctx, "node "+r.Name, "Shut "+r.Name+" out of the cluster?", "not removed"); err != nil {
					return err
				}
			}
			out, err := a.client().RemoveNode(ctx, r)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(out)
			}
			a.print("node %s removed", out.Name)
			if len(out.Told) > 0 {
				a.print("; %s know of it, the others will when they are reached", strings.Join(out.Told, ", "))
			}
			a.print("\n")
			if len(out.Mirrors) > 0 {
				a.print("its mirrors were removed from %s\n", strings.Join(out.Mirrors, ", "))
			}
			for _, left := range out.Left {
				a.note("its mirror is still to be removed: %s", left)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&r.Force, "force", false, "also if it is the source of volumes")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
