package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"
	"time"
)

// crashPoint is a moment of a planned switchover at which an agent kills itself with SIGKILL (KEELSON_CRASH_AT).
type crashPoint struct {
	name   string
	at     string // whose agent: giver | heir
	passed bool   // the commit point is passed: only the heir may be source afterwards
}

// crashPoints are in the order in which a switchover reaches them. A giver reaches the target-* ones when it joins the
// heir as a target.
var crashPoints = []crashPoint{
	{"switchover-held", "giver", false},
	{"switchover-drained", "giver", false},
	{"switchover-checked", "giver", false},
	{"switchover-before-commit", "giver", false},
	{"switchover-committed", "giver", true},
	{"token-before-send", "giver", true},
	{"token-sent", "giver", true},
	{"heir-token-received", "heir", true},
	{"heir-before-save", "heir", true},
	{"heir-saved", "heir", true},
	{"heir-opened", "heir", true},
	{"token-answered", "giver", true},
	{"target-session-accepted", "giver", true},
	{"target-adopted", "giver", true},
}

// An agent dies at each step of a planned switchover in turn, under load. After its return there is exactly one source,
// on the right side of the commit point; every answered write is there; every mirror is Mirroring, every copy the same.
func TestKillAtEveryStep(t *testing.T) {
	c := demo(t, "128MiB")
	f := follow(c, 0, 16*mib, 7)
	source := "a"
	for i, point := range crashPoints {
		t.Logf("%2d %s at the %s", i, point.name, point.at)
		heir := c.others(source)[i%2]
		victim := source
		if point.at == "heir" {
			victim = heir
		}
		c.stop(victim)
		c.start(victim, "KEELSON_CRASH_AT="+point.name)
		c.waitMirroring(source, c.others(source)...)
		f.waitAnswers(100)
		pid, err := c.pid(victim)
		if err != nil {
			t.Fatal(err)
		}
		// Whether the command itself can still say how it ended depends on who died: only its effects count.
		c.execute(source, "switchover", c.name, "--to", heir, "--yes", "--timeout", "10s")
		c.gone(victim, pid)
		c.start(victim)
		now := c.waitOneSource()
		want := source
		if point.passed {
			want = heir
		}
		if now != want {
			t.Fatalf("%s: the source is %s; it had to be %s", point.name, now, want)
		}
		f.waitAnswers(100)
		source = now
	}
	f.stop()
	f.verify()
	c.noResyncOfKind("full", "compare")
	c.same()
}

// The third server dies and returns at random moments of switchovers between the other two.
func TestKillBystander(t *testing.T) {
	c := demo(t, "128MiB")
	f := follow(c, 0, 16*mib, 8)
	rng := rand.New(rand.NewPCG(8, 8))
	source, heir := "a", "b"
	for range 4 {
		c.waitMirroring(source, heir, "c")
		ended := make(chan result, 1)
		go func() {
			ended <- c.execute(source, "switchover", c.name, "--to", heir, "--yes", "--timeout", "30s")
		}()
		// The moment is random on purpose; a condition would always choose the same one.
		<-time.After(time.Duration(rng.IntN(int(200 * time.Millisecond))))
		c.kill("c")
		r := <-ended
		c.start("c")
		if now := c.waitOneSource(); now == heir {
			source, heir = heir, source
		} else if r.code == exitDone {
			t.Fatalf("the switchover was reported as done, and the source is %s", now)
		}
		f.waitAnswers(100)
	}
	f.stop()
	f.verify()
	c.noResyncOfKind("full", "compare")
	c.same()
}

// A server that cannot be reached during the switchover catches up by itself later.
func TestUnreachableServerCatchesUp(t *testing.T) {
	c := demo(t, "128MiB")
	c.writeAt("a", 0, 8*mib, 1)
	c.kill("c")
	late := c.writeAt("a", 16*mib, mib, 2)
	c.run("a", "switchover", c.name, "--to", "b", "--yes")
	c.waitMirroring("b", "a")
	if m := c.waitState("b", "c", "ResyncPending"); m.Reason == "" {
		t.Error("a mirror that waits says no reason")
	}
	c.start("c")
	c.waitMirroring("b", "a", "c")
	c.expect("b", 16*mib, late)
	m, err := c.mirror("b", "c")
	if err := wantResync(m, err, "partial"); err != nil {
		t.Fatal(err)
	}
	if m.Resync.BytesSent > 2*mib {
		t.Errorf("%d bytes were sent for 1 MiB that c lacked", m.Resync.BytesSent)
	}
	c.same()
}

// A hand-over whose heir is stalled does not come to its commit point: it is given up within its limit, and the source
// serves on, the held writes included.
func TestStalledHeirAbortsSwitchover(t *testing.T) {
	c := demo(t, "128MiB")
	f := follow(c, 0, 16*mib, 9)
	f.waitAnswers(200)
	frozen := c.freeze("b")
	r := c.execute("a", "switchover", c.name, "--to", "b", "--yes", "--timeout", "40s")
	if r.code == exitDone {
		t.Errorf("a switchover to a stalled server was reported as done: %s", r.stdout)
	}
	c.wait("a serves on", settleMax, func() error { return c.mirroring("a", "c") })
	f.waitAnswers(200)
	frozen()
	if now := c.waitOneSource(); now != "a" {
		t.Errorf("the source is %s", now)
	}
	f.stop()
	f.verify()
	if unanswered := f.unanswered.Load(); unanswered != 0 {
		t.Errorf("%d requests were not answered although nothing was handed over", unanswered)
	}
	c.same()
}

// Two plans at once: the source serialises them and refuses the second by its rule, or carries out one after the other.
func TestTwoAdministratorsAtOnce(t *testing.T) {
	c := demo(t, "128MiB")
	f := follow(c, 0, 16*mib, 10)
	f.waitAnswers(200)
	ended := make(chan result, 2)
	for _, to := range []string{"b", "c"} {
		go func() { ended <- c.execute("a", "switchover", c.name, "--to", to, "--yes", "--timeout", "40s") }()
	}
	for range 2 {
		if r := <-ended; r.code != exitDone && r.code != exitRefused {
			t.Errorf("keelson %s: exit %d: %s", r.args, r.code, r.stderr)
		}
	}
	c.waitOneSource()
	f.stop()
	f.verify()
	c.same()
}

// fio runs one job of fio's nbd engine against the node's device and fails the test if it reports an error.
func (c *cluster) fio(node string, options ...string) {
	c.t.Helper()
	if err := c.fioJob(node, options...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) fioJob(node string, options ...string) error {
	uri, err := c.address(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandMax)
	defer cancel()
	args := append([]string{"--name=e2e", "--ioengine=nbd", "--uri=" + uri, "--verify_fatal=1"}, options...)
	cmd := exec.CommandContext(ctx, "fio", args...)
	cmd.Dir = c.dir // where fio keeps the state of its verification
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("fio %v at %s: %w\n%s", options, node, err, out)
	}
	return nil
}
