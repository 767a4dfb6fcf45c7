package node

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"keelson/internal/cluster"
	"keelson/internal/config"
	"keelson/internal/peer"
	"keelson/internal/vfs"
)

// serving is server a of a cluster that has its CA's key and copies of data and more, which clients find at service addresses and names.
func serving(t *testing.T) (*Node, *peer.CA) {
	t.Helper()
	n := idle(t)
	ca, err := peer.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	if n.id, err = ca.Identity("a"); err != nil {
		t.Fatal(err)
	}
	if n.cluster, err = cluster.Open(vfs.NewMem(1), "/cluster", "a", cluster.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.cluster.Close() })
	n.cfg.NBD.TLS = true
	n.cfg.Volumes = []config.Volume{
		{Name: "data", ServiceAddress: "192.0.2.10/24", ServiceInterface: "eth0", ServiceName: "Data.example.com"},
		{Name: "more", ServiceAddress: "2001:db8::11/64", ServiceInterface: "eth0"},
		{Name: "elsewhere", ServiceAddress: "192.0.2.12/24", ServiceInterface: "eth0", ServiceName: "elsewhere.example.com"},
		{Name: "mounted", Mount: "/srv/data"},
	}
	for _, name := range []string{"data", "more", "mounted"} {
		n.volumes[name] = &vol{n: n, name: name}
	}
	n.ca.Store(ca)
	return n, ca
}

// Clients are shown a certificate that is good for the server, the address that they dialed, and the service addresses and names of the volumes of which the
// server has a copy, and for no others.
func TestCertificateForClients(t *testing.T) {
	n, ca := serving(t)
	dialed := netip.MustParseAddr("::ffff:10.0.0.1")
	cert, err := n.certificateFor(dialed)
	if err != nil {
		t.Fatal(err)
	}
	good := func(cert *tls.Certificate, names ...string) {
		t.Helper()
		for _, name := range names {
			if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: n.id.CA, DNSName: name}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	bad := func(cert *tls.Certificate, names ...string) {
		t.Helper()
		for _, name := range names {
			if cert.Leaf.VerifyHostname(name) == nil {
				t.Errorf("it is good for %s", name)
			}
		}
	}
	services := []string{"192.0.2.10", "data.example.com", "2001:db8::11"}
	good(cert, append(services, "a.keelson", "10.0.0.1")...)
	bad(cert, "192.0.2.12", "elsewhere.example.com", "b.keelson", "10.0.0.2")
	if peer.KeyID(cert.Leaf) == peer.KeyID(n.id.Leaf()) {
		t.Error("it has the server's own key")
	}
	again, err := n.certificateFor(dialed)
	if err != nil || again != cert {
		t.Errorf("another one is made each time: %v", err)
	}

	delete(n.volumes, "data") // the volume is deleted, or the copy removed
	cert, err = n.certificateFor(dialed)
	if err != nil {
		t.Fatal(err)
	}
	good(cert, "2001:db8::11", "a.keelson")
	bad(cert, "192.0.2.10", "data.example.com")
	n.volumes["data"] = &vol{n: n, name: "data"}

	for i := range 5 * shownMax { // addresses come and go
		if _, err := n.certificateFor(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})); err != nil {
			t.Fatal(err)
		}
		if len(n.shown.made) > shownMax {
			t.Fatalf("%d are kept", len(n.shown.made))
		}
	}

	cert, err = n.certificateFor(dialed)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	reloaded, err := peer.ParseCA(ca.PEM(), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	n.ca.Store(reloaded)
	if again, err := n.certificateFor(dialed); err != nil || again == cert {
		t.Errorf("another CA's key, the same certificate: %v", err)
	}
	n.cfg.TLS.Lifetime = config.Duration(time.Hour)
	cert, err = n.certificateFor(netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if left := time.Until(cert.Leaf.NotAfter); left > time.Hour || left < 50*time.Minute {
		t.Errorf("it is good for %s", left)
	}
	cert.Leaf.NotAfter = time.Now().Add(19 * time.Minute)
	if again, err := n.certificateFor(netip.Addr{}); err != nil || again == cert {
		t.Errorf("it ends soon and is not made anew: %v", err)
	}
}

// Without the CA's key, or once this server was removed, its own certificate is shown; a check says why that is not good for the service address, unless it is.
func TestNoCertificateForClients(t *testing.T) {
	shows := func(t *testing.T, n *Node, own bool) {
		t.Helper()
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		if got := n.shownToClient(&tls.ClientHelloInfo{Conn: near}); (got.Leaf == n.id.Leaf()) != own {
			t.Errorf("it shows %q %q", got.Leaf.DNSNames, got.Leaf.IPAddresses)
		}
	}
	const lacksKey = "this server does not have the key of the cluster's CA, so it cannot make one"
	for name, test := range map[string]struct {
		without func(t *testing.T, n *Node, ca *peer.CA)
		own     bool
		says    []string // of each service
	}{
		"all is there": {func(*testing.T, *Node, *peer.CA) {}, false, []string{"", "", ""}},
		"no CA's key":  {func(_ *testing.T, n *Node, _ *peer.CA) { n.ca.Store(nil) }, true, slices.Repeat([]string{lacksKey}, 3)},
		"removed": {func(t *testing.T, n *Node, _ *peer.CA) {
			if err := n.cluster.RemoveMember("a"); err != nil {
				t.Fatal(err)
			}
		}, true, slices.Repeat([]string{"this server was removed from the cluster"}, 3)},
		"no CA's key, and the certificate of [tls] has all names": {func(t *testing.T, n *Node, ca *peer.CA) {
			n.ca.Store(nil)
			n.id.Cert.Leaf.DNSNames = append(n.id.Cert.Leaf.DNSNames, "data.example.com")
			n.id.Cert.Leaf.IPAddresses = []net.IP{net.ParseIP("192.0.2.10"), net.ParseIP("2001:db8::11")}
		}, true, []string{"", "", ""}},
		"no CA's key, and the certificate of [tls] has one of them": {func(t *testing.T, n *Node, ca *peer.CA) {
			n.ca.Store(nil)
			n.id.Cert.Leaf.IPAddresses = []net.IP{net.ParseIP("192.0.2.10")}
		}, true, []string{"", lacksKey, lacksKey}},
	} {
		t.Run(name, func(t *testing.T) {
			n, ca := serving(t)
			test.without(t, n, ca)
			shows(t, n, test.own)
			var says []string
			for _, s := range append(n.servicesOf("data"), n.servicesOf("more")...) {
				says = append(says, s.Err)
			}
			if !slices.Equal(says, test.says) {
				t.Errorf("a check says %q", says)
			}
		})
	}
	n, _ := serving(t)
	if got := n.servicesOf("mounted"); got != nil {
		t.Errorf("%+v", got)
	}
}

// The status names the addresses that follow the source, if NBD is served there.
func TestFollowers(t *testing.T) {
	for address, want := range map[string][]string{
		"0.0.0.0:10809":  {"nbds://192.0.2.10:10809/data", "nbds://data.example.com:10809/data"},
		"[::]:1":         {"nbds://192.0.2.10:1/data", "nbds://data.example.com:1/data"},
		":1":             {"nbds://192.0.2.10:1/data", "nbds://data.example.com:1/data"},
		"10.0.0.1:10809": nil,
		"":               nil,
	} {
		n, _ := serving(t)
		n.cfg.NBD.Address = address
		if got := n.followers("data"); !slices.Equal(got, want) {
			t.Errorf("%q: %q", address, got)
		}
	}
	n, _ := serving(t)
	n.cfg.NBD.Address, n.cfg.NBD.TLS = "0.0.0.0:10809", false
	if got := n.followers("more"); !slices.Equal(got, []string{"nbd://[2001:db8::11]:10809/more"}) {
		t.Errorf("%q", got)
	}
}
