package peer

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net"
	"strings"
	"time"
)

// Certificates of the CA that are no server's identity say so in their OrganizationalUnit.
const (
	unitClient  = "client"  // of a client of NBD over TCP
	unitService = "service" // what a server shows to such clients
)

// serviceNamesMax bounds the size of a handshake: names and addresses of one certificate.
const serviceNamesMax = 256

// isNodeDNS reports whether a DNS name is one that names a server of a cluster.
func isNodeDNS(name string) bool { return strings.HasSuffix(strings.ToLower(name), dnsSuffix) }

// SignService makes the certificate that a server shows to clients that are no servers. They verify it by the CA and by what they dialed: it is
// good for the server's own name, and for these names and addresses. It is no server's identity, whoever has its key: see names. Nor is it a
// client's: clients' certificates are not good for servers, and this one is good for nothing else.
func (ca *CA) SignService(node string, key *ecdsa.PrivateKey, also []string, lifetime time.Duration) (*tls.Certificate, error) {
	if err := CheckNodeName(node); err != nil {
		return nil, err
	}
	if len(also) > serviceNamesMax {
		return nil, fmt.Errorf("certificate for clients of %s: %d names and addresses, at most %d fit into one", node, len(also), serviceNamesMax)
	}
	t := template(pkix.Name{CommonName: node, Organization: []string{ca.Cluster}, OrganizationalUnit: []string{unitService}})
	t.DNSNames = []string{node + dnsSuffix}
	for _, name := range also {
		ip := net.ParseIP(name)
		switch {
		case ip != nil:
			t.IPAddresses = append(t.IPAddresses, ip)
		case strings.EqualFold(name, node+dnsSuffix): // it has that
		case isNodeDNS(name):
			return nil, fmt.Errorf("certificate for clients of %s: %s is the name of another server", node, name)
		default:
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	if lifetime > 0 {
		t.NotAfter = time.Now().Add(lifetime)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for clients of %s: %w", node, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate for clients of %s: %w", node, err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
