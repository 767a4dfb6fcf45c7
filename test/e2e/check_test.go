package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
)

// checked runs a check and returns its report, however it ended.
func (c *cluster) checked(code int, node string, args ...string) *api.CheckReport {
	c.t.Helper()
	r := c.execute(node, append([]string{"check", "--json"}, args...)...)
	if r.code != code {
		c.t.Fatalf("keelson %s: exit %d, not %d: %s%s", r.args, r.code, code, r.stdout, r.stderr)
	}
	report := new(api.CheckReport)
	if err := json.Unmarshal([]byte(r.stdout), report); err != nil {
		c.t.Fatalf("keelson %s: %v: %s", r.args, err, r.stdout)
	}
	return report
}

// item is the first of that name about a server ("a"), or about one at another's other end ("a->b").
func item(r *api.CheckReport, check, where string) *api.CheckItem {
	for i := range r.Items {
		at := r.Items[i].Node
		if r.Items[i].Peer != "" {
			at += "->" + r.Items[i].Peer
		}
		if r.Items[i].Check == check && at == where {
			return &r.Items[i]
		}
	}
	return nil
}

// TestCheck: a healthy cluster passes with everything measured; what would not work is found before it is made, changes nothing, and
// the exit code says it.
func TestCheck(t *testing.T) {
	c := demo(t, "64MiB")
	r := c.checked(exitDone, "a")
	for _, pair := range []string{"a->b", "b->a", "a->c", "c->a", "b->c", "c->b"} {
		for _, check := range []string{"reachable", "round-trip", "bandwidth"} {
			if i := item(r, check, pair); i == nil || check != "reachable" && (i.Value == nil || *i.Value <= 0) {
				t.Errorf("%s of %s: %+v", check, pair, i)
			}
		}
	}
	for _, node := range c.nodes {
		for _, check := range []string{"state-room", "state-sync", "open-files", "wake-up", "attach", "certificate", "ca-certificate", "backing", "backing-flush", "state-on-volume"} {
			if item(r, check, node) == nil {
				t.Errorf("nothing is said of %s at %s", check, node)
			}
		}
	}
	if r.Problems != 0 || r.Verdict == api.CheckProblem {
		t.Errorf("%+v", r)
	}

	small := loopDevice(t, 32*mib)
	c.fails(exitUsage, "b", []string{"check", "data", "--target", "c:/elsewhere"}, "c has a copy already")
	r = c.checked(exitFailed, "a", "--source", "a:"+c.image("a"), "--target", "b:"+small, "--target", "c:"+c.path("c", "new.img"), "--size", "64MiB")
	for check, want := range map[string]string{"backing": "holds the copy of volume data", "backing-size": ""} {
		if i := item(r, check, map[string]string{"backing": "a", "backing-size": "b"}[check]); i == nil || i.Level != api.CheckProblem || !strings.Contains(i.Message, want) || i.Next == "" {
			t.Errorf("%s: %+v", check, i)
		}
	}
	if i := item(r, "backing", "c"); i == nil || i.Level == api.CheckProblem || !strings.Contains(i.Message, "will be made") {
		t.Errorf("a file that is to be made: %+v", i)
	}
	if out := c.execute("c", "volume", "list", "--json"); strings.Contains(out.stdout, "new.img") || out.code != exitDone {
		t.Errorf("looking changed something: %+v", out)
	}
	c.kill("c")
	c.wait("a misses c", settleMax, func() error {
		if v, err := c.mirror("a", "c"); err != nil || v.State == "Mirroring" {
			return fmt.Errorf("%+v, %v", v, err)
		}
		return nil
	})
	r = c.checked(exitFailed, "a", "data", "--quick")
	if i := item(r, "reachable", "c"); i == nil || i.Level != api.CheckProblem {
		t.Errorf("a server that is gone: %+v", i)
	}
	c.start("c")
}

// TestRebootIsRefused: a server with the only good copy, or the source of a volume in use, may not be rebooted; any other may, and any server can be asked.
func TestRebootIsRefused(t *testing.T) {
	c := demo(t, "64MiB")
	if r := c.checked(exitDone, "b", "--reboot"); len(r.Items) != 1 || r.Items[0].Level != api.CheckOK {
		t.Errorf("a target among three: %+v", r)
	}
	address, err := c.address("a")
	if err != nil {
		t.Fatal(err)
	}
	d, err := dial(address)
	if err != nil {
		t.Fatal(err)
	}
	c.refused("in-use-here", "a", "check", "--reboot")
	c.refused("in-use-here", "c", "check", "--reboot", "--node", "a")
	d.Close()
	c.wait("the client is gone", settleMax, func() error { return c.execute("a", "check", "--reboot").err() })
	c.kill("b")
	c.kill("c")
	c.wait("a knows that it is alone", settleMax, func() error {
		if r := c.execute("a", "check", "--reboot"); r.code != exitRefused || !strings.Contains(r.stderr, "only-good-copy") {
			return fmt.Errorf("exit %d: %s", r.code, r.stderr)
		}
		return nil
	})
	c.start("b")
	c.start("c")
	c.waitMirroring("a", "b", "c")
	c.wait("all may again", settleMax, func() error { return c.execute("a", "check", "--reboot").err() })
}

// TestServerWithoutACopyIsAsked: c has no copy of the volume; what is asked of it about the volume is answered by those that have one, also
// when there are two sides and when one of them has to be chosen.
func TestServerWithoutACopyIsAsked(t *testing.T) {
	c := byHand(t, []string{"a", "b", "c"})
	c.run("c", "volume", "create", "data", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--size", "64MiB")
	c.waitMirroring("a", "b")
	c.writeAt("a", 0, mib, 1)
	if r := c.checked(exitDone, "c", "data", "--quick"); item(r, "backing", "b") == nil || item(r, "state-room", "c") != nil {
		t.Errorf("check of the volume: %+v", r)
	}
	c.kill("b")
	c.writeAt("a", mib, 64<<10, 2)
	c.kill("a")
	c.start("b")
	c.wait("c takes b over", settleMax, func() error { return c.execute("c", "switchover", "data", "--to", "b", "--force", "--yes").err() })
	c.writeAt("b", 2*mib, 64<<10, 3)
	c.start("a")
	c.waitState("b", "a", "SplitBrain")

	shown := jsonOf[api.SplitBrain](c, "c", "split-brain", "show", "data")
	if !shown.Split || len(shown.Sides) != 2 {
		t.Errorf("two sides: %+v", shown)
	}
	plan := jsonOf[api.ResolvePlan](c, "c", "split-brain", "resolve", "data", "--keep", "b", "--plan")
	if len(plan.GivenUp) != 1 || plan.GivenUp[0].Node != "a" {
		t.Errorf("the plan: %+v", plan)
	}
	c.wait("b is kept", settleMax, func() error { return c.execute("c", "split-brain", "resolve", "data", "--keep", "b", "--yes").err() })
	c.waitMirroring("b", "a")
	var kept []api.Salvage
	c.wait("the salvage is listed", settleMax, func() (err error) {
		if kept, err = c.salvages("c"); err == nil && (len(kept) != 1 || kept[0].Node != "a") {
			err = fmt.Errorf("%+v", kept)
		}
		return err
	})
	c.fails(exitFailed, "c", []string{"salvage", "delete", "data", kept[0].ID, "--node", "c", "--yes"}, "c has no copy of it", "--node")
	c.run("c", "salvage", "delete", "data", kept[0].ID, "--node", "a", "--yes")

	c.kill("b")
	c.wait("a is asked now", 2*settleMax, func() error { return c.execute("c", "split-brain", "show", "data").err() })
	c.kill("a")
	c.wait("c says where copies are", settleMax, func() error {
		if r := c.execute("c", "split-brain", "show", "data"); r.code != exitFailed || !strings.Contains(r.stderr, "cannot be reached: a, b") {
			return fmt.Errorf("exit %d: %s", r.code, r.stderr)
		}
		return nil
	})
	c.start("a")
	c.start("b")
	if r := c.execute("c", "split-brain", "show", "nothing"); r.code != exitFailed || !strings.Contains(r.stderr, "no such volume") {
		t.Errorf("a volume that there is not: exit %d: %s", r.code, r.stderr)
	}
	c.wait("all see each other", time.Minute, func() error {
		s, err := c.status("c")
		if err == nil && slices.ContainsFunc(s.Nodes, func(n api.NodeStatus) bool { return !n.Reachable }) {
			err = fmt.Errorf("%+v", s.Nodes)
		}
		return err
	})
}
