package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func mirrorSet(a *app) *cobra.Command {
	r := api.MirrorChange{Action: "set"}
	var f mirrorFlags
	c := &cobra.Command{
		Use: "set VOLUME --target NODE", Short: "Changes mode or limits of a mirror", Args: cobra.ExactArgs(1),
		Example: "  keelson mirror set data --target c --mode async --resync-rate 20MiB",
		RunE: func(c *cobra.Command, args []string) error {
			r.Volume = args[0]
			f.fill(&r)
			return a.changeMirror(c, r)
		},
	}
	targetFlag(c, &r.Target, "NODE")
	f.define(c)
	return c
}
