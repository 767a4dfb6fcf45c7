package e2e

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/api"
	"keelson/internal/peer"
)

// founded is a cluster as an administrator makes one: node init for its first server.
func founded(t *testing.T, first string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: folder(t), name: "data"}
	t.Cleanup(c.close)
	c.run("", c.setup("init", first)...)
	c.nodes = append(c.nodes, first)
	return c
}

// setup is a command line of node init or node join for a server whose files are all in its folder.
func (c *cluster) setup(verb, name string, more ...string) []string {
	dir := c.path(name, "")
	args := append([]string{"node", verb}, more...)
	return append(args, "--name", name, "--address", freeAddress(c.t), "--dir", dir, "--state", dir, "--run", dir)
}

// invite makes a token at a member.
func (c *cluster) invite(at string, more ...string) string {
	c.t.Helper()
	return strings.TrimSpace(c.run(at, append([]string{"node", "invite"}, more...)...))
}

// join makes a server a member, and starts it with certificates of that lifetime ("": as they are).
func (c *cluster) join(at, name, lifetime string) {
	c.t.Helper()
	c.run("", c.setup("join", name, c.invite(at, name))...)
	c.nodes = append(c.nodes, name)
	c.live(name, lifetime)
	c.start(name)
}

func (c *cluster) live(name, lifetime string) {
	c.t.Helper()
	if lifetime != "" {
		c.edit(name, `# lifetime = "2160h"`, `lifetime = "`+lifetime+`"`)
	}
}

// listed are the servers as one of them lists them.
func (c *cluster) listed(at string) (map[string]api.Node, error) {
	r := c.execute(at, "node", "list", "--json")
	if err := r.err(); err != nil {
		return nil, err
	}
	var nodes []api.Node
	if err := json.Unmarshal([]byte(r.stdout), &nodes); err != nil {
		return nil, err
	}
	out := map[string]api.Node{}
	for _, n := range nodes {
		out[n.Name] = n
	}
	return out, nil
}

// waitMembers waits until each of the servers reaches all of them, and no others.
func (c *cluster) waitMembers(nodes ...string) {
	c.t.Helper()
	for _, at := range nodes {
		c.wait(at+" reaches "+strings.Join(nodes, ", ")+" and no others", settleMax, func() error {
			listed, err := c.listed(at)
			if err != nil {
				return err
			}
			for name, n := range listed {
				if member := slices.Contains(nodes, name); n.Removed == member || n.Reachable != member {
					return fmt.Errorf("%s: removed %v, reachable %v (%s)", name, n.Removed, n.Reachable, n.WhyNot)
				}
			}
			if len(listed) < len(nodes) {
				return fmt.Errorf("only %d are listed", len(listed))
			}
			return nil
		})
	}
}

// waitCAKey waits until a server that was invited has the key of the CA.
func (c *cluster) waitCAKey(node string) {
	c.t.Helper()
	c.wait(node+" has the key of the CA", settleMax, func() error { _, err := os.Stat(c.path(node, peer.CAKeyFile)); return err })
}

// certificate is the one in the node's file.
func (c *cluster) certificate(node string) *x509.Certificate {
	c.t.Helper()
	text, err := os.ReadFile(c.path(node, peer.CertFile))
	if err != nil {
		c.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		c.t.Fatalf("%s holds no PEM block", c.path(node, peer.CertFile))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert
}

// reaches tries a control request and a stream at a server with an identity, and returns why neither is possible.
func (c *cluster) reaches(node string, id peer.Identity) error {
	c.t.Helper()
	s, err := c.status(node)
	if err != nil {
		c.t.Fatal(err)
	}
	address := ""
	for _, n := range s.Nodes {
		if n.Name == node {
			address = n.Address
		}
	}
	client := peer.HTTPClient(id, node, address, peer.Options{})
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+node+"/v1/Status", strings.NewReader("{}"))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("answered %s", answer.Status)
	}
	return nil
}

// auditOf are the lines of the audit at a server.
func (c *cluster) auditOf(at string, more ...string) ([]api.AuditLine, error) {
	r := c.execute(at, append([]string{"audit", "--json"}, more...)...)
	if err := r.err(); err != nil {
		return nil, err
	}
	var out []api.AuditLine
	for lines := bufio.NewScanner(strings.NewReader(r.stdout)); lines.Scan(); {
		var l api.AuditLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

// A cluster from its first server to servers that none of the first ever knew: tokens, removal, the loss of the first
// server, renewal, certificates that have ended.
func TestClusterOutlivesItsServers(t *testing.T) {
	const lifetime = "4s"
	c := founded(t, "a")
	c.live("a", lifetime)
	c.start("a")
	c.run("a", "user", "add", "anna", "--role", "operator", "--no-password")
	c.join("a", "b", lifetime)
	c.waitMembers("a", "b")
	c.waitCAKey("b")
	c.join("b", "c", "") // by a server that was invited itself
	c.waitMembers("a", "b", "c")
	c.waitCAKey("c")
	c.part("a volume on servers that joined", func(*testing.T) {
		c.run("a", "volume", "create", "data", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--target", "c:"+c.image("c"), "--size", "32MiB")
		c.waitMirroring("a", "b", "c")
	})
	c.part("a server that is removed is out at once", func(t *testing.T) {
		if out := c.run("b", "node", "remove", "c", "--yes"); !strings.Contains(out, "removed from data") {
			t.Errorf("it says %q", out)
		}
		if v, err := c.volume("a"); err != nil || slices.Contains(v.InSync, "c") || mirrorTo(v, "c") != nil {
			t.Errorf("the volume at its source: %v, %+v", err, v)
		}
		c.waitMembers("a", "b")
		c.waitShutOut("c", "a", "b")
		for _, node := range []string{"a", "c"} { // and stays out
			c.stop(node)
			c.start(node)
		}
		c.waitMembers("a", "b")
		c.waitShutOut("c", "a", "b")
	})
	c.part("what it knows lets it in under no name", func(t *testing.T) {
		ca, err := peer.LoadCA(c.path("c", ""))
		if err != nil {
			t.Fatal(err)
		}
		own, err := peer.LoadIdentity(c.path("c", ""))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.reaches("a", own); err == nil {
			t.Error("its own certificate")
		}
		for _, name := range []string{"c", "b", "z"} { // signed by the true CA, with a key that nobody invited
			forged, err := ca.Identity(name)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.reaches("a", forged); err == nil {
				t.Errorf("a certificate that it signed for %q", name)
			}
		}
		member, err := peer.LoadIdentity(c.path("b", ""))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.reaches("a", member); err != nil {
			t.Errorf("a member is not let in either: %v", err)
		}
	})
	c.stop("c")
	c.part("the first server is lost", func(t *testing.T) {
		c.waitMirroring("a", "b")
		address, err := c.address("a")
		if err != nil {
			t.Fatal(err)
		}
		sh(t, "qemu-io", "-f", "raw", "-c", "write -q -P 7 0 4M", "-c", "flush", address)
		c.kill("a")
		if err := os.RemoveAll(c.path("a", "")); err != nil {
			t.Fatal(err)
		}
		c.nodes = []string{"b"}
		c.run("b", "switchover", "data", "--to", "b", "--force", "--yes")
		before := c.certificate("b").NotAfter
		c.wait("b renews its certificate", settleMax, func() error {
			if after := c.certificate("b").NotAfter; !after.After(before) {
				return fmt.Errorf("it ends at %v still", after)
			}
			return nil
		})
		c.run("b", "node", "remove", "a", "--yes", "--force")
	})
	c.part("another takes its place", func(t *testing.T) {
		c.join("b", "d", lifetime)
		c.waitMembers("b", "d")
		c.waitCAKey("d")
		c.run("b", "mirror", "add", "data", "--target", "d:"+c.image("d"))
		c.waitMirroring("b", "d")
		if users := c.run("d", "user", "list"); !strings.Contains(users, "anna") {
			t.Errorf("users at d: %s", users)
		}
		c.wait("d has the audit of servers that it never met", settleMax, func() error {
			lines, err := c.auditOf("d")
			if err != nil {
				return err
			}
			for _, want := range []string{"a ChangeUser user anna", "a JoinNode node b", "b JoinNode node c", "b RemoveNode node c", "b Switchover volume data", "b JoinNode node d"} {
				if !slices.ContainsFunc(lines, func(l api.AuditLine) bool { return l.Node+" "+l.What+" "+l.Object == want && l.Result == "done" }) {
					return fmt.Errorf("no line %q in %d", want, len(lines))
				}
			}
			return nil
		})
	})
	c.part("certificates that have ended stop nobody who is known", func(t *testing.T) {
		for _, node := range c.nodes {
			c.stop(node)
			if err := os.Remove(c.path(node, peer.CAKeyFile)); err != nil { // nobody can renew
				t.Fatal(err)
			}
		}
		c.wait("the certificates have ended", settleMax, func() error {
			for _, node := range c.nodes {
				if end := c.certificate(node).NotAfter; time.Now().Before(end) {
					return fmt.Errorf("that of %s ends at %v", node, end)
				}
			}
			return nil
		})
		for _, node := range c.nodes {
			c.launch(node)
		}
		c.waitMembers("b", "d")
		c.waitMirroring("b", "d")
		c.run("b", "switchover", "data", "--to", "d", "--yes")
		c.waitMirroring("d", "b")
		c.kill("d")
		c.run("b", "switchover", "data", "--to", "b", "--force", "--yes")
		c.refused("no-ca-key", "b", "node", "invite")
	})
}

// waitShutOut waits until a server that was removed reaches none of the others, and they say why.
func (c *cluster) waitShutOut(node string, others ...string) {
	c.t.Helper()
	c.wait(node+" reaches nobody", settleMax, func() error {
		s, err := c.status(node)
		if err != nil {
			return err
		}
		for _, n := range s.Nodes {
			if n.Name != node && n.Reachable {
				return fmt.Errorf("it reaches %s", n.Name)
			}
		}
		for _, other := range others {
			if !strings.Contains(c.logs(other), "node "+node+" was removed from the cluster") {
				return fmt.Errorf("%s has not refused it yet", other)
			}
		}
		return nil
	})
}

// Tokens that admit nobody, each with its rule; and what was set up once is not set up again.
func TestTokensThatAdmitNobody(t *testing.T) {
	c := founded(t, "a")
	c.start("a")
	token := c.invite("a")
	join := func(name, token string) []string { return c.setup("join", name, token) }
	c.part("used", func(t *testing.T) {
		c.run("", join("b", token)...)
		c.refused("token-used", "", join("x", token)...)
	})
	c.part("of a name that is taken", func(*testing.T) {
		twin := c.setup("join", "b", c.invite("a"))
		for i, arg := range twin {
			twin[i] = strings.Replace(arg, c.path("b", ""), c.path("twin", ""), 1)
		}
		c.refused("node-exists", "", twin...)
	})
	c.part("for another name", func(*testing.T) {
		r := c.execute("", append([]string{"node", "join", c.invite("a", "e"), "--name", "x", "--address", freeAddress(c.t)}, "--dir", c.path("e", ""), "--state", c.path("e", ""), "--run", c.path("e", ""))...)
		if err := r.err(); err != nil { // the token's name counts, the one that was given does not
			t.Error(err)
		}
		if listed, err := c.listed("a"); err != nil || listed["e"].Name != "e" || listed["x"].Name != "" {
			t.Errorf("%v, %v", listed, err)
		}
	})
	c.part("ended", func(t *testing.T) {
		short := c.invite("a", "--for", "1s")
		end := time.Now().Add(time.Second)
		c.wait("it has ended", settleMax, func() error {
			if time.Now().Before(end) {
				return errors.New("not yet")
			}
			return nil
		})
		c.refused("token-expired", "", join("y", short)...)
	})
	c.part("copied wrongly", func(*testing.T) {
		c.fails(exitUsage, "", join("y", token[:len(token)-1]), "token")
		c.fails(exitUsage, "", join("y", "keelson-join-x"), "token")
	})
	c.part("of a server that is gone", func(*testing.T) {
		fresh := c.invite("a")
		c.stop("a")
		c.fails(exitFailed, "", append(join("y", fresh), "--timeout", "5s"), "invited")
		c.start("a")
		c.run("", join("y", fresh)...) // it was not used
	})
	c.part("a server that is set up", func(*testing.T) {
		c.refused("already-set-up", "", c.setup("init", "a")...)
		c.refused("already-set-up", "", join("b", c.invite("a"))...)
	})
	c.part("removals that are refused", func(*testing.T) {
		c.refused("removes-itself", "a", "node", "remove", "a", "--yes")
		c.refused("unknown-node", "a", "node", "remove", "nobody", "--yes")
	})
	lines, err := c.auditOf("a", "--object", "node x")
	if err != nil || len(lines) == 0 || lines[0].Rule != "token-used" || lines[0].Kind != "stranger" {
		t.Errorf("the audit of a token that was used twice: %v, %+v", err, lines)
	}
}

// The agent's socket is for root and the group: the kernel keeps others out by its mode, and the agent by asking who is
// there, should somebody change the mode.
func TestLocalSocketIsForRootAndGroup(t *testing.T) {
	const user, other = 4321, 4322
	c := founded(t, "a")
	group, gid := someGroup(t)
	c.edit("a", `# group = "keelson"`, `group = "`+group+`"`)
	c.start("a")
	for _, dir := range []string{c.dir, c.path("a", ""), filepath.Dir(keelson)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	as := func(uid, gid, more int) (int, string) {
		cmd := exec.Command(keelson, "status", "--socket", c.path("a", "agent.sock"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(more)}}}
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	for name, test := range map[string]struct{ gid, more, want int }{
		"the group as its own":         {gid, other, exitDone},
		"the group as one more":        {other, gid, exitDone},
		"another user, another group":  {other, other, exitUnreachable},
		"another user, group of files": {other, 6, exitUnreachable},
	} {
		if code, out := as(user, test.gid, test.more); code != test.want {
			t.Errorf("%s: exit %d: %s", name, code, out)
		}
	}
	if err := os.Chmod(c.path("a", "agent.sock"), 0o666); err != nil {
		t.Fatal(err)
	}
	if code, out := as(user, other, other); code != exitUnreachable {
		t.Errorf("with a mode for everybody: exit %d: %s", code, out)
	}
	if !strings.Contains(c.logs("a"), "uid "+strconv.Itoa(user)+" is neither root nor in the group") {
		t.Error("the log does not say who was refused")
	}
}

// someGroup is a group of this machine that is not root's.
func someGroup(t *testing.T) (name string, gid int) {
	t.Helper()
	text, err := os.ReadFile("/etc/group")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if part := strings.Split(strings.TrimSpace(line), ":"); len(part) == 4 && part[0] == "nogroup" {
			gid, err := strconv.Atoi(part[2])
			if err != nil {
				t.Fatal(err)
			}
			return part[0], gid
		}
	}
	t.Fatal("/etc/group has no group nogroup")
	return "", 0
}
