package main

import (
	"bufio"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/node"
)

func nodeJoin(a *app) *cobra.Command {
	var o node.Setup
	c := &cobra.Command{
		Use: "join TOKEN --address HOST:PORT", Short: "Makes this server a member by a token of keelson node invite", Args: cobra.ExactArgs(1),
		Long: "Makes this server a member of a cluster. The token comes from keelson node invite at a member; \"-\" reads it as a line of\n" +
			"standard input, so that it is in no list of processes. This server's private key is made here and never leaves it.",
		RunE: func(c *cobra.Command, args []string) error {
			token := args[0]
			if token == "-" {
				line, err := bufio.NewReader(io.LimitReader(a.in, 4<<10)).ReadString('\n')
				if token = strings.TrimSpace(line); token == "" {
					return usagef("standard input has no token: %v", err)
				}
			}
			if o.Name == "" {
				o.Name = hostName()
			}
			ctx, cancel := a.limited(c)
			defer cancel()
			m, err := node.Join(ctx, o, token)
			if err != nil {
				return runError{err}
			}
			return a.setUp(m, "joined")
		},
	}
	setupFlags(c, &o)
	return c
}
