package node

import (
	"context"
	"os"

	"keelson/internal/api"
	"keelson/internal/cluster"
	"keelson/internal/peer"
)

// Rules of clients of NBD over TCP.
const (
	ruleClientExists  = "client-exists"
	ruleUnknownClient = "unknown-client"
)

// admitsClient reports whether the cluster document has a client with a key of that identity.
func (n *Node) admitsClient(key string) bool {
	_, ok := n.cluster.ClientKey(key)
	return ok
}

// Clients implements api.Service.
func (s *service) Clients(context.Context) (*api.AdmittedClients, error) {
	out := &api.AdmittedClients{Clients: []api.AdmittedClient{}}
	for _, c := range s.n.cluster.Clients() {
		out.Clients = append(out.Clients, api.AdmittedClient{Name: c.Name, Key: c.Key, Changed: c.Changed, By: c.By})
	}
	return out, nil
}

// ChangeClient implements api.Service: the key is admitted, durably, before its certificate is given out.
func (s *service) ChangeClient(_ context.Context, r api.ClientChange) (*api.ClientCard, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	n, object := s.n, r.About()
	there := false
	for _, c := range n.cluster.Clients() {
		there = there || c.Name == r.Name
	}
	switch {
	case r.Action == "remove" && !there:
		return nil, api.Refusal(ruleUnknownClient, object, "there is no such client", "keelson client list shows those that there are")
	case r.Action == "remove":
		if err := n.cluster.RemoveClient(r.Name); err != nil {
			return nil, api.Errorf(api.Failed, object, "%v", err)
		}
		n.bump()
		return &api.ClientCard{Name: r.Name}, nil
	case there:
		return nil, api.Refusal(ruleClientExists, object, "there is such a client already", "choose another name, or remove it first: keelson client remove "+r.Name)
	}
	if err := peer.CheckNodeName(r.Name); err != nil {
		return nil, api.Errorf(api.Usage, object, "%v", err)
	}
	ca := n.ca.Load()
	if ca == nil {
		return nil, api.Refusal(ruleNoCAKey, object, n.cfg.Node+" does not have the key of the cluster's CA, so it cannot make a certificate", "ask at a server that was invited (keelson node list)")
	}
	key, id, err := peer.ReadRequest(r.Request)
	if err != nil {
		return nil, api.Errorf(api.Usage, object, "%v", err)
	}
	cert, err := ca.SignClient(r.Name, key)
	if err != nil {
		return nil, api.Errorf(api.Failed, object, "%v", err)
	}
	roots, err := os.ReadFile(n.cfg.TLS.CA)
	if err != nil {
		return nil, api.Errorf(api.Failed, object, "%v", err)
	}
	if err := n.cluster.SetClient(cluster.Client{Name: r.Name, Key: id}); err != nil {
		return nil, api.Errorf(api.Failed, object, "%v", err)
	}
	n.bump()
	return &api.ClientCard{Name: r.Name, Certificate: string(cert), CA: string(roots)}, nil
}
