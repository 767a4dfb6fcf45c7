package main

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keelson/internal/api"
	"keelson/internal/peer"
)

// Files of an NBD client in its directory, as qemu, libnbd and nbdkit name them.
const (
	clientCAFile   = "ca-cert.pem"
	clientCertFile = "client-cert.pem"
	clientKeyFile  = "client-key.pem"
)

func clientCommand(a *app) *cobra.Command {
	return group("client", "Clients of NBD over TCP with TLS: list, add, remove", clientList(a), clientAdd(a), clientRemove(a))
}

func clientList(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "Shows the clients that are admitted", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			all, err := a.client().Clients(ctx)
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(all.Clients)
			}
			for _, x := range all.Clients {
				a.print("%-20s  admitted %s at %s  key %s\n", x.Name, x.Changed.Local().Format(time.DateOnly), x.By, x.Key)
			}
			return nil
		},
	}
}

func clientAdd(a *app) *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "add NAME --dir DIR", Short: "Admits a client, and writes its key and certificate into a directory",
		Long: `Makes a key and admits it as a client of NBD over TCP on every server ([nbd] tls = true). DIR gets ca-cert.pem, client-cert.pem and
client-key.pem, the names that qemu and libnbd look for (tls-creds-x509,dir=DIR; ?tls-certificates=DIR). Servers show a certificate that
is good for NODE.keelson, their address that was dialed, and the service addresses and names of their volumes.`,
		Example: "  keelson client add vm-host-1 --dir /etc/keelson/client",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			keyFile := filepath.Join(dir, clientKeyFile)
			if _, err := os.Stat(keyFile); !errors.Is(err, os.ErrNotExist) {
				return api.Errorf(api.Failed, "client "+args[0], "%s is there already: nothing was changed", keyFile).WithNext("name another directory, or remove it")
			}
			_, key, err := peer.NewKey()
			if err != nil {
				return runError{err}
			}
			request, err := peer.MakeRequest(key)
			if err != nil {
				return runError{err}
			}
			if err := os.MkdirAll(dir, 0o700); err != nil { // before anything is admitted
				return runError{err}
			}
			card, err := a.client().ChangeClient(ctx, api.ClientChange{Action: "add", Name: args[0], Request: request})
			if err != nil {
				return runError{err}
			}
			for name, text := range map[string][]byte{clientKeyFile: key, clientCertFile: []byte(card.Certificate), clientCAFile: []byte(card.CA)} {
				if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
					return runError{err}
				}
			}
			if a.json {
				return a.document(card)
			}
			a.print("client %s admitted; its files are in %s\n", card.Name, dir)
			return nil
		},
	}
	c.Flags().StringVar(&dir, "dir", "", "`DIR` for its key and certificate")
	_ = c.MarkFlagRequired("dir") // fails only for a flag that is not defined
	return c
}

func clientRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Short: "Shuts a client out, and ends its connections", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			ctx, cancel := a.limited(c)
			defer cancel()
			card, err := a.client().ChangeClient(ctx, api.ClientChange{Action: "remove", Name: args[0]})
			if err != nil {
				return runError{err}
			}
			if a.json {
				return a.document(card)
			}
			a.print("client %s removed\n", card.Name)
			return nil
		},
	}
}
