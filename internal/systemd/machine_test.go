package systemd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

// machine is a bus of its own with a logind and a systemd on it that only note what they are asked.
type machine struct {
	t     *testing.T
	conn  *dbus.Conn
	calls chan string // such as "hold REASON", "released REASON", "StartUnit UNIT"

	mu     sync.Mutex
	refuse *dbus.Error // the answer to everything; nil: none
	copies []int       // of the locks that were given, which travel as copies
}

// privateBus starts a bus daemon that is the system's bus for this process, and returns how it is ended.
func privateBus(t *testing.T) (end func()) {
	t.Helper()
	return startBus(t, t.TempDir())
}

func startBus(t *testing.T, dir string) (end func()) {
	t.Helper()
	conf := filepath.Join(dir, "bus.conf")
	address := "unix:path=" + filepath.Join(dir, "bus")
	text := `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>` + address + `</listen><policy context="default"><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/><allow own="*"/></policy></busconfig>`
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dbus-daemon", "--config-file="+conf, "--nofork", "--print-address=3")
	ready, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; install the Debian package dbus-daemon", err)
	}
	w.Close()
	if line, err := io.ReadAll(io.LimitReader(ready, 1)); err != nil || len(line) == 0 {
		t.Fatalf("the bus does not start: %v", err)
	}
	go io.Copy(io.Discard, ready)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	var once sync.Once
	end = func() {
		once.Do(func() { cmd.Process.Kill(); cmd.Wait(); ready.Close(); os.Remove(filepath.Join(dir, "bus")) })
	}
	t.Cleanup(end)
	return end
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &machine{t: t, conn: conn, calls: make(chan string, 64)}
	for name, path := range map[string]dbus.ObjectPath{"org.freedesktop.login1": "/org/freedesktop/login1", "org.freedesktop.systemd1": "/org/freedesktop/systemd1"} {
		if err := conn.Export(m, path, name+".Manager"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func (m *machine) answer() *dbus.Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.refuse
}

func (m *machine) refuseAll(e *dbus.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = e
}

// Inhibit is logind's: the lock lasts until the last copy of the pipe's end is closed.
func (m *machine) Inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	if e := m.answer(); e != nil {
		m.calls <- "refused"
		return 0, e
	}
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	m.mu.Lock()
	m.copies = append(m.copies, p[1])
	m.mu.Unlock()
	go func() {
		r := os.NewFile(uintptr(p[0]), "lock")
		defer r.Close()
		r.Read(make([]byte, 1)) // ends with the last writer
		m.calls <- "released " + why
	}()
	m.calls <- fmt.Sprintf("hold %s %s %s: %s", what, who, mode, why)
	return dbus.UnixFD(p[1]), nil
}

// StartUnit is systemd's.
func (m *machine) StartUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("StartUnit", unit, mode)
}

// StopUnit is systemd's.
func (m *machine) StopUnit(unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	return m.job("StopUnit", unit, mode)
}

func (m *machine) job(method, unit, mode string) (dbus.ObjectPath, *dbus.Error) {
	if e := m.answer(); e != nil {
		m.calls <- "refused"
		return "/", e
	}
	m.calls <- method + " " + unit + " " + mode
	return "/org/freedesktop/systemd1/job/1", nil
}

// expect waits for these calls, in any order, and for nothing else before them.
func (m *machine) expect(want ...string) {
	m.t.Helper()
	left := map[string]bool{}
	for _, w := range want {
		left[w] = true
	}
	for len(left) > 0 {
		select {
		case got := <-m.calls:
			if !left[got] {
				m.t.Fatalf("%q was not expected; missing: %v", got, left)
			}
			delete(left, got)
		case <-time.After(60 * time.Second):
			m.t.Fatalf("still missing: %v", left)
		}
	}
}

// held waits until the agent has that lock; the copy of it here is closed.
func (m *machine) held(a *agent, why string) {
	m.t.Helper()
	a.log.wait(m.t, "is held\" why=\""+why+"\"")
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, fd := range m.copies {
		syscall.Close(fd)
	}
	m.copies = nil
}

// agent is what Follow is told.
type agent struct {
	log     logLines
	mu      sync.Mutex
	now     Concerns
	changed chan struct{}
}

func (a *agent) set(c Concerns) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = c
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *agent) look() (Concerns, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now, a.changed
}

// follow runs Follow until the test ends, or until the function returned is called.
func follow(t *testing.T, first Concerns) (*agent, func()) {
	t.Helper()
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	a := &agent{now: first, changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); Follow(ctx, a.look, slog.New(slog.NewTextHandler(&a.log, nil))) }()
	end := func() { cancel(); <-done }
	t.Cleanup(end)
	return a, end
}

func TestShutdownIsHeld(t *testing.T) {
	privateBus(t)
	m := newMachine(t)
	a, end := follow(t, Concerns{Hold: "only copy"})
	m.expect("hold shutdown Keelson block: only copy")
	m.held(a, "only copy")
	a.set(Concerns{Hold: "in use"}) // another reason: there is a lock all the time
	m.expect("hold shutdown Keelson block: in use")
	m.held(a, "in use")
	m.expect("released only copy")
	a.set(Concerns{})
	m.expect("released in use")
	a.set(Concerns{Hold: "once more"})
	m.expect("hold shutdown Keelson block: once more")
	m.held(a, "once more")
	end()
	m.expect("released once more")
}

func TestUnitsFollowTheVolumes(t *testing.T) {
	privateBus(t)
	m := newMachine(t)
	a, _ := follow(t, Concerns{Usable: map[string]bool{"data": false, "logs.x-1": true}})
	// A target that an agent left that died is stopped.
	m.expect("StopUnit keelson-volume@data.target replace", "StartUnit keelson-volume@logs.x-1.target replace")
	a.set(Concerns{Usable: map[string]bool{"data": true, "logs.x-1": true}})
	m.expect("StartUnit keelson-volume@data.target replace")
	a.set(Concerns{Usable: map[string]bool{"data": true, "logs.x-1": true}, Hold: "in use"}) // nothing new for the units
	m.expect("hold shutdown Keelson block: in use")
	m.held(a, "in use")
	a.set(Concerns{Usable: map[string]bool{"data": false}}) // the other one is deleted
	m.expect("released in use", "StopUnit keelson-volume@data.target replace", "StopUnit keelson-volume@logs.x-1.target replace")
}

// What could not be told is told when it can be: the bus comes later, or logind refuses for a while.
func TestMachineComesLater(t *testing.T) {
	dir := t.TempDir()
	startBus(t, dir)() // ended at once
	a, _ := follow(t, Concerns{Hold: "only copy", Usable: map[string]bool{"data": true}})
	a.log.wait(t, "the system's bus cannot be reached")
	startBus(t, dir)
	m := newMachine(t)
	m.refuseAll(&dbus.Error{Name: "org.freedesktop.DBus.Error.AccessDenied"})
	a.set(Concerns{Hold: "only copy", Usable: map[string]bool{"data": true}})
	m.expect("refused")
	a.log.wait(t, "logind does not hold")
	a.log.wait(t, "systemd was not told")
	m.refuseAll(nil)
	for len(m.calls) > 0 {
		<-m.calls
	}
	m.expect("hold shutdown Keelson block: only copy", "StartUnit keelson-volume@data.target replace")
	if n := a.log.count("cannot be reached"); n != 1 {
		t.Errorf("the log says %d times that there is no bus", n)
	}
}

// A machine without the package's units is not asked for them again and again.
func TestUnitsAreMissing(t *testing.T) {
	privateBus(t)
	m := newMachine(t)
	m.refuseAll(&dbus.Error{Name: "org.freedesktop.systemd1.NoSuchUnit"})
	a, _ := follow(t, Concerns{Usable: map[string]bool{"data": true}})
	m.expect("refused")
	a.log.wait(t, "NoSuchUnit")
	m.refuseAll(nil)
	a.set(Concerns{Usable: map[string]bool{"data": true}, Hold: "in use"})
	m.expect("hold shutdown Keelson block: in use") // and no StartUnit before it or with it
	m.held(a, "in use")
	a.set(Concerns{Usable: map[string]bool{"data": false}})
	m.expect("released in use", "StopUnit keelson-volume@data.target replace")
}

func TestWithoutSystemdNothingIsAsked(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	os.Unsetenv("NOTIFY_SOCKET")
	Follow(context.Background(), func() (Concerns, <-chan struct{}) { t.Error("it was looked at"); return Concerns{}, nil }, slog.New(slog.DiscardHandler))
}

// logLines is what was logged.
type logLines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logLines) count(s string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), s)
}

func (l *logLines) wait(t *testing.T, s string) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); l.count(s) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the log does not say %q", s)
		}
	}
}
