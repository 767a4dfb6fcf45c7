package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"keelson/internal/peer"
)

// byHand makes a cluster as an administrator does without the demo: certificates, a configuration file for each
// server, an agent for each. It has no volume yet. Limits are lines for the [limits] section.
func byHand(t *testing.T, nodes []string, limits ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: folder(t), nodes: nodes, name: "data"}
	t.Cleanup(c.close)
	c.configure(limits...)
	for _, node := range nodes {
		c.launch(node)
	}
	for _, node := range nodes {
		c.wait("agent "+node+" sees all others", settleMax, func() error {
			s, err := c.status(node)
			if err != nil {
				return err
			}
			for _, n := range s.Nodes {
				if !n.Reachable {
					return fmt.Errorf("%s cannot reach %s", node, n.Name)
				}
			}
			return nil
		})
	}
	return c
}

// configure writes the folders of the nodes: certificates of a new cluster and keelson.toml.
func (c *cluster) configure(limits ...string) {
	c.t.Helper()
	ca, err := peer.NewCA()
	if err != nil {
		c.t.Fatal(err)
	}
	addresses := map[string]string{}
	for _, node := range c.nodes {
		addresses[node] = freeAddress(c.t)
	}
	for _, node := range c.nodes {
		if err := os.MkdirAll(c.path(node, ""), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := ca.IssueTo(c.path(node, ""), node); err != nil {
			c.t.Fatal(err)
		}
		var text strings.Builder
		fmt.Fprintf(&text, "node = %q\ncluster = %q\nstate = %q\nencryption = \"on\"\n", node, ca.Cluster, ".")
		fmt.Fprintf(&text, "[listen]\naddress = %q\n[api]\nsocket = %q\n[nbd]\nsocket = %q\n", addresses[node], "agent.sock", "nbd.sock")
		fmt.Fprintf(&text, "[tls]\nca = %q\ncert = %q\nkey = %q\n", peer.CAFile, peer.CertFile, peer.KeyFile)
		for _, other := range c.others(node) {
			fmt.Fprintf(&text, "[[peer]]\nname = %q\naddress = %q\n", other, addresses[other])
		}
		fmt.Fprintf(&text, "[limits]\n%s\n", strings.Join(limits, "\n"))
		if err := os.WriteFile(c.path(node, "keelson.toml"), []byte(text.String()), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
}

// freeAddress is a port of 127.0.0.1 that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)) // below those that the system gives to connections
		if _, given := addressesGiven.LoadOrStore(address, true); given {
			continue
		}
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatal("100 ports in vain")
	return ""
}

// addressesGiven are those that freeAddress returned: nobody need listen there yet.
var addressesGiven sync.Map

// edit replaces text in the node's configuration.
func (c *cluster) edit(node, old, new string) {
	c.t.Helper()
	text, err := os.ReadFile(c.path(node, "keelson.toml"))
	if err == nil && !strings.Contains(string(text), old) {
		err = fmt.Errorf("does not contain %q:\n%s", old, text)
	}
	if err == nil {
		err = os.WriteFile(c.path(node, "keelson.toml"), []byte(strings.Replace(string(text), old, new, 1)), 0o600)
	}
	if err != nil {
		c.t.Fatalf("configuration of %s: %v", node, err)
	}
}

// agentFails starts an agent that has to end by itself, without success, saying all of these words. It ends soon.
func (c *cluster) agentFails(config string, words ...string) {
	c.t.Helper()
	begin := time.Now()
	r := c.execute("", "agent", "--config", config)
	if r.code == exitDone || r.code == -1 {
		c.t.Errorf("keelson agent: exit %d, had to fail: %s", r.code, r.stderr)
	}
	if took := time.Since(begin); took > 20*time.Second {
		c.t.Errorf("it took %s to fail", took)
	}
	c.says(r, words...)
}

// fails runs a command that has to end with that exit code, saying all of these words.
func (c *cluster) fails(code int, node string, args []string, words ...string) {
	c.t.Helper()
	r := c.execute(node, args...)
	if r.code != code {
		c.t.Errorf("keelson %s: exit %d, not %d: %s", r.args, r.code, code, r.stderr)
	}
	c.says(r, words...)
}

func (c *cluster) says(r result, words ...string) {
	c.t.Helper()
	for _, word := range words {
		if !strings.Contains(strings.ToLower(r.stderr), strings.ToLower(word)) {
			c.t.Errorf("keelson %s: the message does not speak of %q: %s", r.args, word, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "goroutine ") {
		c.t.Errorf("keelson %s: a stack instead of a message: %s", r.args, r.stderr)
	}
}
