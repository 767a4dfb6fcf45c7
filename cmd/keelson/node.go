package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"keelson/internal/node"
)

func nodeCommand(a *app) *cobra.Command {
	return group("node", "Servers of the cluster: init, invite, join, list, remove",
		nodeInit(a), nodeInvite(a), nodeJoin(a), nodeList(a), nodeRemove(a))
}

// setupFlags are those of init and join, which make a server's files.
func setupFlags(c *cobra.Command, o *node.Setup) {
	c.Flags().StringVar(&o.Name, "name", "", "this server's name; its host name unless said")
	c.Flags().StringVar(&o.Address, "address", "", "`HOST:PORT` by which the other servers reach this one")
	c.Flags().StringVar(&o.Listen, "listen", "", "`HOST:PORT` on which it listens; --address unless said")
	c.Flags().StringVar(&o.Dir, "dir", "/etc/keelson", "`DIR` for the configuration and the certificates")
	c.Flags().StringVar(&o.State, "state", "/var/lib/keelson", "`DIR` for what the agent has to remember")
	c.Flags().StringVar(&o.Run, "run", "/run/keelson", "`DIR` for the sockets")
	_ = c.MarkFlagRequired("address") // fails only for a flag that is not defined
}

// hostName is the first part of this machine's name, as a server's.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	return name
}

// setUp prints what was made.
func (a *app) setUp(m *node.Made, how string) error {
	if a.json {
		return a.document(m)
	}
	a.print("server %s %s cluster %s\n", m.Node, how, m.Cluster)
	a.print("fingerprint of its CA: %s\n", m.Fingerprint)
	a.print("next: keelson agent --config %s\n", quoted(m.Config))
	return nil
}

// quoted is a path for a shell.
func quoted(path string) string {
	path = filepath.Clean(path)
	if strings.ContainsAny(path, " '\"\\$`") {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
