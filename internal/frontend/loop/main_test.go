package loop_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/loop"
)

// This test's binary is three programs: the tests; a server of one device ("serve"), which the tests look at from outside, as
// everybody has to; and the server's helper ("help").
func TestMain(m *testing.M) {
	switch os.Getenv("LOOP_TEST") {
	case "help":
		out, err := loop.HelperMain(os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(out)
	case "abort":
		limit, _ := time.ParseDuration(os.Args[2]) // startAt gives a good one
		time.Sleep(limit)                          // the guard is ended by the test that started it
		fmt.Println(loop.Abort(os.Args[1]))
	case "serve":
		if err := serve(os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
	default:
		os.Exit(m.Run())
	}
}

// abortAfter is how long a test may take: then its guard, a process of its own, aborts the connection.
const abortAfter = 90 * time.Second

func options(mount string, blockBytes int) loop.Options {
	os.Setenv("LOOP_TEST", "help") // for the helpers
	return loop.Options{
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Mount: mount, Name: "vol", Helper: []string{"/proc/self/exe"},
		BlockBytes: blockBytes, RequestsMax: 64, InFlightBytes: 64 << 20,
	}
}

// watched counts what reaches the device, and can hold it back or make it fail.
type watched struct {
	block.Device
	counts [5]atomic.Int64 // by block.Op
	mu     sync.Mutex
	hold   chan struct{} // closed when requests may go on; nil: they may
	fail   error
}

func (w *watched) Submit(batch []*block.Request) {
	for _, r := range batch {
		w.counts[r.Op].Add(1)
		w.mu.Lock()
		hold, fail := w.hold, w.fail
		w.mu.Unlock()
		if hold != nil {
			<-hold
		}
		if fail != nil {
			r.Err = fail
			r.By.Complete(r)
			continue
		}
		w.Device.Submit([]*block.Request{r})
	}
}

// serve is the server: it says the device's path, then obeys lines until its input ends.
func serve(file, mount, blockBytes string) error {
	size, err := strconv.Atoi(blockBytes)
	if err != nil {
		return err
	}
	dev, err := blocktest.NewFile(file, 64<<20)
	if err != nil {
		return err
	}
	w := &watched{Device: dev}
	o := options(mount, size)
	left, err := loop.Clean(context.Background(), o)
	if err != nil {
		return err
	}
	d, err := loop.Attach(context.Background(), w, o)
	if err != nil {
		return err
	}
	fmt.Println(d.Path(), len(left))
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		w.mu.Lock()
		switch word {
		case "hold":
			w.hold = make(chan struct{})
		case "release":
			close(w.hold)
			w.hold = nil
		case "fail":
			w.fail = map[string]error{"": nil, "space": block.ErrNoSpace, "shutdown": block.ErrShutdown, "disk": errors.New("the disk is gone")}[rest]
		}
		w.mu.Unlock()
		counts := map[string]int64{}
		for op := range w.counts {
			counts[block.Op(op).String()] = w.counts[op].Load()
		}
		text, _ := json.Marshal(counts)
		fmt.Println(string(text))
	}
	holders, err := d.Close()
	if errors.Is(err, loop.ErrInUse) {
		fmt.Println("in use", len(holders))
		holders, err = d.Drop()
	}
	fmt.Println("closed", len(holders))
	return err
}

// server is a running "serve".
type server struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	image  string
	mount  string
	device string // /dev/loopN
	left   int    // loop devices of an earlier server that are still held
	ended  chan struct{}
}

// file is that of the FUSE file system.
func (s *server) file() string {
	s.t.Helper()
	found, err := filepath.Glob(s.mount + "/*")
	if err != nil || len(found) != 1 {
		s.t.Fatalf("%s has %v (%v)", s.mount, found, err)
	}
	return found[0]
}

func start(t *testing.T, blockBytes int) *server {
	t.Helper()
	if err := loop.Supported(); err != nil {
		t.Fatalf("this test needs root, fuse and loop: %v", err)
	}
	dir, err := os.MkdirTemp("", "kl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return startAt(t, filepath.Join(dir, "image"), filepath.Join(dir, "mnt"), blockBytes)
}

func self(t *testing.T, what string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), "LOOP_TEST="+what)
	cmd.Stderr = os.Stderr
	return cmd
}

func startAt(t *testing.T, image, mount string, blockBytes int) *server {
	t.Helper()
	s := &server{t: t, image: image, mount: mount, ended: make(chan struct{})}
	guard := self(t, "abort", mount, (abortAfter + *randomFor).String())
	if err := guard.Start(); err != nil {
		t.Fatal(err)
	}
	s.cmd = self(t, "serve", image, mount, strconv.Itoa(blockBytes))
	s.in, _ = s.cmd.StdinPipe()
	out, _ := s.cmd.StdoutPipe()
	s.out = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.end()
		_ = guard.Process.Kill()
		_ = guard.Wait()
		if err := s.clean(); err != nil {
			t.Errorf("clean: %v", err)
		}
	})
	line := s.line()
	if n, err := fmt.Sscan(line, &s.device, &s.left); n != 2 {
		t.Fatalf("the server says %q: %v", line, err)
	}
	return s
}

func (s *server) line() string {
	if s.out.Scan() {
		return s.out.Text()
	}
	return ""
}

// tell gives the server an order and returns what it has counted by then.
func (s *server) tell(order string) map[string]int64 {
	s.t.Helper()
	counts := map[string]int64{}
	if _, err := fmt.Fprintln(s.in, order); err != nil {
		s.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(s.line()), &counts); err != nil {
		s.t.Fatal(err)
	}
	return counts
}

// end ends the server, cleanly if it still runs.
func (s *server) end() (said string) {
	_ = s.in.Close()
	said = s.line()
	s.wait()
	return said
}

// kill ends it as kill -9 does and waits until it is gone: a server that cannot die fails the test.
func (s *server) kill() {
	s.t.Helper()
	_ = s.cmd.Process.Kill()
	s.wait()
}

func (s *server) wait() {
	s.t.Helper()
	select {
	case <-s.ended:
		return
	default:
	}
	go func() { _ = s.cmd.Wait(); close(s.ended) }()
	select {
	case <-s.ended:
	case <-time.After(30 * time.Second):
		s.t.Errorf("the server %d does not end", s.cmd.Process.Pid)
		s.t.Log(loop.Abort(s.mount))
		<-s.ended
	}
}

// clean is what the next server does first.
func (s *server) clean() error {
	left, err := loop.Clean(context.Background(), cleanOptions(s.t, s.mount))
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("still held: %v", left)
	}
	return err
}

func cleanOptions(t *testing.T, mount string) loop.Options {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o := loop.Options{Log: slog.New(slog.DiscardHandler), Mount: mount, Name: "vol", BlockBytes: 512}
	o.Helper = []string{"/usr/bin/env", "LOOP_TEST=help", exe}
	return o
}

// soon fails the test if fn does not return within the limit.
func soon(t *testing.T, what string, limit time.Duration, fn func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		t.Fatalf("%s: not within %s", what, limit)
		return nil
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// waitUntil polls a condition.
func waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
