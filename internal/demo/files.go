package demo

import (
	"os"
	"path/filepath"

	"keelson/internal/config"
	"keelson/internal/peer"
)

// makeFiles writes certificates and configurations, and at last DIR/demo.json.
func makeFiles(dir string, rec *record) error {
	ca, err := peer.NewCA()
	if err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "ca"), 0o700); err != nil {
		return err
	}
	if err := ca.Save(filepath.Join(dir, "ca")); err != nil {
		return err
	}
	agents := map[string]*config.Agent{}
	for _, node := range Nodes {
		home := filepath.Join(dir, node)
		if err := os.MkdirAll(filepath.Join(home, "tls"), 0o700); err != nil {
			return err
		}
		if err := ca.IssueTo(filepath.Join(home, "tls"), node); err != nil {
			return err
		}
		if err := ca.Save(filepath.Join(home, "tls")); err != nil { // every member can invite
			return err
		}
		a := config.Default()
		a.Node, a.Cluster, a.Encryption = node, ca.Cluster, rec.Encryption
		a.State, a.API.Socket, a.NBD.Socket = ".", "agent.sock", "nbd.sock"
		a.Device.Directory = "dev"
		a.TLS.CA, a.TLS.Cert, a.TLS.Key = "tls/"+peer.CAFile, "tls/"+peer.CertFile, "tls/"+peer.KeyFile
		agents[node] = a
	}
	if err := address(dir, agents); err != nil {
		return err
	}
	return rec.save(dir)
}

// readdress gives the agents of an existing demo other ports and leaves the rest of their configurations as it is.
func readdress(dir string) error {
	agents := map[string]*config.Agent{}
	for _, node := range Nodes {
		a, err := config.Load(Config(dir, node))
		if err != nil {
			return err
		}
		agents[node] = a
	}
	return address(dir, agents)
}

// address gives each agent free ports, tells all peers, and writes the configurations.
func address(dir string, agents map[string]*config.Agent) error {
	addresses, pages := map[string]string{}, map[string]string{}
	for _, node := range Nodes {
		for _, of := range []map[string]string{addresses, pages} {
			l, err := listenFree()
			if err != nil {
				return err
			}
			defer l.Close() // only when all have theirs, so that no two get the same
			of[node] = l.Addr().String()
		}
	}
	for _, node := range Nodes {
		a := agents[node]
		a.Listen.Address, a.Web.Address, a.Peers = addresses[node], pages[node], nil
		for _, other := range Nodes {
			if other != node {
				a.Peers = append(a.Peers, config.Peer{Name: other, Address: addresses[other]})
			}
		}
		if err := os.WriteFile(Config(dir, node), config.Render(a), 0o600); err != nil {
			return err
		}
	}
	return nil
}
