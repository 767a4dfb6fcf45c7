package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Nine servers: one source, five sync and three async targets. One of them hangs, whichever its mode: the source never
// waits longer than its limit, the volume goes on with the others, and the one that hung catches up by a partial resync.
func TestMixedModesManyTargets(t *testing.T) {
	const syncTimeout = 2 * time.Second
	nodes := strings.Split("n0 n1 n2 n3 n4 n5 n6 n7 n8", " ")
	c := byHand(t, nodes, `sync-timeout = "2s"`, `dead-after = "3s"`, `heartbeat = "500ms"`)
	args := []string{"volume", "create", c.name, "--size", "64MiB", "--mode", "sync", "--source", "n0:" + c.image("n0")}
	for _, node := range nodes[1:6] {
		args = append(args, "--target", node+":"+c.image(node))
	}
	c.run("n0", args...)
	for _, node := range nodes[6:] {
		c.run("n0", "mirror", "add", c.name, "--target", node+":"+c.image(node), "--mode", "async")
	}
	c.waitMirroring("n0", nodes[1:]...)
	v, err := c.volume("n0")
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range v.Mirrors {
		if want := []string{"sync", "async"}[min(1, i/5)]; m.Mode != want {
			t.Errorf("mirror to %s is %s, not %s", m.Target, m.Mode, want)
		}
	}

	f := follow(c, 0, 16*mib, 3)
	f.waitAnswers(300)
	for _, victim := range []string{"n2", "n7"} {
		f.longest.Store(0)
		thaw := c.freeze(victim)
		c.wait("mirror to "+victim+" is given up", settleMax, func() error {
			m, err := c.mirror("n0", victim)
			if err == nil && m.State == "Mirroring" {
				err = fmt.Errorf("it is Mirroring")
			}
			return err
		})
		f.waitAnswers(300)
		if longest := time.Duration(f.longest.Load()); longest > syncTimeout+3*time.Second {
			t.Errorf("with %s stalled a request took %s; sync-timeout is %s", victim, longest, syncTimeout)
		}
		c.bounded("n0")
		thaw()
		c.waitMirroring("n0", nodes[1:]...)
		m, err := c.mirror("n0", victim)
		if err := wantResync(m, err, "partial"); err != nil {
			t.Errorf("%s came back: %v", victim, err)
		}
	}
	c.run("n8", "switchover", c.name, "--to", "n5", "--yes")
	f.waitAnswers(300)
	c.waitMirroring("n5", c.others("n5")...)
	f.stop()
	f.verify()
	c.waitNoLag("n5")
	c.noResyncOfKind("full")
	c.same()
}

// memoryMax is what an agent of a small volume may have resident, whatever stalls: its queues are limited (guarantee 8).
const memoryMax = 512 * mib

// bounded fails the test if the node's agent has more memory resident than memoryMax.
func (c *cluster) bounded(node string) {
	c.t.Helper()
	pid, err := c.pid(node)
	if err != nil {
		c.t.Fatal(err)
	}
	statm := strings.Fields(string(must(os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid)))))
	pages, err := strconv.ParseInt(statm[1], 10, 64)
	if err != nil {
		c.t.Fatal(err)
	}
	if bytes := pages * int64(os.Getpagesize()); bytes > memoryMax {
		c.t.Errorf("the agent of %s has %d MiB resident, at most %d", node, bytes/mib, int64(memoryMax)/mib)
	}
}

// waitNoLag waits until nothing is on its way to any target. Nothing may write.
func (c *cluster) waitNoLag(source string) {
	c.t.Helper()
	c.wait("no lag", settleMax, func() error {
		v, err := c.volume(source)
		if err != nil {
			return err
		}
		for _, m := range v.Mirrors {
			if m.LagBytes != 0 || m.Position != v.Position {
				return fmt.Errorf("%s is %d bytes behind, at %d of %d", m.Target, m.LagBytes, m.Position, v.Position)
			}
		}
		return nil
	})
}

// An async mirror that is switched over loses nothing either: the hand-over waits for the heir.
func TestAsyncSwitchoverLosesNothing(t *testing.T) {
	c := demo(t, "128MiB", "--mode", "async")
	f := follow(c, 0, 16*mib, 4)
	source := "a"
	for _, to := range []string{"b", "c", "a"} {
		f.waitAnswers(300)
		c.waitMirroring(source, to)
		c.run(source, "switchover", c.name, "--to", to, "--yes")
		source = to
	}
	f.stop()
	c.waitMirroring("a", "b", "c")
	f.verify()
	c.waitNoLag("a")
	c.same()
}

// The stream without encryption does the same work, and status says so.
func TestEncryptionOff(t *testing.T) {
	c := demo(t, "64MiB", "--encryption", "off")
	v, err := c.volume("a")
	if err != nil {
		t.Fatal(err)
	}
	if v.Encryption != "off" {
		t.Errorf("encryption is shown as %q", v.Encryption)
	}
	f := follow(c, 0, 16*mib, 5)
	f.waitAnswers(300)
	c.run("a", "switchover", c.name, "--to", "b", "--yes")
	f.waitAnswers(300)
	c.waitMirroring("b", "a", "c")
	f.stop()
	f.verify()
	c.same()
}
