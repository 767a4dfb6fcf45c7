package main

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/api"
	"keelson/internal/api/apitest"
	"keelson/internal/demo"
)

// helper is this test's binary as keelson.
func helper(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("keelson") // testscript.Main put it there
	if err != nil {
		t.Fatal(err)
	}
	return exec.Command(path, args...)
}

// shortDir is a directory whose sockets have paths that the kernel takes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopDemos(dir) })
	return dir
}

// stopDemos ends what a test that failed may have left, and removes the directory.
func stopDemos(dir string) {
	demos, _ := filepath.Glob(filepath.Join(dir, "*", "demo.json")) // the pattern is good
	for _, file := range demos {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		_, _ = demo.Stop(ctx, filepath.Dir(file)) // the test has failed already if there is something to stop
		cancel()
	}
	_ = os.RemoveAll(dir)
}

// An interrupt is how following ends: exit code 0.
func TestInterruptEndsFollowing(t *testing.T) {
	socket := filepath.Join(shortDir(t), "s")
	apitest.Serve(t, socket, &apitest.Fake{
		OnWatch: func(ctx context.Context, fn func(*api.Status) error) error {
			_ = fn(&api.Status{Node: "a"})
			<-ctx.Done()
			return ctx.Err()
		},
		OnEvents: func(ctx context.Context, _ api.EventsQuery, fn func(api.Event) error) error {
			_ = fn(api.Event{Node: "a"})
			<-ctx.Done()
			return ctx.Err()
		},
	})
	for _, args := range [][]string{{"status", "--watch"}, {"events", "--follow"}} {
		c := helper(t, append(args, "--json", "--socket", socket)...)
		interruptAfterLine(t, c, `"node":"a"`)
	}
}

// interruptAfterLine starts a command, interrupts it after a line with that text, and expects success.
func interruptAfterLine(t *testing.T, c *exec.Cmd, text string) {
	t.Helper()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = c.Process.Kill() })
	defer timer.Stop()
	lines, found := bufio.NewScanner(out), false
	for !found && lines.Scan() {
		found = strings.Contains(lines.Text(), text)
	}
	if !found {
		t.Errorf("%v never printed %s", c.Args, text)
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Error(err)
	}
	for lines.Scan() { // until it ends
	}
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %v", c.Args, err)
	}
}

func TestInterruptEndsTheDemoAndItsAgents(t *testing.T) {
	dir := filepath.Join(shortDir(t), "d")
	interruptAfterLine(t, helper(t, "demo", "--dir", dir), "demo stop --dir")
	if left := demo.Running(dir); len(left) != 0 {
		t.Errorf("still running: %v", left)
	}
}

// A pid file that names another process must not get that one ended.
func TestStopHitsOnlyTheDemosAgents(t *testing.T) {
	dir := filepath.Join(shortDir(t), "d")
	if out, err := helper(t, "demo", "--dir", dir, "--detach").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	bystander := exec.Command("sleep", "600")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	pid := strconv.Itoa(bystander.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, "b", "agent.pid"), []byte(pid+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// One agent is killed and started again by hand, with a relative path, as a user would.
	again := restartByHand(t, dir, "c")
	stopped, err := demo.Stop(t.Context(), dir)
	if err != nil || len(stopped) != 3 {
		t.Errorf("stopped %v, %v", stopped, err)
	}
	if err := again.Wait(); err != nil {
		t.Errorf("the agent started by hand: %v", err)
	}
	if err := bystander.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the bystander was hit: %v", err)
	}
}

func restartByHand(t *testing.T, dir, node string) *exec.Cmd {
	t.Helper()
	for pid, n := range demo.Running(dir) {
		if n == node {
			kill(t, pid)
		}
	}
	if err := os.Remove(demo.Socket(dir, node)); err != nil {
		t.Fatal(err)
	}
	c := helper(t, "agent", "--config", "keelson.toml")
	c.Dir, c.Stderr = filepath.Join(dir, node), os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	client := api.NewSocketClient(demo.Socket(dir, node))
	defer client.Close()
	until(t, "agent answers", func() bool {
		_, err := client.Status(t.Context())
		return err == nil
	})
	return c
}

// kill ends a process and waits until all of its threads are gone, and with them its sockets.
func kill(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 20_000); n != 1 {
		t.Fatalf("process %d is not gone: %v", pid, err)
	}
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for !condition() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
