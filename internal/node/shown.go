package node

import (
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"keelson/internal/config"
	"keelson/internal/peer"
	"keelson/internal/preflight"
)

// Clients of NBD over TCP verify the server by what they dialed: an address of this server, the service address or the service name of a volume. Those
// come and go with the configuration and with volumes, and are the same at several servers; the server's own certificate is about the server
// alone. So the agent makes another one for them, by the CA's key, when a client needs it. Its key is made at each start and is never on a disk.

// shownMax is how many of these certificates are kept: one for each address of this server that clients dial.
const shownMax = 16

// shown are the certificates for clients. The zero value has none yet.
type shown struct {
	mu   sync.Mutex
	key  *ecdsa.PrivateKey
	by   *peer.CA                    // that signed all of them
	made map[string]*tls.Certificate // by the names that they are good for
}

// shownToClient is the certificate for one handshake. Where none can be made it is the server's own, and keelson check says why.
func (n *Node) shownToClient(hello *tls.ClientHelloInfo) *tls.Certificate {
	var dialed netip.Addr
	if tcp, ok := hello.Conn.LocalAddr().(*net.TCPAddr); ok {
		dialed = tcp.AddrPort().Addr()
	}
	cert, _ := n.certificateFor(dialed)
	return cert
}

// certificateFor is one that is good for all that clients may mean by this server, and for the address of its that they dialed, if that is valid. With an
// error, which says why there is none, it is the server's own.
func (n *Node) certificateFor(dialed netip.Addr) (*tls.Certificate, error) {
	own := n.id.Shown()
	names := n.serviceNames("")
	if dialed.IsValid() {
		names = append(names, dialed.Unmap().WithZone("").String())
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if !slices.ContainsFunc(names, func(name string) bool { return own.Leaf.VerifyHostname(name) != nil }) {
		return own, nil
	}
	for _, name := range own.Leaf.DNSNames { // what it was good for it stays good for
		names = append(names, strings.ToLower(name))
	}
	for _, ip := range own.Leaf.IPAddresses {
		names = append(names, ip.String())
	}
	slices.Sort(names)
	names = slices.Compact(names)
	ca := n.ca.Load()
	switch self, _ := n.cluster.Member(n.cfg.Node); {
	case ca == nil:
		return own, errors.New("this server does not have the key of the cluster's CA, so it cannot make one")
	case self.Removed:
		return own, errors.New("this server was removed from the cluster")
	}
	made, err := n.shown.get(ca, n.cfg.Node, names, time.Duration(n.cfg.TLS.Lifetime))
	if err != nil {
		return own, err
	}
	return made, nil
}

// get returns the certificate that is good for these names, and makes it unless there is one.
func (s *shown) get(ca *peer.CA, node string, names []string, lifetime time.Duration) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	index := strings.Join(names, " ")
	if c := s.made[index]; c != nil && s.by == ca && !due(c.Leaf.NotBefore, c.Leaf.NotAfter, time.Now(), lifetime) {
		return c, nil
	}
	if s.key == nil {
		key, _, err := peer.NewKey()
		if err != nil {
			return nil, fmt.Errorf("key for clients: %w", err)
		}
		s.key = key
	}
	c, err := ca.SignService(node, s.key, names, lifetime)
	if err != nil {
		return nil, err
	}
	if s.by != ca || len(s.made) >= shownMax {
		s.made = map[string]*tls.Certificate{}
	}
	s.by, s.made[index] = ca, c
	return c, nil
}

// serviceNames are the service addresses and names of that volume, or of all, as far as this server has a copy.
func (n *Node) serviceNames(volume string) (names []string) {
	for _, v := range n.cfg.Volumes {
		if (volume == "" || volume == v.Name) && n.find(v.Name) != nil {
			names = append(names, servicesIn(v)...)
		}
	}
	return names
}

// servicesIn are the service address and name of one volume.
func servicesIn(v config.Volume) (names []string) {
	if p, err := netip.ParsePrefix(v.ServiceAddress); err == nil {
		names = append(names, p.Addr().String())
	}
	if v.ServiceName != "" {
		names = append(names, strings.ToLower(v.ServiceName))
	}
	return names
}

// servicesOf is what a check wants to know of a volume's service addresses and names.
func (n *Node) servicesOf(volume string) (out []preflight.Service) {
	for _, name := range n.serviceNames(volume) {
		dialed, err := netip.ParseAddr(name)
		s := preflight.Service{Volume: volume, Name: name, AltName: "IP:" + name, TLS: n.cfg.NBD.TLS}
		if err != nil { // it is a DNS name
			s.AltName = "DNS:" + name
		}
		if s.TLS {
			if cert, err := n.certificateFor(dialed); cert.Leaf.VerifyHostname(name) != nil {
				s.Err = words(err)
			}
		}
		out = append(out, s)
	}
	return out
}
