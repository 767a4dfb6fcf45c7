package main

import (
	"github.com/spf13/cobra"

	"keelson/internal/node"
)

func nodeInit(a *app) *cobra.Command {
	var o node.Setup
	c := &cobra.Command{
		Use: "init --address HOST:PORT", Short: "Makes a cluster: its CA, this first server's certificate and configuration", Args: cobra.NoArgs,
		Long: "Makes a cluster: the key and certificate of its CA, this first server's certificate, and a configuration for its agent.\n" +
			"Others join by tokens: keelson node invite here, keelson node join there.",
		RunE: func(*cobra.Command, []string) error {
			if o.Name == "" {
				o.Name = hostName()
			}
			m, err := node.Init(o)
			if err != nil {
				return runError{err}
			}
			return a.setUp(m, "is the first of")
		},
	}
	setupFlags(c, &o)
	return c
}
