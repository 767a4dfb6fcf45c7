package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"keelson/internal/api"
)

// chaos kills agents with SIGKILL at random moments and starts them again, while an administrator switches over. Its
// moments are random on purpose; a condition would always choose the same ones.
type chaos struct {
	c     *cluster
	rng   *rand.Rand // of who kills
	begin time.Time

	pids   map[string]int       // by node, of the agent that was started last
	doomed map[string]time.Time // by node: when its agent is killed besides
	// alone: now and then all targets are killed, and the source a little later, when it has answered writes without them.
	alone bool

	mu    sync.Mutex
	down  map[string]downed
	story []string
	wrong []error

	kills, planned, refused, waited, resolved int
}

// downed is a server whose agent was killed.
type downed struct {
	again  time.Time // when it is started again
	inSync []string  // if it was the source: who it said it was mirroring to, just before
}

// newChaos is ready to kill. What it did is shown if the test fails.
func newChaos(c *cluster, seed uint64) *chaos {
	c.t.Helper()
	x := &chaos{c: c, rng: rand.New(rand.NewPCG(seed, 99)), begin: time.Now(), pids: map[string]int{}, doomed: map[string]time.Time{}, down: map[string]downed{}}
	for _, node := range c.nodes {
		pid, err := c.pid(node)
		if err != nil {
			c.t.Fatal(err)
		}
		x.pids[node] = pid
	}
	c.t.Cleanup(x.show)
	return x
}

// tell adds a line to the story.
func (x *chaos) tell(format string, args ...any) {
	x.mu.Lock()
	defer x.mu.Unlock()
	now := time.Now()
	x.story = append(x.story, fmt.Sprintf("%s %8.3f s  %s", now.UTC().Format("15:04:05.000"), now.Sub(x.begin).Seconds(), fmt.Sprintf(format, args...)))
}

// problem notes what must never happen.
func (x *chaos) problem(err error) {
	x.tell("WRONG: %v", err)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wrong = append(x.wrong, err)
}

// show tells the story of a test that failed and keeps it beside the logs.
func (x *chaos) show() {
	if !x.c.t.Failed() && !*keep {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.c.t.Logf("what was done, last of %d lines:\n%s", len(x.story), strings.Join(x.story[max(0, len(x.story)-150):], "\n"))
	kept := x.c.kept()
	err := os.MkdirAll(kept, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(kept, "story"), []byte(strings.Join(x.story, "\n")), 0o644)
	}
	if err != nil {
		x.c.t.Log(err)
	}
}

// check fails the test if something went wrong beside it.
func (x *chaos) check() {
	x.c.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.wrong) > 0 {
		x.c.t.Fatal(errors.Join(x.wrong...))
	}
}

// up are the nodes whose agents were not killed, or were started again.
func (x *chaos) up() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(x.c.nodes), func(n string) bool { _, is := x.down[n]; return is })
}

// isDown returns how that node's agent was killed.
func (x *chaos) isDown(node string) (downed, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	d, is := x.down[node]
	return d, is
}

// killFor kills and restarts agents for that long, while the administrator is at work beside it; then all run again. An
// administrator returns when ctx ends.
func (x *chaos) killFor(d time.Duration, victims []string, administrator func(ctx context.Context)) {
	x.c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { administrator(ctx) })
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	next := time.Now().Add(time.Second)
	for over := false; !over; {
		select {
		case now := <-tick.C:
			x.restart(now)
			for node, at := range x.doomed {
				if now.After(at) {
					delete(x.doomed, node)
					x.killOnce(node, 4*time.Second)
				}
			}
			if now.After(next) {
				x.killSome(victims)
				next = time.Now().Add(500*time.Millisecond + time.Duration(x.rng.IntN(4000))*time.Millisecond)
			}
		case <-end.C:
			over = true
		}
	}
	cancel()
	ended.Wait()
	x.restart(time.Now().Add(time.Hour))
	for _, node := range x.c.nodes {
		x.c.wait("the agent of "+node+" answers", settleMax, func() error { _, err := x.c.status(node); return err })
	}
	x.check()
}

// killSome kills one agent, now and then more of them at once.
func (x *chaos) killSome(victims []string) {
	if x.alone && len(x.doomed) == 0 && x.rng.IntN(4) == 0 {
		if v := x.serving(); v != nil && len(x.up()) == len(x.c.nodes) {
			for _, target := range x.c.others(v.Source) {
				x.killOnce(target, 1500*time.Millisecond)
			}
			x.doomed[v.Source] = time.Now().Add(time.Second)
			return
		}
	}
	up := slices.DeleteFunc(x.up(), func(n string) bool { return !slices.Contains(victims, n) })
	x.rng.Shuffle(len(up), func(i, j int) { up[i], up[j] = up[j], up[i] })
	if v := x.serving(); v != nil && x.rng.IntN(2) == 0 { // the source more often than its targets
		slices.SortStableFunc(up, func(a, b string) int { return direction(a == v.Source, b == v.Source) })
	}
	count := 1
	if dice := x.rng.IntN(16); dice == 0 {
		count = 3
	} else if dice < 3 {
		count = 2
	}
	for _, node := range up[:min(count, len(up))] {
		pause := time.Duration(x.rng.IntN(1500)) * time.Millisecond
		if x.rng.IntN(6) == 0 {
			pause *= 3
		}
		x.killOnce(node, pause)
	}
}

// killOnce kills the agent, which is started again after the pause. One that is down stays so.
func (x *chaos) killOnce(node string, pause time.Duration) {
	if _, is := x.isDown(node); !is {
		x.kill(node, pause)
	}
}

// direction sorts those first of which it is true.
func direction(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// kill ends the agent as a power cut of the process would, waits until it is gone, and has it started again after the pause.
func (x *chaos) kill(node string, pause time.Duration) {
	pid := x.pids[node]
	if !alive(pid) {
		x.problem(fmt.Errorf("the agent of %s (process %d) ended by itself", node, pid))
	}
	var d downed
	if v, err := x.c.volume(node); err == nil && len(v.Devices) > 0 {
		for _, m := range v.Mirrors {
			if m.State == "Mirroring" && slices.Contains(v.InSync, m.Target) {
				d.inSync = append(d.inSync, m.Target)
			}
		}
		x.tell("kill -9 %s, source in term %d, mirroring to %v", node, v.Term, d.inSync)
	} else {
		x.tell("kill -9 %s", node)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		x.problem(fmt.Errorf("kill -9 of %s: %w", node, err))
	}
	if err := until(settleMax, func() error {
		if alive(pid) {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	}); err != nil {
		x.problem(err)
	}
	if len(d.inSync) > 0 {
		pause += 2 * time.Second // long enough for an administrator to look at it
	}
	d.again = time.Now().Add(pause)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.kills++
	x.down[node] = d
}

// restart starts the agents whose time has come.
func (x *chaos) restart(now time.Time) {
	for _, node := range x.c.nodes {
		if d, is := x.isDown(node); is && now.After(d.again) {
			x.tell("start %s", node)
			x.pids[node] = x.c.launch(node).cmd.Process.Pid
			x.mu.Lock()
			delete(x.down, node)
			x.mu.Unlock()
		}
	}
}

// command is one of the administrator's; all have to end by themselves, and say what became of it.
func (x *chaos) command(node string, args ...string) result {
	r := x.c.execute(node, append(args, "--timeout", "20s")...)
	text := ""
	if r.code != exitDone {
		text = strings.Join(strings.Fields(r.stderr), " ")
	}
	x.tell("at %s: keelson %s: exit %d %s", node, r.args, r.code, text[max(0, len(text)-400):])
	if r.code == -1 || r.code == exitUsage {
		x.problem(fmt.Errorf("at %s: keelson %s: exit %d: %s", node, r.args, r.code, r.stderr))
	}
	return r
}

// serving is who offers the volume, nil if nobody is seen to.
func (x *chaos) serving() *api.VolumeStatus {
	for _, node := range x.up() {
		if v, err := x.c.volume(node); err == nil && len(v.Devices) > 0 {
			return v
		}
	}
	return nil
}

// pauseUpTo waits a random time. False: ctx has ended.
func pauseUpTo(ctx context.Context, rng *rand.Rand, limit time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(time.Duration(rng.Int64N(int64(limit)))):
		return true
	}
}

// idle is an administrator who does nothing.
func (x *chaos) idle(ctx context.Context) { <-ctx.Done() }

// logged are the lines of all agents' logs, those of agents that were killed included, of events by that rule.
func (c *cluster) logged(rule string) (lines []string) {
	find := regexp.MustCompile(`(?m)^.*rule=` + rule + `\b.*$`)
	for _, node := range c.nodes {
		for _, line := range find.FindAllString(c.logs(node), -1) {
			lines = append(lines, node+": "+line)
		}
	}
	return lines
}

// never fails the test if an agent has logged an event by one of these rules.
func (c *cluster) never(rules ...string) {
	c.t.Helper()
	for _, rule := range rules {
		for _, line := range c.logged(rule) {
			c.t.Error(line)
		}
	}
}
