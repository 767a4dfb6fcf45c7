package peer

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Identity is who this process is to its peers.
//
// A server's certificate carries three things: the cluster's id as Organization, the node's name as CommonName, and
// the name "NODE.keelson", its only DNS name that ends so. It may have other names and addresses, which are for clients that are no
// servers. It is signed by the cluster's own CA, and nothing else is trusted.
type Identity struct {
	Cluster     string // id of the cluster
	Node        string
	Incarnation string          // 128 random bits in hexadecimal, new at every start of the process
	Cert        tls.Certificate // at the start: see Renew
	CA          *x509.CertPool  // the cluster's, and no other
	Gate        *Gate           // nil: whoever the CA has signed is let in

	roots   []*x509.Certificate // what CA holds
	renewed *atomic.Pointer[tls.Certificate]
}

// certificate is the one to show now.
func (id *Identity) certificate() *tls.Certificate {
	if id.renewed != nil {
		if c := id.renewed.Load(); c != nil {
			return c
		}
	}
	return &id.Cert
}

// Shown is the certificate that this server shows now.
func (id *Identity) Shown() *tls.Certificate { return id.certificate() }

// Leaf is this server's certificate now.
func (id *Identity) Leaf() *x509.Certificate { return id.certificate().Leaf }

// CAEnds is when the certificate of the cluster's CA ends; of several, the last.
func (id *Identity) CAEnds() (end time.Time) {
	for _, root := range id.roots {
		if root.NotAfter.After(end) {
			end = root.NotAfter
		}
	}
	return end
}

// Renew shows another certificate of the same key in handshakes from now on, at every copy of the Identity.
func (id *Identity) Renew(certPEM []byte) error {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return errors.New("the new certificate is no PEM block")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if KeyID(leaf) != KeyID(id.Leaf()) {
		return errors.New("the new certificate is of another key")
	}
	if err := id.signedBy(leaf); err != nil {
		return err
	}
	id.renewed.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: id.Cert.PrivateKey, Leaf: leaf})
	return nil
}

// Names of the files in a certificate directory.
const (
	CAFile   = "ca.crt"
	CertFile = "node.crt"
	KeyFile  = "node.key"
)

// dnsSuffix is what makes a node's name the DNS name of its certificate.
const dnsSuffix = ".keelson"

// nodeNameMax is the longest name of a node in bytes (a DNS label's).
const nodeNameMax = 63

// CheckNodeName returns nil if name can be a node's: 1 to 63 lower-case letters, digits, '-', '_' or '.', the first and
// the last a letter or digit.
func CheckNodeName(name string) error {
	alnum := func(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }
	ok := 0 < len(name) && len(name) <= nodeNameMax && !strings.Contains(name, "..")
	for i := 0; ok && i < len(name); i++ {
		inner := 0 < i && i < len(name)-1 && strings.IndexByte("-_.", name[i]) >= 0
		ok = alnum(name[i]) || inner
	}
	if !ok {
		return fmt.Errorf("node name %q: use 1 to %d lower-case letters, digits, '-', '_' or '.', with a letter or digit first and last", name, nodeNameMax)
	}
	return nil
}

// LoadIdentity reads ca.crt, node.crt and node.key in dir, and checks that they belong together. The incarnation is a new one.
func LoadIdentity(dir string) (Identity, error) {
	fail := func(file string, err error) (Identity, error) {
		return Identity{}, fmt.Errorf("certificate %s: %w; make it again with `keelson node join`", filepath.Join(dir, file), err)
	}
	caPEM, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return fail(CAFile, err)
	}
	certPEM, err := os.ReadFile(filepath.Join(dir, CertFile))
	if err != nil {
		return fail(CertFile, err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return fail(KeyFile, err)
	}
	id, err := NewIdentity(caPEM, certPEM, keyPEM)
	if err != nil {
		return fail(CertFile, err)
	}
	return id, nil
}

// NewIdentity makes an identity of PEM texts and checks that they belong together. The incarnation is a new one.
func NewIdentity(caPEM, certPEM, keyPEM []byte) (Identity, error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{Cert: cert, CA: x509.NewCertPool(), Incarnation: randomHex(16), renewed: new(atomic.Pointer[tls.Certificate])}
	for block, rest := pem.Decode(caPEM); block != nil; block, rest = pem.Decode(rest) {
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return Identity{}, fmt.Errorf("the CA's file: %w", err)
		}
		id.CA.AddCert(root)
		id.roots = append(id.roots, root)
	}
	if len(id.roots) == 0 {
		return Identity{}, fmt.Errorf("the CA's file holds no certificate")
	}
	id.Cluster, id.Node, err = names(cert.Leaf)
	if err != nil {
		return Identity{}, err
	}
	if err := id.signedBy(cert.Leaf); err != nil { // out of its time it still is of use: see Known
		return Identity{}, fmt.Errorf("is not of this cluster: %w", err)
	}
	return id, nil
}

// names reads the cluster and the node from a certificate.
func names(cert *x509.Certificate) (cluster, node string, err error) {
	if len(cert.Subject.Organization) != 1 || cert.Subject.Organization[0] == "" {
		return "", "", fmt.Errorf("the certificate of %q names no cluster", cert.Subject.CommonName)
	}
	for _, unit := range cert.Subject.OrganizationalUnit {
		if unit == unitService || unit == unitClient {
			return "", "", fmt.Errorf("the certificate of %q is a %s's, not a server's of a cluster", cert.Subject.CommonName, unit)
		}
	}
	own := slices.DeleteFunc(slices.Clone(cert.DNSNames), func(name string) bool { return !isNodeDNS(name) })
	if len(own) != 1 {
		return "", "", fmt.Errorf("the certificate of %q is not a server's of a cluster", cert.Subject.CommonName)
	}
	node = strings.TrimSuffix(own[0], dnsSuffix)
	if err := CheckNodeName(node); err != nil {
		return "", "", fmt.Errorf("certificate: %w", err)
	}
	return cert.Subject.Organization[0], node, nil
}

func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: see crypto/rand
	return hex.EncodeToString(b)
}
