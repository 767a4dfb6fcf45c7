package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// CA signs the certificates of one cluster's servers. Its key is needed only to admit a server.
type CA struct {
	Cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// CAKeyFile is the name of the CA's key in its directory; only NewCA and LoadCA use it.
const CAKeyFile = "ca.key"

const (
	certYears     = 20
	certBackdated = 48 * time.Hour // clocks of new servers may be late
)

// NewCA makes a CA, and with it a cluster of a new random id.
func NewCA() (*CA, error) { return newCA(randomHex(16)) }

func newCA(cluster string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of the cluster's CA: %w", err)
	}
	t := template(pkix.Name{CommonName: "keelson cluster " + cluster, Organization: []string{cluster}})
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the cluster's CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of the cluster's CA: %w", err)
	}
	return &CA{cluster, cert, key}, nil
}

// LoadCA reads ca.crt and ca.key in dir.
func LoadCA(dir string) (*CA, error) {
	cert, err := os.ReadFile(filepath.Join(dir, CAFile))
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, err
	}
	ca, err := ParseCA(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return ca, nil
}

// Save writes ca.crt and ca.key to dir, which exists. The key is readable by its owner only.
func (ca *CA) Save(dir string) error {
	keyPEM, err := encodeKey(ca.key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, CAKeyFile), keyPEM, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, CAFile), ca.PEM(), 0o644)
}

// Signed reports whether this CA has signed the certificate.
func (ca *CA) Signed(cert *x509.Certificate) bool { return cert.CheckSignatureFrom(ca.cert) == nil }

// PEM is the CA's certificate, what every server trusts.
func (ca *CA) PEM() []byte { return encodeCert(ca.cert.Raw) }

// Issue makes a key and a certificate for a server, as PEM.
func (ca *CA) Issue(node string) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := NewKey()
	if err != nil {
		return nil, nil, fmt.Errorf("key of %s: %w", node, err)
	}
	certPEM, err = ca.Sign(node, &key.PublicKey, 0)
	return certPEM, keyPEM, err
}

// NewKey makes the key of a server, and its PEM.
func NewKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := encodeKey(key)
	return key, keyPEM, err
}

// Sign makes a certificate for a server's key, as PEM, that ends after lifetime; 0: 20 years.
func (ca *CA) Sign(node string, key any, lifetime time.Duration) ([]byte, error) {
	now := time.Now()
	end := now.AddDate(certYears, 0, 0)
	if lifetime > 0 {
		end = now.Add(lifetime)
	}
	return ca.signAt(node, key, now.Add(-certBackdated), end)
}

// SignClient makes a certificate for the key of a client that is no server, as PEM. Its name is not in the form of a
// server's, so that it can never be taken for one.
func (ca *CA) SignClient(name string, key any) ([]byte, error) {
	if err := CheckNodeName(name); err != nil {
		return nil, err
	}
	t := template(pkix.Name{CommonName: name, Organization: []string{ca.Cluster}, OrganizationalUnit: []string{unitClient}})
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of client %s: %w", name, err)
	}
	return encodeCert(der), nil
}

func (ca *CA) signAt(node string, key any, from, to time.Time) ([]byte, error) {
	if err := CheckNodeName(node); err != nil {
		return nil, err
	}
	t := template(pkix.Name{CommonName: node, Organization: []string{ca.Cluster}})
	t.DNSNames = []string{node + dnsSuffix}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	t.NotBefore, t.NotAfter = from, to
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", node, err)
	}
	return encodeCert(der), nil
}

// ParseCA makes a CA of the PEM texts of its certificate and its key.
func ParseCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := parsePEM("the CA's certificate", certPEM, x509.ParseCertificate)
	if err != nil {
		return nil, err
	}
	key, err := parsePEM("the CA's key", keyPEM, x509.ParseECPrivateKey)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) || len(cert.Subject.Organization) != 1 {
		return nil, fmt.Errorf("the CA's certificate and key do not belong together")
	}
	return &CA{cert.Subject.Organization[0], cert, key}, nil
}

// KeyPEM is the CA's key: with it, and no further check, certificates can be made.
func (ca *CA) KeyPEM() ([]byte, error) { return encodeKey(ca.key) }

// MakeRequest makes the request for a certificate of a key, as DER: it proves that who asks has the key.
func MakeRequest(keyPEM []byte) ([]byte, error) {
	key, err := parsePEM("the server's key", keyPEM, x509.ParseECPrivateKey)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// ReadRequest checks what MakeRequest made, and returns the key and its identity. Only keys of the kind that NewKey makes
// are taken.
func ReadRequest(der []byte) (key *ecdsa.PublicKey, id string, err error) {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, "", fmt.Errorf("the request for a certificate: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, "", fmt.Errorf("the request for a certificate: %w", err)
	}
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, "", fmt.Errorf("the request for a certificate is not of an ECDSA key on P-256")
	}
	sum := sha256.Sum256(request.RawSubjectPublicKeyInfo)
	return key, hex.EncodeToString(sum[:]), nil
}

func parsePEM[T any](what string, text []byte, parse func([]byte) (T, error)) (v T, err error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return v, fmt.Errorf("%s is no PEM block", what)
	}
	if v, err = parse(block.Bytes); err != nil {
		return v, fmt.Errorf("%s: %w", what, err)
	}
	return v, nil
}

// IssueTo issues a certificate and writes ca.crt, node.crt and node.key to dir, which exists, for LoadIdentity.
func (ca *CA) IssueTo(dir, node string) error {
	certPEM, keyPEM, err := ca.Issue(node)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, KeyFile), keyPEM, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, CertFile), certPEM, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, CAFile), ca.PEM(), 0o644)
}

// Identity issues a certificate and makes the server's identity of it, for servers within this process.
func (ca *CA) Identity(node string) (Identity, error) {
	certPEM, keyPEM, err := ca.Issue(node)
	if err != nil {
		return Identity{}, err
	}
	return NewIdentity(ca.PEM(), certPEM, keyPEM)
}

func template(name pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial, Subject: name,
		NotBefore: now.Add(-certBackdated), NotAfter: now.AddDate(certYears, 0, 0),
	}
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
