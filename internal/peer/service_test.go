package peer

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// service is a certificate for clients of that server, with its key.
func service(t *testing.T, node string, also ...string) *tls.Certificate {
	t.Helper()
	ca, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignService(node, key, also, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// goodFor is nil if a client that trusts the CA and dialed that takes the certificate.
func goodFor(t *testing.T, cert *x509.Certificate, dialed string) error {
	t.Helper()
	_, err := cert.Verify(x509.VerifyOptions{Roots: identity(t, "x").CA, DNSName: dialed})
	return err
}

func TestServiceCertificateNames(t *testing.T) {
	leaf := service(t, "a", "192.0.2.10", "2001:db8::10", "data.example.com", "a.keelson").Leaf
	for _, dialed := range []string{"a.keelson", "192.0.2.10", "2001:db8::10", "data.example.com", "DATA.example.com"} {
		if err := goodFor(t, leaf, dialed); err != nil {
			t.Errorf("%s: %v", dialed, err)
		}
	}
	for _, dialed := range []string{"b.keelson", "192.0.2.11", "other.example.com", "a"} {
		if err := goodFor(t, leaf, dialed); err == nil {
			t.Errorf("it is good for %s", dialed)
		}
	}
	ca, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	key, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b.keelson", "B.KEELSON", ".keelson"} {
		if _, err := ca.SignService("a", key, []string{name}, 0); err == nil || !strings.Contains(err.Error(), "another server") {
			t.Errorf("%s: %v", name, err)
		}
	}
	var many []string
	for i := range serviceNamesMax + 1 {
		many = append(many, fmt.Sprintf("v%d.example", i))
	}
	if _, err := ca.SignService("a", key, many, 0); err == nil || !strings.Contains(err.Error(), "at most 256") {
		t.Errorf("too many names: %v", err)
	}
	if _, err := ca.SignService("../a", key, nil, 0); err == nil {
		t.Error("a name that is no server's")
	}
}

// TestServiceCertificateIsNoServer: who has a certificate for clients, and its key, is no server to servers: not at their port, not when they dial, even if its key were
// admitted; nor is it a client where clients are.
func TestServiceCertificateIsNoServer(t *testing.T) {
	for name, cert := range map[string]*tls.Certificate{
		"of the server itself":          service(t, "a", "192.0.2.10"),
		"with a name besides":           service(t, "a", "data.example.com"),
		"of the server, without others": service(t, "a"),
	} {
		for _, standing := range []Standing{Named, Known} {
			t.Run(fmt.Sprintf("%s, standing %d", name, standing), func(t *testing.T) {
				poser := identity(t, "a")
				poser.Cert, poser.renewed = *cert, nil
				b, _ := gated(t, "b", map[string]Standing{"a": standing})
				s := accepting(t, b)
				if _, _, err := Dial(within(t, 10*time.Second), s.Addr().String(), "b", poser, someHello(), Options{}); err == nil {
					t.Error("it is let in at the port")
				}
				_, _, err := Dial(within(t, 10*time.Second), accepting(t, poser).Addr().String(), "a", b, someHello(), Options{})
				wantError(t, err, RuleCertificate, "is a service's")
				err = handshake(t, b.ClientsTLS(func(string) bool { return true }, func(*tls.ClientHelloInfo) *tls.Certificate { return b.Shown() }), &poser.Cert)
				if err == nil {
					t.Error("it is let in as a client")
				}
				if b.JudgeClient(cert.Leaf, func(string) bool { return false }) == nil {
					t.Error("it is judged a client")
				}
			})
		}
	}
	if _, _, err := names(service(t, "a").Leaf); err == nil {
		t.Error("it names a server")
	}
}

// handshake is what the server says of a client that shows that certificate.
func handshake(t *testing.T, config *tls.Config, cert *tls.Certificate) error {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() { // ends when the pipe is closed
		client := tls.Client(near, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*cert}})
		_ = client.Handshake()
		_, _ = client.Read(make([]byte, 1))
	}()
	server := tls.Server(far, config)
	_ = far.SetDeadline(time.Now().Add(10 * time.Second))
	return server.Handshake()
}

// TestClientCertificateIsNoServer: a client's certificate is not good for a server of any name, not even of the client's own.
func TestClientCertificateIsNoServer(t *testing.T) {
	ca, err := cluster()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vm", "192.0.2.10", "a.keelson"} {
		key, _, err := NewKey()
		if err != nil {
			t.Fatal(err)
		}
		certPEM, err := ca.SignClient(name, &key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := parsePEM("a client's certificate", certPEM, x509.ParseCertificate)
		if err != nil {
			t.Fatal(err)
		}
		if err := goodFor(t, leaf, name); err == nil {
			t.Errorf("that of client %s is good for a server %s", name, name)
		}
		if err := goodFor(t, leaf, ""); err == nil {
			t.Errorf("that of client %s is good for a server", name)
		}
		if _, _, err := names(leaf); err == nil {
			t.Errorf("that of client %s names a server", name)
		}
	}
}

// TestCertificateWithOtherNames: a server's own certificate, made elsewhere, may have service addresses and names; it names one server.
func TestCertificateWithOtherNames(t *testing.T) {
	for _, test := range []struct {
		dns  []string
		unit string
		node string // "": none
	}{
		{[]string{"a.keelson"}, "", "a"},
		{[]string{"data.example.com", "a.keelson"}, "", "a"},
		{[]string{"a.keelson"}, "our servers", "a"},
		{[]string{"a.keelson", "b.keelson"}, "", ""},
		{[]string{"a.keelson", "B.Keelson"}, "", ""},
		{[]string{"data.example.com"}, "", ""},
		{nil, "", ""},
		{[]string{"a.keelson"}, unitService, ""},
		{[]string{"a.keelson"}, unitClient, ""},
	} {
		cert := &x509.Certificate{DNSNames: test.dns, IPAddresses: []net.IP{net.IPv4(192, 0, 2, 10)}}
		cert.Subject.Organization, cert.Subject.CommonName = []string{"c"}, "a"
		if test.unit != "" {
			cert.Subject.OrganizationalUnit = []string{test.unit}
		}
		if _, node, err := names(cert); node != test.node || (err == nil) != (test.node != "") {
			t.Errorf("%q, unit %q: node %q, %v", test.dns, test.unit, node, err)
		}
	}
}
