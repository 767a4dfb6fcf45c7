package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/frontend/nbd/nbdclient"
)

// The service address of the volume, and the port at which an agent serves it.
const (
	serviceAddress = "198.51.100.10"
	servicePort    = "10809"
)

// toldMax is less than what the kernel of a server without the address takes to tell a client something all the same.
const toldMax = 10 * time.Second

// lan is the network that the agents of a cluster are in: a namespace for each server and one for a client, all on one bridge.
type lan struct {
	c      *cluster
	prefix string // of the namespaces' names
}

func (n *lan) namespace(who string) string { return n.prefix + who }

// intoNamespaces moves the cluster's agents into network namespaces and gives the volume a service address. The configurations get these lines too.
func (c *cluster) intoNamespaces(nbdLines, volumeLines string) *lan {
	c.t.Helper()
	n := &lan{c, fmt.Sprintf("ke%d-", os.Getpid())}
	for _, node := range c.nodes {
		c.stop(node)
	}
	ip := func(line string) { c.t.Helper(); sh(c.t, "ip", strings.Fields(line)...) }
	client := n.namespace("client")
	for _, who := range append([]string{"client"}, c.nodes...) {
		ip("netns add " + n.namespace(who))
		c.t.Cleanup(func() { sh(c.t, "ip", "netns", "delete", n.namespace(who)) })
		ip("-n " + n.namespace(who) + " link set lo up")
	}
	ip("-n " + client + " link add bridge type bridge")
	ip("-n " + client + " address add 198.51.100.1/24 dev bridge")
	ip("-n " + client + " link set bridge up")
	c.inside = map[string][]string{}
	for i, node := range c.nodes {
		ip(fmt.Sprintf("-n %s link add to-%s type veth peer name eth0 netns %s", client, node, n.namespace(node)))
		ip(fmt.Sprintf("-n %s link set to-%s master bridge up", client, node))
		ip(fmt.Sprintf("-n %s address add 10.77.0.%d/24 dev eth0", n.namespace(node), i+1))
		ip(fmt.Sprintf("-n %s link set eth0 up", n.namespace(node)))
		c.inside[node] = []string{"ip", "netns", "exec", n.namespace(node)}
	}
	listens := map[string]string{}
	for i, node := range c.nodes { // from the loopback interface that they shared
		text := string(must(os.ReadFile(c.path(node, "keelson.toml"))))
		found := regexp.MustCompile(`(?s)\[listen\]\naddress = "(127\.0\.0\.1:(\d+))"`).FindStringSubmatch(text)
		if found == nil {
			c.t.Fatalf("no address in %s", text)
		}
		listens[found[1]] = fmt.Sprintf("10.77.0.%d:%s", i+1, found[2])
	}
	for _, node := range c.nodes {
		text := string(must(os.ReadFile(c.path(node, "keelson.toml"))))
		for old, now := range listens {
			text = strings.ReplaceAll(text, old, now)
		}
		text = strings.Replace(text, "[nbd]\n", fmt.Sprintf("[nbd]\naddress = \"0.0.0.0:%s\"\n%s", servicePort, nbdLines), 1)
		text = strings.Replace(text, "[log]", fmt.Sprintf("[[volume]]\nname = %q\nservice-address = \"%s/24\"\nservice-interface = \"eth0\"\n%s\n[log]", c.name, serviceAddress, volumeLines), 1)
		must(0, os.WriteFile(c.path(node, "keelson.toml"), []byte(text), 0o600))
	}
	for _, node := range c.nodes {
		c.launch(node)
	}
	c.waitMirroring("a", "b", "c")
	return n
}

// from runs f on a thread in the namespace.
func (n *lan) from(who string, f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocks: the thread ends with the goroutine
		file, err := os.Open("/run/netns/" + n.namespace(who))
		if err == nil {
			defer file.Close()
			err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

// reaches checks that the client finds that node, and the volume's content, at the service address.
func (n *lan) reaches(node string, want []byte) {
	c := n.c
	c.t.Helper()
	mac := strings.Fields(sh(c.t, "ip", "-n", n.namespace(node), "-brief", "link", "show", "dev", "eth0"))[2]
	c.wait("the client finds "+node+" at the service address", settleMax, func() error {
		err := n.from("client", func() error {
			d, err := nbdclient.DialOptions("nbd://"+serviceAddress+":"+servicePort+"/"+c.name, nbdclient.Options{Timeout: time.Second})
			if err != nil {
				return err
			}
			defer d.Close()
			got := make([]byte, len(want))
			if _, err := d.ReadAt(got, 0); err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				return fmt.Errorf("it reads something else")
			}
			return nil
		})
		if said := sh(c.t, "ip", "-n", n.namespace("client"), "neighbor", "show", serviceAddress); err == nil && !strings.Contains(said, mac) {
			err = fmt.Errorf("it is not %s: %s", mac, said)
		}
		return err
	})
}

// speaks is a connection of the client to the service address that has heard the server's greeting and says only this.
func (n *lan) speaks(words ...byte) (conn net.Conn) {
	n.c.t.Helper()
	err := n.from("client", func() (err error) {
		if conn, err = net.Dial("tcp", serviceAddress+":"+servicePort); err != nil {
			return err
		}
		_, err = io.ReadFull(conn, make([]byte, 18))
		if err == nil {
			_, err = conn.Write(words)
		}
		return err
	})
	if err != nil {
		n.c.t.Fatal(err)
	}
	return conn
}

// has reports whether the node has the service address.
func (n *lan) has(node string) bool {
	return strings.Contains(sh(n.c.t, "ip", "-n", n.namespace(node), "address", "show", "dev", "eth0"), serviceAddress+"/24")
}

// alone checks that the node has the service address, and soon no other.
func (n *lan) alone(node string) {
	n.c.t.Helper()
	n.c.wait("only "+node+" has the service address", settleMax, func() error {
		for _, other := range n.c.nodes {
			if n.has(other) != (other == node) {
				return fmt.Errorf("%s: %v", other, n.has(other))
			}
		}
		return nil
	})
}

// A client finds the volume at the service address: at the source, after a planned switchover, after a take-over from a server whose
// agent was killed and that has the address still; when that one comes back it lets it go. Without an agent it would go by itself.
func TestServiceAddressFollowsTheSource(t *testing.T) {
	c := demo(t, "64MiB")
	n := c.intoNamespaces("", "")
	want := c.writeAt("a", 0, 64<<10, 7)
	n.reaches("a", want)
	n.alone("a")
	idle := []net.Conn{n.speaks(), n.speaks([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x04data")...)} // in a handshake; in use (NBD_OPT_EXPORT_NAME)
	c.run("a", "switchover", c.name, "--to", "b", "--yes")
	for i, conn := range idle {
		must(0, conn.SetReadDeadline(time.Now().Add(toldMax)))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("client %d, which only listens, was not told before the address went: it would wait for ever", i)
		}
		_ = conn.Close()
	}
	n.reaches("b", want)
	n.alone("b")
	v, err := c.volume("b")
	if err != nil || v.ServiceAddress == nil || v.ServiceAddress.State != "set" {
		t.Errorf("b shows %+v, %v", v, err)
	}

	c.waitMirroring("b", "a", "c")
	c.kill("b")
	if !n.has("b") {
		t.Error("b's agent was killed, and the address went at once: this test shows nothing")
	}
	c.wait("c takes over", settleMax, func() error {
		return c.execute("c", "switchover", c.name, "--to", "c", "--force", "--yes").err()
	})
	n.reaches("c", want)
	c.start("b")
	n.alone("c")
	n.reaches("c", want)
	if said := sh(t, "ip", "-n", n.namespace("c"), "address", "show", "dev", "eth0"); !regexp.MustCompile(serviceAddress + `/24[^/]*valid_lft (1?\d|20)sec`).MatchString(said) {
		t.Errorf("if the agent died now the address would not go within 20 s: %s", said)
	}
}
