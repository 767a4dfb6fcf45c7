package nbd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
	"keelson/internal/frontend/nbd/nbdclient"
	p "keelson/internal/frontend/nbd/nbdproto"
)

// authority issues certificates for 127.0.0.1.
type authority struct {
	tb   testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(tb testing.TB) *authority {
	a := &authority{tb: tb, pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.key, a.cert = a.issue(template, nil)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) issue(template *x509.Certificate, signer *authority) (*ecdsa.PrivateKey, *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.tb.Fatal(err)
	}
	parent, signKey := template, key
	if signer != nil {
		parent, signKey = signer.cert, signer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signKey)
	if err != nil {
		a.tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.tb.Fatal(err)
	}
	return key, cert
}

// leaf returns a certificate for both ends.
func (a *authority) leaf(name string) tls.Certificate {
	key, cert := a.issue(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// directory writes the files that libnbd wants of a client.
func (a *authority) directory(leaf tls.Certificate) string {
	dir := a.tb.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(leaf.PrivateKey)
	if err != nil {
		a.tb.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca-cert.pem":     {Type: "CERTIFICATE", Bytes: a.cert.Raw},
		"client-cert.pem": {Type: "CERTIFICATE", Bytes: leaf.Certificate[0]},
		"client-key.pem":  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			a.tb.Fatal(err)
		}
	}
	return dir
}

func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	r := start(t, blocktest.NewMem(8*mib), nbd.Options{
		TLSRequired: true,
		TLS: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{ca.leaf("server")},
			ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool,
		},
	})
	uri := "nbds://" + r.tcp + "/data"
	client := ca.leaf("client")
	libnbd := uri + "?tls-certificates=" + ca.directory(client)
	contains(t, output(t, "nbdinfo", libnbd), "with TLS", "export-size: 8388608")
	path, content := image(t, 8*mib)
	back := filepath.Join(t.TempDir(), "back")
	output(t, "nbdcopy", "--connections=4", path, libnbd)
	output(t, "nbdcopy", "--connections=4", libnbd, back)
	sameFile(t, back, content)

	mine := &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{client}, ServerName: "127.0.0.1"}
	c, err := nbdclient.DialOptions(uri, nbdclient.Options{TLS: mine})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ReadAt(make([]byte, 4*mib), mib); err != nil {
		t.Error(err)
	}
	if info := r.Connections("data"); len(info) != 1 || !info[0].TLS {
		t.Errorf("connections: %+v", info)
	}
	c.Close()

	contains(t, failing(t, "nbdinfo", "nbd://"+r.tcp+"/data"), "TLS")
	_, err = nbdclient.Dial("nbd://" + r.tcp + "/data")
	var refused *nbdclient.RefusedError
	if !errors.As(err, &refused) || refused.Reply != p.RepErrTLSReqd {
		t.Errorf("without TLS: %v", err)
	}
	stranger := newAuthority(t).leaf("stranger")
	_, err = nbdclient.DialOptions(uri, nbdclient.Options{TLS: &tls.Config{
		RootCAs: ca.pool, Certificates: []tls.Certificate{stranger}, ServerName: "127.0.0.1"}})
	if err == nil {
		t.Error("a certificate of another authority was accepted")
	}
	if _, err := r.dial(t).ReadAt(make([]byte, 10), 0); err != nil {
		t.Errorf("a unix socket needs no TLS: %v", err)
	}
}

// TestInjectionBeforeTLS: what was sent in clear before the TLS handshake must not count as said inside.
func TestInjectionBeforeTLS(t *testing.T) {
	ca := newAuthority(t)
	r := start(t, blocktest.NewMem(mib), nbd.Options{TLS: &tls.Config{Certificates: []tls.Certificate{ca.leaf("server")}}})
	got := say(t, r, false, join(clientFlags, option(p.OptStartTLS, nil), option(p.OptList, nil)))
	if len(got) != 18 {
		t.Errorf("the server went on: %x", got)
	}
	waitFor(t, "the server's word about it", func() bool { return r.log.has("data after STARTTLS") })
}
