package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson/internal/frontend/nbd/nbdclient"
	"keelson/internal/peer"
)

// tlsOf is what an NBD client shows and expects of server a.
func tlsOf(t *testing.T, ca, cert, key []byte) *tls.Config {
	t.Helper()
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, ServerName: "a.keelson"}
}

// uses reads from the volume as that client.
func uses(uri string, config *tls.Config) (*nbdclient.Client, error) {
	d, err := nbdclient.DialOptions(uri, nbdclient.Options{TLS: config})
	if err == nil {
		_, err = d.ReadAt(make([]byte, 4096), 0)
	}
	return d, err
}

// TestNBDClientsAreAdmitted: at the NBD port with TLS members and admitted clients are let in, whichever server admitted them; a removed server is not, neither
// with its certificate nor with one that it signs by the CA's key, nor is a client that was removed; and their live connections end.
func TestNBDClientsAreAdmitted(t *testing.T) {
	c := founded(t, "a")
	address := freeAddress(t)
	c.edit("a", "[nbd]\n", "[nbd]\naddress = \""+address+"\"\ntls = true\n")
	c.start("a")
	c.join("a", "b", "")
	c.waitMembers("a", "b")
	c.waitCAKey("b")
	c.run("a", "volume", "create", "data", "--source", "a:"+c.image("a"), "--size", "64MiB")
	uri := "nbds://" + address + "/data"
	read := func(path string) []byte { return must(os.ReadFile(path)) }

	dir := filepath.Join(c.dir, "vm")
	c.run("b", "client", "add", "vm", "--dir", dir)
	ca := read(filepath.Join(dir, "ca-cert.pem"))
	vm := tlsOf(t, ca, read(filepath.Join(dir, "client-cert.pem")), read(filepath.Join(dir, "client-key.pem")))
	var live *nbdclient.Client
	c.wait("a lets in whom b admitted", settleMax, func() (err error) { live, err = uses(uri, vm); return err })
	sh(t, "qemu-io", "--object", "tls-creds-x509,id=t,dir="+dir+",endpoint=client",
		"--image-opts", "driver=nbd,host="+strings.Replace(address, ":", ",port=", 1)+",export=data,tls-creds=t,tls-hostname=a.keelson", "-c", "write -q -P 7 0 1M", "-c", "flush")

	member := tlsOf(t, ca, read(c.path("b", peer.CertFile)), read(c.path("b", peer.KeyFile)))
	theirs, err := uses(uri, member)
	if err != nil {
		t.Fatalf("a member: %v", err)
	}
	stolen := must(peer.LoadCA(c.path("b", "")))
	forge := func(name string) *tls.Config {
		key, keyPEM, err := peer.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		return tlsOf(t, ca, must(stolen.SignClient(name, &key.PublicKey)), keyPEM)
	}
	signedServer := func(name string) *tls.Config {
		cert, key, err := stolen.Issue(name)
		if err != nil {
			t.Fatal(err)
		}
		return tlsOf(t, ca, cert, key)
	}
	refuse := func(what string, config *tls.Config) {
		t.Helper()
		if d, err := uses(uri, config); err == nil {
			d.Close()
			t.Errorf("%s is let in", what)
		}
	}
	for _, name := range []string{"vm", "stranger"} {
		refuse("a certificate of the CA for "+name+" whose key nobody admitted", forge(name))
	}
	if d, err := nbdclient.Dial("nbd://" + address + "/data"); err == nil {
		d.Close()
		t.Error("somebody without TLS is let in")
	}

	c.run("a", "node", "remove", "b", "--yes")
	c.wait("the connection of the removed server ends", settleMax, func() error { return hasEnded(theirs) })
	refuse("a removed server", member)
	refuse("a client that the removed server signed", forge("vm"))
	for _, name := range []string{"b", "a", "z"} {
		refuse("a certificate that the removed server signed for server "+name, signedServer(name))
	}
	if err := hasEnded(live); err == nil {
		t.Error("the client that was admitted is cut too")
	}
	if list := c.run("a", "client", "list"); !strings.Contains(list, "vm ") {
		t.Errorf("list: %s", list)
	}
	c.run("a", "client", "remove", "vm")
	c.wait("the connection of the removed client ends", settleMax, func() error { return hasEnded(live) })
	refuse("a removed client", vm)
	c.refused("unknown-client", "a", "client", "remove", "vm")
	c.stop("b")
}

// hasEnded is nil when the connection has ended.
func hasEnded(d *nbdclient.Client) error {
	if _, err := d.ReadAt(make([]byte, 4096), 0); err != nil {
		return nil
	}
	return errors.New("it reads still")
}
