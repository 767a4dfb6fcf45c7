package nbd_test

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"keelson/internal/block"
	"keelson/internal/frontend/nbd"
	"keelson/internal/frontend/nbd/nbdclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitFor polls a condition of another process or goroutine.
func waitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			tb.Fatalf("waited 10 s for %s", what)
		}
	}
}

// running is a server for one test, on a unix socket and on TCP.
type running struct {
	*nbd.Server
	dir, socket, tcp string
	log              *lines
}

// lines is what a server logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// start serves the device as "data".
func start(tb testing.TB, dev block.Device, o nbd.Options) *running {
	tb.Helper()
	r := &running{dir: tb.TempDir(), log: &lines{}}
	o.Log = slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.Server = nbd.NewServer(o)
	r.socket = filepath.Join(r.dir, "s")
	if err := r.AddExport("data", dev, nbd.ExportOptions{Description: "a volume for tests"}); err != nil {
		tb.Fatal(err)
	}
	var serving sync.WaitGroup
	for network, address := range map[string]string{"unix": r.socket, "tcp": "127.0.0.1:0"} {
		l, err := net.Listen(network, address)
		if err != nil {
			tb.Fatal(err)
		}
		if network == "tcp" {
			r.tcp = l.Addr().String()
		}
		serving.Go(func() {
			if err := r.Serve(l); err != nil {
				tb.Errorf("serve: %v", err)
			}
		})
	}
	tb.Cleanup(func() {
		if err := r.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
		serving.Wait()
	})
	return r
}

func (r *running) unix() string { return r.export("data") }

func (r *running) export(name string) string { return "nbd+unix:///" + name + "?socket=" + r.socket }

func (r *running) dial(tb testing.TB) *nbdclient.Client {
	tb.Helper()
	c, err := nbdclient.Dial(r.unix())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c
}

var packages = map[string]string{
	"fio": "fio", "nbdkit": "nbdkit", "nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin", "nbdfuse": "libnbd-bin",
	"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "fusermount3": "fuse3",
}

// tool is a command of a Debian package; a missing one fails the test with the package's name.
func tool(tb testing.TB, name string, args ...string) *exec.Cmd {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%s is missing: apt install %s", name, packages[name])
	}
	return exec.Command(path, args...)
}

// output runs a command that must succeed.
func output(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := tool(tb, name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// failing runs a command that must fail and returns what it says.
func failing(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := tool(tb, name, args...).CombinedOutput()
	if err == nil {
		tb.Fatalf("%s %q did not fail:\n%s", name, args, out)
	}
	return string(out)
}

func contains(tb testing.TB, text string, parts ...string) {
	tb.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			tb.Errorf("%q is missing in:\n%s", part, text)
		}
	}
}

// image makes a file of n bytes with data, zeroes and holes.
func image(tb testing.TB, n int64) (string, []byte) {
	tb.Helper()
	content := make([]byte, n)
	for i := 0; i < len(content); i += 8 {
		if i>>16%3 != 1 { // every third 64 KiB is empty
			copy(content[i:], []byte{byte(i >> 3), byte(i >> 11), byte(i >> 19), 1, 2, 3, 4, 5})
		}
	}
	path := filepath.Join(tb.TempDir(), "image")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path, content
}

// sameFile compares a file's content.
func sameFile(tb testing.TB, path string, want []byte) {
	tb.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		tb.Errorf("%s (%d bytes) differs from what was written (%d bytes)", path, len(got), len(want))
	}
}
