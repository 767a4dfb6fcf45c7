package e2e

import (
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
	"keelson/internal/peer"
)

// serviceName is the DNS name of the service address; otherName leads there too, and nothing says that it may.
const (
	serviceName = "data.example"
	otherName   = "other.example"
)

// client is a program's command line in the client's namespace, where both names lead to the service address.
func (n *lan) client(name string, args ...string) []string {
	return append([]string{"ip", "netns", "exec", n.namespace("client"), name}, args...)
}

// names makes the names known to the client.
func (n *lan) names() {
	t := n.c.t
	t.Helper()
	dir := "/etc/netns/" + n.namespace("client")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		_ = os.Remove("/etc/netns") // not empty: others use it
	})
	if err := os.WriteFile(filepath.Join(dir, "hosts"), []byte(serviceAddress+" "+serviceName+" "+otherName+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// qemuTLS is the option of qemu's programs for a client's certificates, and qemuDisk the volume at a host, with the name to expect ("": the host's).
func qemuTLS(dir string) string {
	return "tls-creds-x509,id=tls,dir=" + dir + ",endpoint=client,verify-peer=on"
}

func qemuDisk(host, port, expect string) string {
	disk := "driver=nbd,host=" + host + ",port=" + port + ",export=data,tls-creds=tls"
	if expect != "" {
		disk += ",tls-hostname=" + expect
	}
	return disk
}

// mustFail runs a program that has to fail saying one of these words.
func mustFail(t *testing.T, line []string, words ...string) {
	t.Helper()
	out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
	if err == nil {
		t.Errorf("%s: no error\n%s", strings.Join(line, " "), out)
		return
	}
	for _, w := range words {
		if strings.Contains(string(out), w) {
			return
		}
	}
	t.Errorf("%s says %s, not %q", strings.Join(line, " "), out, words)
}

// What libnbd and qemu say of a certificate that is not good for the name.
var wrongName = []string{"Error in the certificate verification", "does not match the hostname"}

// NBD clients that verify certificates find the volume at its service address and name, at the source and after a switchover, by the same words; a wrong name they do
// not take. A virtual machine's disk stays up meanwhile. At a server without the CA's key a check says what is missing, and a certificate made elsewhere does.
func TestClientsVerifyTheServiceAddress(t *testing.T) {
	c := demo(t, "64MiB")
	n := c.intoNamespaces("tls = true\n", "service-name = \""+serviceName+"\"\n")
	n.names()
	dir := filepath.Join(c.dir, "vm")
	c.run("a", "client", "add", "vm", "--dir", dir)
	uri := func(host string) string {
		return "nbds://" + host + ":" + servicePort + "/data?tls-certificates=" + dir
	}
	do := func(name string, args ...string) string {
		t.Helper()
		line := n.client(name, args...)
		return sh(t, line[0], line[1:]...)
	}
	qemu := func(program, host, expect string) []string {
		args := strings.Split(program, " ")
		return n.client(args[0], append(args[1:], "--object", qemuTLS(dir), "--image-opts", qemuDisk(host, servicePort, expect))...)
	}
	finds := func(node string) {
		t.Helper()
		n.alone(node)
		if shown := c.run(node, "status"); !strings.Contains(shown, "nbds://"+serviceAddress+":"+servicePort+"/data") {
			t.Errorf("%s does not say by which address clients find the volume:\n%s", node, shown)
		}
		c.wait("a client that verifies is let in at "+node, settleMax, func() error {
			line := n.client("nbdinfo", uri(serviceAddress))
			out, err := exec.Command(line[0], line[1:]...).CombinedOutput()
			if err == nil && !strings.Contains(string(out), "with TLS") {
				err = fmt.Errorf("it says %s", out)
			}
			return err
		})
		if !strings.Contains(do("nbdinfo", uri(serviceName)), "export-size: 67108864") {
			t.Error("nbdinfo shows something else")
		}
		mustFail(t, n.client("nbdinfo", uri(otherName)), wrongName...)
		for _, host := range []string{serviceAddress, serviceName} {
			line := qemu("qemu-img info", host, "")
			sh(t, line[0], line[1:]...)
		}
		line := qemu("qemu-img info", serviceAddress, node+".keelson")
		sh(t, line[0], line[1:]...)
		mustFail(t, qemu("qemu-img info", serviceAddress, c.after(node)+".keelson"), wrongName...)
		mustFail(t, qemu("qemu-img info", otherName, ""), wrongName...)
	}
	finds("a")
	image, back := filepath.Join(c.dir, "image"), filepath.Join(c.dir, "back")
	sh(t, "mkfs.ext4", "-q", "-F", "-d", "../../docs", image, "64M")
	do("nbdcopy", "--connections=4", "--flush", image, uri(serviceAddress))

	c.run("a", "switchover", c.name, "--to", "b", "--yes")
	finds("b")
	do("nbdcopy", "--connections=4", uri(serviceAddress), back)
	sh(t, "cmp", image, back)

	line := append(qemu("qemu-io", serviceAddress, ""), "-c", "write -q -z 0 8M", "-c", "flush") // where the guest's programs expect zeroes
	sh(t, line[0], line[1:]...)
	g := &guest{c: c}
	do("sysctl", "-qw", "net.ipv4.tcp_keepalive_time=5", "net.ipv4.tcp_keepalive_intvl=5", "net.ipv4.tcp_keepalive_probes=3")
	g.start(n.client("qemu-storage-daemon", "--object", qemuTLS(dir)),
		"server.type=inet,server.host="+serviceAddress+",server.port="+servicePort+",server.keep-alive=on,tls-creds=tls")
	g.wait("at b")
	c.waitMirroring("b", "a", "c")
	c.run("b", "switchover", c.name, "--to", "a", "--yes")
	g.wait("at a")

	// c has no key of the CA, as where certificates come from elsewhere.
	c.stop("c")
	if err := os.Remove(c.path("c", "tls/"+peer.CAKeyFile)); err != nil {
		t.Fatal(err)
	}
	c.start("c")
	c.waitMirroring("a", "b", "c")
	check := c.execute("a", "check", c.name, "--quick").stdout
	for _, want := range []string{"subjectAltName IP:" + serviceAddress, "subjectAltName DNS:" + serviceName} {
		if strings.Count(check, want) != 1 {
			t.Errorf("the check does not say of one server %q:\n%s", want, check)
		}
	}
	c.stop("c")
	c.signElsewhere("c", "DNS:c.keelson,IP:"+serviceAddress+",DNS:"+serviceName)
	c.start("c")
	c.waitMirroring("a", "b", "c")
	if check := c.execute("a", "check", c.name, "--quick").stdout; strings.Contains(check, "subjectAltName") {
		t.Errorf("with another certificate the check says still:\n%s", check)
	}
	c.run("a", "switchover", c.name, "--to", "c", "--yes")
	finds("c")
	g.wait("at c")
	c.waitMirroring("c", "a", "b")

	sh(t, "ip", "-n", n.namespace("client"), "link", "set", "to-c", "down") // as after a loss of power nothing more comes from c
	c.takeOver("a", "b")
	g.wait("at b, which took over")
	g.end()
}

// signElsewhere gives the server a certificate that openssl makes, as in docs/admin/virtual-machines.md.
func (c *cluster) signElsewhere(node, altNames string) {
	c.t.Helper()
	tls := c.path(node, "tls")
	id := must(peer.ParseCA(must(os.ReadFile(c.path("ca", peer.CAFile))), must(os.ReadFile(c.path("ca", peer.CAKeyFile))))).Cluster
	request, names := filepath.Join(c.dir, node+".csr"), filepath.Join(c.dir, node+".ext")
	must(0, os.WriteFile(names, []byte("subjectAltName="+altNames+"\nextendedKeyUsage=serverAuth,clientAuth\n"), 0o600))
	sh(c.t, "openssl", "req", "-new", "-key", filepath.Join(tls, peer.KeyFile), "-subj", "/O="+id+"/CN="+node, "-out", request)
	sh(c.t, "openssl", "x509", "-req", "-in", request, "-CA", c.path("ca", peer.CAFile), "-CAkey", c.path("ca", peer.CAKeyFile), "-CAcreateserial", "-days", "90",
		"-extfile", names, "-out", filepath.Join(tls, peer.CertFile))
}

// A client that verifies takes none of these for the server that it dialed: another server of the cluster by its own certificate, an admitted client by its certificate, whatever
// its name is, and a certificate for this very address by another CA.
func TestClientsRefuseOthers(t *testing.T) {
	const host = "127.0.0.1"
	ca := must(peer.NewCA())
	dir := t.TempDir()
	key, keyPEM, err := peer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	clientPEM := must(ca.SignClient(host, &key.PublicKey))
	for name, text := range map[string][]byte{"ca-cert.pem": ca.PEM(), "client-cert.pem": clientPEM, "client-key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	block, _ := pem.Decode(clientPEM)
	other := must(must(peer.NewCA()).SignService("a", key, []string{host}, time.Hour))
	b := must(ca.Identity("b"))
	for name, test := range map[string]struct {
		shown *tls.Certificate
		good  bool
	}{
		"the server":     {must(ca.SignService("a", newKey(t), []string{host}, time.Hour)), true},
		"another server": {b.Shown(), false},
		"a server that is known by another address": {must(ca.SignService("a", newKey(t), []string{"192.0.2.10", "data.example"}, time.Hour)), false},
		"a client":   {&tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}, false},
		"another CA": {other, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := nbd.NewServer(nbd.Options{TLSRequired: true, TLS: &tls.Config{Certificates: []tls.Certificate{*test.shown}}})
			if err := s.AddExport("data", blocktest.NewMem(1<<20), nbd.ExportOptions{}); err != nil {
				t.Fatal(err)
			}
			l := must(net.Listen("tcp", host+":0"))
			ended := make(chan error, 1)
			go func() { ended <- s.Serve(l) }()
			defer func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				<-ended
			}()
			_, port, _ := strings.Cut(l.Addr().String(), ":")
			info := []string{"nbdinfo", "nbds://" + l.Addr().String() + "/data?tls-certificates=" + dir}
			qemu := []string{"qemu-img", "info", "--object", qemuTLS(dir), "--image-opts", qemuDisk(host, port, "")}
			for _, line := range [][]string{info, qemu} {
				if test.good {
					sh(t, line[0], line[1:]...)
				} else {
					mustFail(t, line, "ertificate")
				}
			}
		})
	}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, _, err := peer.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}
