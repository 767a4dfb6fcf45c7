package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func mirrorAdd(a *app) *cobra.Command {
	var place string
	var f mirrorFlags
	c := &cobra.Command{
		Use: "add VOLUME --target NODE:PATH", Short: "Adds a target to a volume; what it holds is overwritten", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			p, err := api.ParsePlace(place)
			if err != nil {
				return err
			}
			r := api.MirrorChange{Volume: args[0], Action: "add", Target: p.Node, Path: p.Path}
			f.fill(&r)
			return a.changeMirror(c, r)
		},
	}
	targetFlag(c, &place, "NODE:PATH")
	f.define(c)
	return c
}
