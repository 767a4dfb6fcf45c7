package main

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keelson/internal/api"
)

func nodeList(a *app) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "list", Short: "Shows the servers of the cluster", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			nodes, err := a.client().Nodes(ctx)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(nodes.Nodes)
			}
			for _, n := range nodes.Nodes {
				if !n.Removed || all {
					a.node(n)
				}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "also those that were removed")
	return c
}

// node prints a server.
func (a *app) node(n api.Node) {
	state := "reachable"
	switch {
	case n.Removed:
		state = "removed"
	case n.Self:
		state = "this server"
	case !n.Reachable:
		state = "not reachable"
	}
	ends := "-"
	if !n.CertEnds.IsZero() {
		ends = n.CertEnds.Local().Format(time.DateOnly)
	}
	volumes := make([]string, 0, len(n.VolumesOf))
	for _, v := range n.VolumesOf {
		for _, s := range n.SourceOf {
			if s == v {
				v += " (source)"
			}
		}
		volumes = append(volumes, v)
	}
	a.print("%-12s  %-22s  %-13s  certificate until %-10s  %s\n", n.Name, n.Address, state, ends, strings.Join(volumes, ", "))
}
