package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cluster is a set of agents on this machine and one volume of theirs.
type cluster struct {
	t      *testing.T
	dir    string
	nodes  []string
	name   string              // of the volume
	demo   bool                // `keelson demo` started them
	env    []string            // further variables of every process
	inside map[string][]string // the command that a node\'s agent is started by, such as one that enters a namespace

	started []*process // by start, in their order
	exports string     // of the tour: what its shell has exported
}

// process is an agent that this test started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has been waited for
}

// demo starts `keelson demo --detach` and returns when it says that both mirrors are Mirroring.
func demo(t *testing.T, size string, options ...string) *cluster {
	t.Helper()
	return demoWith(t, nil, size, options...)
}

// demoWith is demo with further variables in the environment of its agents.
func demoWith(t *testing.T, env []string, size string, options ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: folder(t), nodes: []string{"a", "b", "c"}, name: "data", demo: true, env: env}
	t.Cleanup(c.close)
	c.run("", append([]string{"demo", "--dir", c.dir, "--size", size, "--detach"}, options...)...)
	c.waitMirroring("a", "b", "c")
	return c
}

// folder is a new folder with a short name: paths of sockets are short in the kernel.
func folder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ke-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = exec.Command("umount", "--lazy", dir).Run() // guard has mounted it
		if !*keep {
			_ = os.RemoveAll(dir) // what stays is in the machine's folder for temporary files
		}
	})
	return dir
}

// pid is the process that the node's agent.pid names.
func (c *cluster) pid(node string) (int, error) {
	text, err := os.ReadFile(c.path(node, "agent.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// alive reports whether the process exists and is more than a zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return len(fields) > 0 && fields[0] != "Z" && fields[0] != "X"
}

// signal sends the node's agent a signal; it must be alive.
func (c *cluster) signal(node string, sig syscall.Signal) int {
	c.t.Helper()
	pid, err := c.pid(node)
	if err == nil && pid > 1 {
		err = syscall.Kill(pid, sig)
	}
	if err != nil {
		c.t.Fatalf("signal %v to the agent of %s: %v", sig, node, err)
	}
	return pid
}

// kill ends the node's agent as a power cut of the process would, and waits until it is gone.
func (c *cluster) kill(node string) {
	c.t.Helper()
	c.gone(node, c.signal(node, syscall.SIGKILL))
}

// stop asks the node's agent to end, as a service manager does.
func (c *cluster) stop(node string) {
	c.t.Helper()
	c.gone(node, c.signal(node, syscall.SIGTERM))
}

func (c *cluster) gone(node string, pid int) {
	c.t.Helper()
	c.wait("the agent of "+node+" is gone", 30*time.Second, func() error {
		if alive(pid) {
			return fmt.Errorf("process %d lives", pid)
		}
		return nil
	})
}

// start starts the node's agent, with further variables in its environment, and waits until it answers.
func (c *cluster) start(node string, env ...string) {
	c.t.Helper()
	c.launch(node, env...)
	c.wait("the agent of "+node+" answers", 30*time.Second, func() error {
		_, err := c.status(node)
		return err
	})
}

// launch starts the node's agent and returns at once.
func (c *cluster) launch(node string, env ...string) *process {
	c.t.Helper()
	log, err := os.OpenFile(c.path(node, "again.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close() // the child has its own
	line := append(append([]string(nil), c.inside[node]...), keelson, "agent", "--config", c.path(node, "keelson.toml"))
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(append(os.Environ(), c.env...), env...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is the test's to judge, by its log and its effects
		close(p.done)
	}()
	c.started = append(c.started, p)
	return p
}

// close ends all agents, looks for races and panics in their logs, and shows everything if the test failed.
func (c *cluster) close() {
	c.scanLogs()
	if c.t.Failed() {
		c.show()
	}
	running := map[string]int{}
	for _, node := range c.nodes {
		if pid, err := c.pid(node); err == nil && pid > 1 && alive(pid) {
			running[node] = pid
			_ = syscall.Kill(pid, syscall.SIGCONT) // a stopped one could not end
		}
	}
	if c.demo && len(running) > 0 {
		if err := c.execute("", "demo", "stop", "--dir", c.dir).err(); err != nil {
			c.t.Errorf("agents %v: %v", running, err)
		}
	}
	for _, p := range c.started {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
	}
	for _, p := range c.started {
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			c.t.Errorf("agent %d did not end within 20 s of SIGTERM", p.cmd.Process.Pid)
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
}

var broken = regexp.MustCompile(`(?m)^(WARNING: DATA RACE|panic:|fatal error:).*`)

// logs returns the node's logs, oldest first.
func (c *cluster) logs(node string) string {
	var all strings.Builder
	for _, name := range []string{"agent.log", "again.log"} {
		if text, err := os.ReadFile(c.path(node, name)); err == nil {
			all.Write(text)
		}
	}
	return all.String()
}

func (c *cluster) scanLogs() {
	for _, node := range c.nodes {
		log := c.logs(node)
		if at := broken.FindStringIndex(log); at != nil {
			c.t.Errorf("the agent of %s: %s", node, log[at[0]:min(len(log), at[0]+4000)])
		}
	}
}

// show logs what a person needs to understand a failure.
func (c *cluster) show() {
	for _, node := range c.nodes {
		log := strings.Split(strings.TrimSpace(c.logs(node)), "\n")
		c.t.Logf("--- %s: log, last lines of %d\n%s", node, len(log), strings.Join(log[max(0, len(log)-80):], "\n"))
		r := c.execute(node, "status", "--json", "--timeout", "3s")
		c.t.Logf("--- %s: status\n%s%s", node, r.stdout, r.stderr)
		r = c.execute(node, "events", "--timeout", "3s")
		lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
		c.t.Logf("--- %s: events\n%s%s", node, strings.Join(lines[max(0, len(lines)-60):], "\n"), r.stderr)
	}
	kept := c.kept()
	for _, node := range c.nodes {
		_ = os.MkdirAll(filepath.Join(kept, node), 0o755)
		_ = os.WriteFile(filepath.Join(kept, node, "log"), []byte(c.logs(node)), 0o644)
	}
	c.t.Logf("whole logs: %s", kept)
}

// kept is where the logs of a failed test stay.
func (c *cluster) kept() string {
	return filepath.Join(os.TempDir(), "keelson-e2e-failed", strings.ReplaceAll(c.t.Name(), "/", "-"))
}

// freeze stops the node's agent as a machine that hangs would, and returns what lets it go on.
func (c *cluster) freeze(node string) (thaw func()) {
	c.t.Helper()
	pid := c.signal(node, syscall.SIGSTOP)
	return func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			c.t.Errorf("SIGCONT to the agent of %s: %v", node, err)
		}
	}
}
