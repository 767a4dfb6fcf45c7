package main

import (
	"time"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func nodeInvite(a *app) *cobra.Command {
	lasts := time.Hour
	c := &cobra.Command{
		Use: "invite [NAME]", Short: "Makes a one-time token that admits a server, of that name if one is given", Args: cobra.MaximumNArgs(1),
		Long: "Makes a one-time token that admits a server to the cluster, at this agent, until it ends. Whoever has it can use it: give\n" +
			"it to the new server by a way that others do not see. It is shown once, and only a hash of it is kept.",
		RunE: func(c *cobra.Command, args []string) error {
			r := api.InviteNode{Seconds: int64(lasts / time.Second)}
			if len(args) > 0 {
				r.Name = args[0]
			}
			if lasts < time.Second {
				return usagef("--for %s is too short", lasts)
			}
			if err := r.Check(); err != nil {
				return err
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			i, err := a.client().InviteNode(ctx, r)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(i)
			}
			a.print("%s\n", i.Token)
			name := ""
			if i.Name == "" {
				name = " --name NAME"
			}
			a.note("good once, at %s (%s), until %s", i.Node, i.Address, i.Ends.Local().Format("2006-01-02 15:04:05"))
			a.note("fingerprint of the cluster's CA: %s", i.Fingerprint)
			a.note("on the new server: keelson node join TOKEN --address HOST:PORT%s", name)
			return nil
		},
	}
	c.Flags().DurationVar(&lasts, "for", lasts, "how long it is good, at most 168h")
	return c
}
