package peer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
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
	cert, err := loadPEM(filepath.Join(dir, CAFile), x509.ParseCertificate)
	if err != nil {
		return nil, err
	}
	key, err := loadPEM(filepath.Join(dir, CAKeyFile), x509.ParseECPrivateKey)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) || len(cert.Subject.Organization) != 1 {
		return nil, fmt.Errorf("%s: %s and %s do not belong together", dir, CAFile, CAKeyFile)
	}
	return &CA{cert.Subject.Organization[0], cert, key}, nil
}

func loadPEM[T any](path string, parse func([]byte) (T, error)) (v T, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return v, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return v, fmt.Errorf("%s holds no PEM block", path)
	}
	if v, err = parse(block.Bytes); err != nil {
		return v, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
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

// PEM is the CA's certificate, what every server trusts.
func (ca *CA) PEM() []byte { return encodeCert(ca.cert.Raw) }

// Issue makes a key and a certificate for a server, as PEM.
func (ca *CA) Issue(node string) (certPEM, keyPEM []byte, err error) {
	if err := CheckNodeName(node); err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("key of %s: %w", node, err)
	}
	t := template(pkix.Name{CommonName: node, Organization: []string{ca.Cluster}})
	t.DNSNames = []string{node + dnsSuffix}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of %s: %w", node, err)
	}
	keyPEM, err = encodeKey(key)
	return encodeCert(der), keyPEM, err
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
