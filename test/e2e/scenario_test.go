package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"keelson/internal/api"
)

const mib = 1 << 20

// writeAt writes n bytes of pseudo-random content through the node's device, flushes, and returns them.
func (c *cluster) writeAt(node string, off int64, n int, seed uint64) []byte {
	c.t.Helper()
	data := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, _ = rng.Read(data) // never fails
	uri, err := c.address(node)
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := dial(uri)
	if err != nil {
		c.t.Fatal(err)
	}
	defer d.Close()
	for at := 0; at < n; at += mib {
		if _, err := d.WriteAt(data[at:min(n, at+mib)], off+int64(at)); err != nil {
			c.t.Fatalf("write at %s: %v", node, err)
		}
	}
	if err := d.Flush(); err != nil {
		c.t.Fatalf("flush at %s: %v", node, err)
	}
	return data
}

// expect reads through the node's device and compares.
func (c *cluster) expect(node string, off int64, want []byte) {
	c.t.Helper()
	uri, err := c.address(node)
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := dial(uri)
	if err != nil {
		c.t.Fatal(err)
	}
	defer d.Close()
	got := make([]byte, mib)
	for at := 0; at < len(want); at += mib {
		part := want[at:min(len(want), at+mib)]
		if _, err := d.ReadAt(got[:len(part)], off+int64(at)); err != nil {
			c.t.Fatalf("read at %s: %v", node, err)
		}
		if string(got[:len(part)]) != string(part) {
			c.t.Fatalf("content at %d differs at %s", off+int64(at), node)
		}
	}
}

// The specification's first scenario, a sub-test for each of its sentences, in its order.
func TestSpecFirstScenario(t *testing.T) {
	c := demo(t, "256MiB")
	written := c.writeAt("a", 0, 16*mib, 1)
	var late []byte
	step := func(sentence string, fn func(t *testing.T)) {
		t.Run(sentence, func(t *testing.T) {
			outer := c.t
			c.t = t
			defer func() { c.t = outer }()
			fn(t)
		})
		if t.Failed() {
			t.FailNow()
		}
	}

	step("there are three servers, Server A is replicating to two different target volumes", func(t *testing.T) {
		for _, target := range []string{"b", "c"} {
			if m := c.waitState("a", target, "Mirroring"); !m.Promotable {
				t.Errorf("mirror a->%s is Mirroring and not promotable", target)
			}
			if v, err := c.volume(target); err != nil || v.Role != "target" || len(v.Devices) != 0 {
				t.Errorf("%s is no closed target: %+v, %v", target, v, err)
			}
		}
	})
	step("a switchover to a target that is not Mirroring is an error and leaves the configuration unchanged", func(t *testing.T) {
		c.run("a", "mirror", "pause", "data", "--target", "c")
		late = c.writeAt("a", 32*mib, mib, 2)
		c.refused("", "a", "switchover", "data", "--to", "c", "--yes")
		if v, err := c.volume("a"); err != nil || v.Source != "a" || len(v.Devices) == 0 {
			t.Errorf("after the refusal: %+v, %v", v, err)
		}
		c.waitState("a", "c", "Paused")
	})
	step("the plan shows the steps and what is at risk and changes nothing", func(t *testing.T) {
		var plan api.SwitchoverResult
		if err := json.Unmarshal([]byte(c.run("b", "switchover", "data", "--to", "b", "--plan", "--json")), &plan); err != nil {
			t.Fatal(err)
		}
		if plan.Done || plan.From != "a" || plan.To != "b" || len(plan.Steps) < 4 {
			t.Errorf("plan: %+v", plan)
		}
		c.waitMirroring("a", "b")
	})
	step("Administrator initiates a switchover to Server B", func(t *testing.T) {
		c.run("c", "switchover", "data", "--to", "b", "--yes") // asked at a server that is neither
	})
	step("Server A flushes its data to the source volume", func(t *testing.T) {
		c.expect("b", 0, written)
		c.expect("b", 32*mib, late)
	})
	step("Mirror 1 is automatically deleted and recreated from Server B to Server A", func(t *testing.T) {
		c.waitMirroring("b", "a")
		m, err := c.mirror("b", "a")
		if err != nil {
			t.Fatal(err)
		}
		if r := m.Resync; r != nil && ((r.Kind != "none" && r.Kind != "partial") || r.BytesSent > mib) {
			t.Errorf("resync b->a: %+v", r)
		}
		if v, err := c.volume("a"); err != nil || len(v.Devices) != 0 || v.Role != "target" {
			t.Errorf("a still offers the volume: %+v, %v", v, err)
		}
	})
	step("The mirror between Server A and Server C is also automatically deleted", func(t *testing.T) {
		c.wait("c names b as its source", 20*time.Second, func() error {
			v, err := c.volume("c")
			if err == nil && v.Source != "b" {
				err = fmt.Errorf("it names %q", v.Source)
			}
			return err
		})
		if m, err := c.mirror("a", "c"); err == nil {
			t.Errorf("a still shows its mirror to c: %+v", m)
		}
	})
	step("A new mirror is established between Server B and Server C, and a pause stays a pause", func(t *testing.T) {
		c.waitState("b", "c", "Paused")
	})
	step("Only a partial resync of the data between Server B and Server C is required", func(t *testing.T) {
		c.run("b", "mirror", "continue", "data", "--target", "c")
		c.waitMirroring("b", "c")
		m, err := c.mirror("b", "c")
		if err != nil {
			t.Fatal(err)
		}
		if r := m.Resync; r == nil || r.Kind != "partial" || r.BytesSent < mib || r.BytesSent > 2*mib || r.Rule == "" {
			t.Errorf("resync b->c: %+v", r)
		}
	})
	step("RESULT: B mirrors to A and to C, all copies are the same", func(t *testing.T) {
		c.writeAt("b", 64*mib, mib, 3)
		c.waitMirroring("b", "a", "c")
		c.same()
	})
	step("and there is a way back", func(t *testing.T) {
		c.run("a", "switchover", "data", "--to", "a", "--yes", "--wait")
		c.waitMirroring("a", "b", "c")
		c.expect("a", 0, written)
		c.same()
	})
}

// zero makes a range of the node's device read as zero.
func (c *cluster) zero(node string, off, n int64) {
	c.t.Helper()
	uri, err := c.address(node)
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := dial(uri)
	if err == nil {
		err = errors.Join(d.Zero(off, n), d.Flush(), d.Close())
	}
	if err != nil {
		c.t.Fatalf("zero at %s: %v", node, err)
	}
}
