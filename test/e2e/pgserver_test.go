package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// postgres is Debian's PostgreSQL with its data on a disk. It runs as the user postgres: it refuses to run as root.
type postgres struct {
	c       *cluster
	user    *syscall.Credential
	bin     string // the folder of its programs
	data    string // on the disk
	sockets string
	server  *process
}

// postgresOptions: what is answered as committed is on the disk, and checkpoints and segments of the log are small and
// many, so that a kill meets all of them.
var postgresOptions = []string{
	"fsync=on", "synchronous_commit=on", "full_page_writes=on", "listen_addresses=", "shared_buffers=16MB", "max_connections=20",
	"min_wal_size=8MB", "max_wal_size=24MB", "checkpoint_timeout=30s", "autovacuum_naptime=5s", "log_min_messages=warning",
}

// postgresIn is the server with its data in that folder of the mounted file system.
func postgresIn(c *cluster, folder string) *postgres {
	c.t.Helper()
	account, err := user.Lookup("postgres")
	if err != nil {
		c.t.Fatal(err)
	}
	uid, errUID := strconv.ParseUint(account.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(account.Gid, 10, 32)
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if errUID != nil || errGID != nil || err != nil || len(found) == 0 {
		c.t.Fatalf("no PostgreSQL: user %+v, programs %v, %v", account, found, err)
	}
	p := &postgres{c: c, user: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, bin: found[len(found)-1], data: filepath.Join(folder, "pgdata"), sockets: filepath.Join(c.dir, "pg")}
	if err := os.Chmod(c.dir, 0o755); err != nil { // it has to find its way in
		c.t.Fatal(err)
	}
	for _, dir := range []string{p.data, p.sockets} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			c.t.Fatal(err)
		}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			c.t.Fatal(err)
		}
	}
	return p
}

// command is one of its programs.
func (p *postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = p.sockets
	cmd.Env = []string{"PGHOST=" + p.sockets, "PGUSER=postgres", "PGDATABASE=postgres", "LC_ALL=C.UTF-8", "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
	return cmd
}

// run runs a program that has to succeed, and returns what it printed.
func (p *postgres) run(name string, args ...string) string {
	p.c.t.Helper()
	cmd := p.command(name, args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		p.c.t.Fatalf("%s %s: %v\n%s%s\nserver: %s", name, strings.Join(args, " "), err, out, said.String(), p.log())
	}
	return string(out)
}

// sql is the answer to a query, one row a line.
func (p *postgres) sql(query string) string {
	p.c.t.Helper()
	return strings.TrimSpace(p.run("psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", query))
}

func (p *postgres) log() string {
	text, _ := os.ReadFile(filepath.Join(p.sockets, "server.log")) // for messages only
	return string(text[max(0, len(text)-4000):])
}

// start starts the server and waits until it has recovered and answers.
func (p *postgres) start() {
	p.c.t.Helper()
	log, err := os.OpenFile(filepath.Join(p.sockets, "server.log"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		p.c.t.Fatal(err)
	}
	defer log.Close() // the child has its own
	args := []string{"-D", p.data, "-k", p.sockets}
	for _, o := range postgresOptions {
		args = append(args, "-c", o)
	}
	cmd := p.command("postgres", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		p.c.t.Fatal(err)
	}
	server := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // the test judges by what it answers
		close(server.done)
	}()
	p.server = server
	p.c.t.Cleanup(func() { p.end(syscall.SIGKILL) })
	p.c.wait("PostgreSQL answers", settleMax, func() error {
		select {
		case <-server.done:
			p.c.t.Fatalf("PostgreSQL ended: %s", p.log())
		default:
		}
		if out, err := p.command("psql", "-X", "-At", "-c", "SELECT 1").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// end ends the server: SIGINT stops it cleanly, SIGKILL as its machine's death does.
func (p *postgres) end(sig syscall.Signal) {
	p.c.t.Helper()
	if p.server == nil {
		return
	}
	_ = p.server.cmd.Process.Signal(sig) // it may have ended by itself: its disk is gone
	select {
	case <-p.server.done:
	case <-time.After(settleMax):
		_ = p.server.cmd.Process.Kill()
		<-p.server.done
		p.c.t.Errorf("PostgreSQL did not end within %s of %s: %s", settleMax, sig, p.log())
	}
	if code := p.server.cmd.ProcessState.ExitCode(); sig == syscall.SIGINT && code != 0 {
		p.c.t.Errorf("PostgreSQL ended with %d: %s", code, p.log())
	}
	p.server = nil
}
