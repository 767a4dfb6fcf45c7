package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"keelson/internal/peer"
)

// TestCAIsReplaced: the procedure of docs/SECURITY.md. Server after server trusts the new CA too, then signs by it, then trusts it alone; the volume is mirrored
// all the while, and afterwards the old CA lets nobody in.
func TestCAIsReplaced(t *testing.T) {
	c := founded(t, "a")
	c.start("a")
	c.join("a", "b", "")
	c.waitMembers("a", "b")
	c.waitCAKey("b")
	c.run("a", "volume", "create", "data", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--size", "32MiB")
	c.waitMirroring("a", "b")
	read := func(path string) []byte { return must(os.ReadFile(path)) }
	oldCA, oldKey := read(c.path("a", peer.CAFile)), read(c.path("a", peer.CAKeyFile))
	cluster := must(peer.ParseCA(oldCA, oldKey)).Cluster

	key, cert := filepath.Join(c.dir, "new-ca.key"), filepath.Join(c.dir, "new-ca.crt")
	sh(t, "openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
	sh(t, "openssl", "req", "-x509", "-new", "-key", key, "-days", "7300", "-subj", "/O="+cluster+"/CN=keelson cluster "+cluster,
		"-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext", "keyUsage=critical,keyCertSign", "-out", cert)
	newCA, newKey := read(cert), read(key)

	step := func(ca, caKey []byte) {
		for _, node := range []string{"a", "b"} {
			c.stop(node)
			for name, text := range map[string][]byte{peer.CAFile: ca, peer.CAKeyFile: caKey} {
				if err := os.WriteFile(c.path(node, name), text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			c.start(node)
			c.waitMembers("a", "b")
			c.waitMirroring("a", "b")
		}
	}
	both := func(first, second []byte) []byte { return bytes.Join([][]byte{first, second}, nil) }
	step(both(oldCA, newCA), oldKey)
	step(both(newCA, oldCA), newKey)
	root := must(peer.ParseCA(newCA, newKey))
	for _, node := range []string{"a", "b"} {
		c.wait(node+" has a certificate of the new CA", settleMax, func() error {
			if cert := c.certificate(node); !root.Signed(cert) {
				return fmt.Errorf("it is signed by %s", cert.Issuer)
			}
			return nil
		})
	}
	step(newCA, newKey)
	old := must(peer.ParseCA(oldCA, oldKey))
	if err := c.reaches("a", must(old.Identity("b"))); err == nil {
		t.Error("the old CA lets somebody in")
	}
	c.join("b", "d", "")
	c.waitMembers("a", "b", "d")
}
