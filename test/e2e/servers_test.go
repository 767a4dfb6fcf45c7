package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// servers are machines of the administrator's pages, as far as a machine can be had without a virtual one: each has mounts
// of its own (/etc, /var/lib, /run, /srv, /dev/keelson and /dev/vg0) and a network card of its own, all on one switch. So
// commands are run as they are printed, with the addresses and paths that a reader will use.
type servers struct {
	t    *testing.T
	dir  string
	net  *server            // the switch
	all  map[string]*server // by name
	unit []string           // how the packaged unit starts the agent
}

// server is one of them.
type server struct {
	name   string
	holder *exec.Cmd // keeps its namespaces
	pid    int       // of the holder
	guard  *exec.Cmd // ends everything at the server when its input ends, however that comes
	agent  *exec.Cmd // nil: it does not run
}

// ownMounts: what other tests have mounted is theirs alone.
const ownMounts = `awk 'index($2, "/tmp/") == 1 || index($2, "/var/tmp/") == 1 {print $2}' /proc/mounts | tac | xargs -r umount --lazy
`

// machine is what a holder does before it waits: the server's own mounts. Its argument is a folder that only it uses. What is
// in /etc and /var/lib of this machine is there, and what is changed there is changed for the server only.
const machine = `set -e
mount -t tmpfs tmpfs "$1"
for d in etc var/lib; do
	mkdir -p "$1/$d" "$1/work/$d"
	mount -t overlay overlay -o "lowerdir=/$d,upperdir=$1/$d,workdir=$1/work/$d" "/$d"
done
rm -rf /etc/keelson /var/lib/keelson
for d in /run /srv /dev/keelson /dev/vg0; do mount -t tmpfs -o mode=755 tmpfs $d; done
mkdir /run/postgresql && chown postgres /run/postgresql
ip link set lo up
echo ready
exec sleep infinity`

// guardScript waits for the end of the test, then ends the server's block devices before its processes: an agent that is the last
// process of a mount namespace in which its own device is mounted would wait for itself.
const guardScript = `read word
for n in $(awk '/ fuse.keelson / {split($3, n, ":"); print n[2]}' /proc/self/mountinfo); do echo 1 >/sys/fs/fuse/connections/$n/abort; done
own=$(readlink /proc/self/ns/mnt)
for p in /proc/[0-9]*; do [ "$(readlink $p/ns/mnt)" != "$own" ] || [ ${p#/proc/} = $$ ] || kill -9 ${p#/proc/}; done
true`

// switchScript makes the switch.
const switchScript = `set -e
ip link add switch type bridge
ip link set switch up
echo ready
exec sleep infinity`

// mountPoints makes what servers mount over. They stay until the test and all its parts are over: the kernel unmounts, in every other
// mount namespace, what is on a directory that is removed.
func mountPoints(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/dev/keelson", "/dev/vg0"} {
		if err := os.Mkdir(dir, 0o755); err == nil {
			t.Cleanup(func() { _ = os.Remove(dir) }) // not empty: another test of this machine uses it
		}
	}
}

// newServers makes servers with these names; the first has the address 10.0.0.1.
func newServers(t *testing.T, names ...string) *servers {
	t.Helper()
	s := &servers{t: t, dir: folder(t), all: map[string]*server{}, unit: unitStarts(t)}
	s.net = s.hold("switch", switchScript)
	for i, name := range names {
		own := filepath.Join(s.dir, name)
		if err := os.Mkdir(own, 0o755); err != nil {
			t.Fatal(err)
		}
		s.all[name] = s.hold(name, machine, own)
		s.in(s.net, fmt.Sprintf("ip link add to-%s type veth peer name eth0 netns %d && ip link set to-%s master switch up", name, s.all[name].pid, name))
		s.in(s.all[name], fmt.Sprintf("ip addr add 10.0.0.%d/24 dev eth0 && ip link set eth0 up", i+1))
	}
	return s
}

// disk gives the server a disk of so many bytes, /dev/vg0/NAME.
func (s *servers) disk(m *server, name string, bytes int64) {
	s.t.Helper()
	number := strings.TrimPrefix(loopDevice(s.t, bytes), "/dev/loop")
	s.in(m, fmt.Sprintf("mknod /dev/vg0/%s b 7 %s", name, number))
}

// unitStarts is the command with which the packaged unit starts the agent, without the program's folder.
func unitStarts(t *testing.T) []string {
	t.Helper()
	text := must(os.ReadFile("../../packaging/keelson.service"))
	for line := range strings.Lines(string(text)) {
		if start, ok := strings.CutPrefix(line, "ExecStart=/usr/bin/keelson "); ok {
			return strings.Fields(start)
		}
	}
	t.Fatal("the unit has no ExecStart")
	return nil
}

// hold starts the process that keeps a server's namespaces, and waits until they are made.
func (s *servers) hold(name, script string, args ...string) *server {
	s.t.Helper()
	h := exec.Command("unshare", append([]string{"--mount", "--net", "--uts", "--ipc", "--propagation", "slave", "sh", "-c", "hostname " + name + "\n" + ownMounts + script, name}, args...)...)
	h.Stderr = os.Stderr
	out, err := h.StdoutPipe()
	if err == nil {
		err = h.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	m := &server{name: name, holder: h, pid: h.Process.Pid}
	said := make([]byte, 16)
	if n, err := out.Read(said); err != nil || !strings.HasPrefix(string(said[:n]), "ready") {
		s.t.Fatalf("%s: %q, %v", name, said[:n], err)
	}
	m.guard = exec.Command("nsenter", "--mount", "--target", strconv.Itoa(m.pid), "sh", "-c", guardScript, "guard", strconv.Itoa(m.pid))
	word, err := m.guard.StdinPipe()
	if err == nil {
		err = m.guard.Start()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if m != s.net {
			s.off(m, syscall.SIGTERM)
		}
		if err := errors.Join(word.Close(), m.guard.Wait()); err != nil {
			s.t.Errorf("the guard of %s: %v", m.name, err)
		}
		_ = h.Wait() // it was killed
	})
	return m
}

// command is a shell's command line at the server.
func (s *servers) command(m *server, line string) *exec.Cmd {
	cmd := exec.Command("nsenter", "--mount", "--net", "--uts", "--ipc", "--target", strconv.Itoa(m.pid), "--wd=/", "bash", "-c", line)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(keelson)+":"+os.Getenv("PATH"))
	return cmd
}

// in runs a command line that has to succeed.
func (s *servers) in(m *server, line string) string {
	s.t.Helper()
	out, err := s.command(m, line).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s# %s: %v\n%s", m.name, line, err, out)
	}
	return string(out)
}

// start starts the agent as systemd does, and waits for its word.
func (s *servers) start(m *server) {
	s.t.Helper()
	if m.agent != nil {
		s.t.Fatalf("the agent of %s runs", m.name)
	}
	log, err := os.OpenFile(s.log(m), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close() // the child has its own
	m.agent = s.command(m, "exec keelson "+strings.Join(s.unit, " "))
	m.agent.Stdout, m.agent.Stderr = log, log
	if err := m.agent.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.wait("the agent of "+m.name+" answers", func() error { return s.command(m, "keelson status").Run() })
}

func (s *servers) log(m *server) string { return filepath.Join(s.dir, m.name+".log") }

// wait waits for a condition.
func (s *servers) wait(what string, look func() error) {
	s.t.Helper()
	if err := until(settleMax, look); err != nil {
		s.t.Fatalf("%s: %v", what, err)
	}
}

// stop ends the agent: SIGTERM as systemd does, SIGKILL as the loss of power does.
func (s *servers) stop(m *server, sig syscall.Signal) {
	s.t.Helper()
	if m.agent == nil {
		return
	}
	_ = m.agent.Process.Signal(sig)
	ended := make(chan error, 1)
	go func() { ended <- m.agent.Wait() }()
	select {
	case err := <-ended:
		if err != nil && sig == syscall.SIGTERM {
			s.t.Errorf("the agent of %s: %v", m.name, err)
		}
	case <-time.After(settleMax):
		_ = m.agent.Process.Kill()
		<-ended
		s.t.Errorf("the agent of %s did not end", m.name)
	}
	m.agent = nil
}

// off ends a machine: SIGTERM cleanly, what is mounted first and then the agent, as systemd does; SIGKILL by the loss of its
// power. What is on its disks and below /etc and /var stays, and it can be started again.
func (s *servers) off(m *server, sig syscall.Signal) {
	s.t.Helper()
	if sig == syscall.SIGTERM {
		s.in(m, unmountAll)
	}
	s.stop(m, sig)
	s.kill(m)
	s.in(m, unmountAll+`
for link in /dev/keelson/*; do [ -L "$link" ] && losetup --detach "$(readlink "$link")"; done
for d in /run /dev/keelson; do umount --lazy $d; mount -t tmpfs -o mode=755 tmpfs $d; done
mkdir /run/postgresql && chown postgres /run/postgresql`)
}

// unmountAll unmounts what is below /srv.
const unmountAll = `awk 'index($2, "/srv/") == 1 {print $2}' /proc/mounts | tac | xargs -r umount`

// processes are those at the server, by number, but for its holder and its guard.
func (s *servers) processes(m *server) map[int]string {
	s.t.Helper()
	ns := must(os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", m.pid)))
	found := map[int]string{}
	for _, e := range must(os.ReadDir("/proc")) {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == m.pid || pid == m.guard.Process.Pid {
			continue
		}
		if theirs, err := os.Readlink("/proc/" + e.Name() + "/ns/mnt"); err == nil && theirs == ns {
			name, _ := os.ReadFile("/proc/" + e.Name() + "/comm") // it may have ended meanwhile
			found[pid] = strings.TrimSpace(string(name))
		}
	}
	return found
}

// kill ends every process at the server, and waits for the last traces of them: a zombie, too, would be a process to PostgreSQL.
func (s *servers) kill(m *server) {
	s.t.Helper()
	killed := map[int]bool{}
	s.wait("the processes of "+m.name+" are gone", func() error {
		for pid := range s.processes(m) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
			killed[pid] = true
		}
		for pid := range killed {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
				return fmt.Errorf("process %d", pid)
			}
		}
		return nil
	})
}
