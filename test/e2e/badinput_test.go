package e2e

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/peer"
)

// part runs a sub-test whose failures are its own.
func (c *cluster) part(name string, fn func(t *testing.T)) {
	c.t.Run(name, func(t *testing.T) {
		outer := c.t
		c.t = t
		defer func() { c.t = outer }()
		fn(t)
	})
}

// Wrong words on the command line: each exit code of the contract, each with a message.
func TestBadCommands(t *testing.T) {
	c := demo(t, "64MiB")
	long := filepath.Join(c.dir, strings.Repeat("x", 60))
	c.part("unknown command", func(*testing.T) { c.fails(exitUsage, "a", []string{"frobnicate"}, "frobnicate") })
	c.part("unknown flag", func(*testing.T) { c.fails(exitUsage, "a", []string{"status", "--frobnicate"}, "frobnicate") })
	c.part("missing argument", func(*testing.T) { c.fails(exitUsage, "a", []string{"switchover", "data"}, "\"to\"") })
	c.part("a size that is none", func(*testing.T) {
		c.fails(exitUsage, "", []string{"demo", "--dir", c.dir + "/x", "--size", "many"}, "many")
	})
	c.part("a mode that is none", func(*testing.T) {
		c.fails(exitUsage, "a", []string{"mirror", "set", "data", "--target", "b", "--mode", "sometimes"}, "sometimes", "sync")
	})
	c.part("a demo in a folder with too long a name", func(*testing.T) {
		c.fails(exitUsage, "", []string{"demo", "--dir", long, "--detach"}, "60")
	})
	c.part("another demo in a folder that has one", func(*testing.T) {
		c.fails(exitRefused, "", []string{"demo", "--dir", c.dir, "--size", "128MiB", "--detach"}, c.dir)
	})
	c.part("no agent", func(*testing.T) {
		c.fails(exitUnreachable, "", []string{"status", "--socket", c.dir + "/none.sock"}, c.dir+"/none.sock", "agent")
	})
	c.part("unknown volume", func(*testing.T) {
		r := c.execute("a", "switchover", "nosuch", "--to", "b", "--yes")
		if r.code != exitFailed && r.code != exitRefused {
			t.Errorf("exit %d", r.code)
		}
		c.says(r, "nosuch")
	})
	c.part("switchover to a server without a copy", func(*testing.T) { c.refused("not-a-member", "a", "switchover", "data", "--to", "z", "--yes") })
	c.part("switchover to the source", func(*testing.T) { c.refused("already-source", "b", "switchover", "data", "--to", "a", "--yes") })
	c.part("a time limit", func(t *testing.T) {
		thaw := c.freeze("b")
		defer thaw()
		r := c.execute("a", "switchover", "data", "--to", "b", "--yes", "--timeout", "500ms")
		if r.code != exitUnfinished && r.code != exitRefused {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
	})
	if source := c.waitOneSource(); source != "a" {
		t.Errorf("the source is %s", source)
	}
}

// Backing stores that cannot be used, each with its message. Nothing that fails leaves anything behind.
func TestBadBackingStore(t *testing.T) {
	c := byHand(t, []string{"a", "b", "c"})
	count := 0
	create := func(source, target string, more ...string) []string {
		count++ // another name each time: a volume that was made wrongly is not in the way of the next
		return append([]string{"volume", "create", fmt.Sprintf("v%d", count), "--source", "a:" + source, "--target", "b:" + target}, more...)
	}
	c.part("missing", func(*testing.T) {
		c.fails(exitFailed, "a", create(c.dir+"/none/v.img", c.path("b", "v.img")), c.dir+"/none/v.img")
	})
	c.part("smaller than the source", func(t *testing.T) {
		sh(t, "truncate", "-s", "64M", c.path("a", "s.img"))
		small := loopDevice(t, 32*mib)
		r := c.execute("a", create(c.path("a", "s.img"), small)...)
		if r.code != exitFailed && r.code != exitRefused {
			t.Errorf("exit %d", r.code)
		}
		c.says(r, "larger", small)
	})
	c.part("in use", func(t *testing.T) {
		path := c.path("a", "used.img")
		sh(t, "truncate", "-s", "32M", path)
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		c.refused("in-use", "a", create(path, c.path("b", "v.img"))...)
		c.says(c.execute("a", create(path, c.path("b", "v.img"))...), "in use", path)
	})
	c.part("used by a file system", func(t *testing.T) {
		device := loopDevice(t, 32*mib)
		sh(t, "mkfs.ext4", "-q", "-F", device)
		dir := t.TempDir()
		sh(t, "mount", device, dir)
		defer sh(t, "umount", dir)
		c.refused("in-use", "a", create(device, c.path("b", "v.img"))...)
		c.says(c.execute("a", create(device, c.path("b", "v.img"))...), device, "mounted at "+dir, "umount "+dir)
	})
	c.part("the copy of another volume", func(*testing.T) {
		device := loopDevice(t, 32*mib)
		args := create(device, c.path("b", "w.img"))
		c.run("a", args...)
		c.refused("in-use", "a", create(device, c.path("b", "v.img"))...)
		c.says(c.execute("a", create(device, c.path("b", "v.img"))...), "another volume")
		c.refused("in-use", "a", create(c.path("a", "v.img"), c.path("b", "w.img"), "--size", "32MiB")...)
		c.run("a", "volume", "delete", args[2])
	})
	c.part("read-only", func(t *testing.T) {
		file := c.path("a", "ro.img")
		sh(t, "truncate", "-s", "32M", file)
		device := strings.TrimSpace(sh(t, "losetup", "--read-only", "--find", "--show", file))
		defer sh(t, "losetup", "--detach", device)
		r := c.execute("a", create(device, c.path("b", "v.img"))...)
		if r.code != exitFailed && r.code != exitRefused {
			t.Errorf("exit %d", r.code)
		}
		c.says(r, "read-only", device)
	})
	c.part("an empty file without a size", func(t *testing.T) {
		if err := os.WriteFile(c.path("a", "empty.img"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r := c.execute("a", create(c.path("a", "empty.img"), c.path("b", "v.img"))...)
		if r.code == exitDone {
			t.Error("a volume of no bytes was made")
		}
		c.says(r, "size")
	})
	c.part("and a good one", func(t *testing.T) {
		args := create(c.path("a", "v.img"), c.path("b", "v.img"), "--size", "32MiB")
		c.name = args[2]
		defer func() { c.name = "data" }()
		c.run("a", args...)
		c.waitMirroring("a", "b")
		c.run("a", "volume", "delete", c.name)
	})
}

// A disk without room: below a target only that mirror suffers; below the source the application is told and goes on.
func TestFullDisk(t *testing.T) {
	c := byHand(t, []string{"a", "b", "c"})
	small := filepath.Join(c.dir, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	sh(t, "mount", "-t", "tmpfs", "-o", "size=8m", "keelson-e2e", small)
	t.Cleanup(func() { // before the agents' end, so it has to be lazy
		sh(t, "umount", "--lazy", small)
	})
	c.run("a", "volume", "create", c.name, "--size", "64MiB", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"), "--target", "c:"+small+"/data.img")
	c.waitMirroring("a", "b", "c")
	written := c.writeAt("a", 0, 32*mib, 1)
	c.wait("the mirror to the full disk says so", settleMax, func() error {
		m, err := c.mirror("a", "c")
		if err == nil && (m.State == "Mirroring" || !strings.Contains(m.Reason, "space")) {
			err = fmt.Errorf("it is %s (%s)", m.State, m.Reason)
		}
		return err
	})
	c.expect("a", 0, written)
	c.waitMirroring("a", "b")
	c.refused("", "a", "switchover", c.name, "--to", "c", "--yes")

	// More room: the administrator asks for the mirror to go on, and it needs no full copy.
	sh(t, "mount", "-o", "remount,size=128m", small)
	c.run("a", "mirror", "continue", c.name, "--target", "c")
	c.waitMirroring("a", "b", "c")
	c.noResyncOfKind("full")
	sh(t, "cmp", c.image("a"), small+"/data.img")
}

// Configurations and surroundings with which an agent does not start, each with its message.
func TestBadConfiguration(t *testing.T) {
	c := byHand(t, []string{"a", "b"})
	config := c.path("b", "keelson.toml")
	good := must(os.ReadFile(config))
	c.stop("b")
	changed := func(name, old, new string, words ...string) {
		c.part(name, func(t *testing.T) {
			c.edit("b", old, new)
			defer func() {
				if err := os.WriteFile(config, good, 0o600); err != nil {
					t.Fatal(err)
				}
			}()
			c.agentFails(config, words...)
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	own := listenAddress(t, string(good))

	changed("unknown key", "[limits]", "[limits]\nsink-timeout = \"2s\"", "sink-timeout", "keelson.toml")
	changed("wrong value", "encryption = \"on\"", "encryption = \"perhaps\"", "perhaps")
	changed("not TOML", "[limits]", "[limits", "keelson.toml")
	changed("another cluster", "cluster = \"", "cluster = \"f00d", "cluster")
	changed("another server's certificate", "node = \"b\"", "node = \"x\"", "certificate")
	changed("port in use", own, listener.Addr().String(), listener.Addr().String(), "in use")
	c.part("no such file", func(*testing.T) { c.agentFails(c.dir+"/none.toml", "none.toml") })
	c.part("two agents on one directory", func(*testing.T) {
		c.start("b")
		c.agentFails(config, "in use by another agent")
		if _, err := c.status("b"); err != nil {
			c.t.Errorf("the first one does not answer any more: %v", err)
		}
	})
}

func listenAddress(t *testing.T, config string) string {
	t.Helper()
	_, rest, ok := strings.Cut(config, "[listen]\naddress = \"")
	address, _, ok2 := strings.Cut(rest, "\"")
	if !ok || !ok2 {
		t.Fatalf("no listen.address in %s", config)
	}
	return address
}

// Nobody without a certificate of this cluster gets in, and a server that loses its own is shown with the reason.
func TestForeignCertificate(t *testing.T) {
	c := byHand(t, []string{"a", "b"})
	c.run("a", "volume", "create", c.name, "--size", "32MiB", "--source", "a:"+c.image("a"), "--target", "b:"+c.image("b"))
	c.waitMirroring("a", "b")
	address := listenAddress(t, string(must(os.ReadFile(c.path("a", "keelson.toml")))))

	foreign, err := peer.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	id, err := foreign.Identity("b")
	if err != nil {
		t.Fatal(err)
	}
	for name, certs := range map[string][]tls.Certificate{"of another cluster": {id.Cert}, "none": nil} {
		for _, protocol := range []string{"keelson-stream/1", "http/1.1"} {
			c.part("certificate "+name+" for "+protocol, func(t *testing.T) { refusesTLS(t, address, certs, protocol) })
		}
	}
	c.part("a server with a certificate of another cluster", func(t *testing.T) {
		c.stop("b")
		keep := filepath.Join(c.dir, "kept")
		if err := os.Mkdir(keep, 0o700); err != nil {
			t.Fatal(err)
		}
		files := []string{peer.CAFile, peer.CertFile, peer.KeyFile}
		for _, file := range files {
			if err := os.Rename(c.path("b", file), filepath.Join(keep, file)); err != nil {
				t.Fatal(err)
			}
		}
		if err := foreign.IssueTo(c.path("b", ""), "b"); err != nil {
			t.Fatal(err)
		}
		c.agentFails(c.path("b", "keelson.toml"), "certificate", "cluster")
		if m := c.waitState("a", "b", "ResyncPending"); m.Reason == "" {
			t.Error("the mirror says no reason")
		}
		for _, file := range files {
			if err := os.Rename(filepath.Join(keep, file), c.path("b", file)); err != nil {
				t.Fatal(err)
			}
		}
		c.start("b")
		c.waitMirroring("a", "b")
	})
}

// refusesTLS fails the test if the server answers anything to a client with these certificates.
func refusesTLS(t *testing.T, address string, certs []tls.Certificate, protocol string) {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address,
		&tls.Config{InsecureSkipVerify: true, Certificates: certs, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return // refused in the handshake
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")) // TLS 1.3: the refusal comes at the first read
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil {
		t.Error("the server answered")
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the server did not hang up")
	}
}

// A copy or an intent log that is not what it was: the server says what is wrong and follows nothing on a guess.
func TestDamagedServer(t *testing.T) {
	c := demo(t, "64MiB")
	c.writeAt("a", 0, 8*mib, 1)
	c.part("backing file missing", func(t *testing.T) {
		c.stop("c")
		if err := os.Rename(c.image("c"), c.image("c")+".away"); err != nil {
			t.Fatal(err)
		}
		c.doesNotFollow("c", "data.img")
		if err := os.Rename(c.image("c")+".away", c.image("c")); err != nil {
			t.Fatal(err)
		}
		c.start("c")
		c.waitMirroring("a", "b", "c")
	})
	c.part("backing file smaller", func(t *testing.T) {
		c.stop("c")
		sh(t, "truncate", "-s", "32M", c.image("c"))
		c.doesNotFollow("c", "33554432")
		sh(t, "truncate", "-s", "64M", c.image("c"))
		c.start("c")
		c.waitMirroring("a", "b", "c")
		c.noResyncOfKind("full")
		c.same()
	})
	c.part("copy changed behind the product's back", func(t *testing.T) {
		c.stop("c")
		f, err := os.OpenFile(c.image("c"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("not what the source wrote"), 5*mib+77); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		c.start("c")
		c.waitMirroring("a", "b", "c")
		c.noResyncOfKind("full")
		c.same()
	})
	c.part("damaged intent log", func(t *testing.T) {
		c.stop("c")
		for _, path := range c.logFiles("c") {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			garbage := make([]byte, 1024)
			for i := range garbage {
				garbage[i] = 0xC3
			}
			for off := int64(0); off < 64<<10; off += 4096 {
				if _, err := f.WriteAt(garbage, off); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		c.doesNotFollow("c", "header")
		if err := c.mirroring("a", "b"); err != nil {
			t.Error(err)
		}
	})
}

// logFiles are the headers of the node's intent logs.
func (c *cluster) logFiles(node string) (paths []string) {
	c.t.Helper()
	err := filepath.WalkDir(c.path(node, ""), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() == "header" {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil || len(paths) == 0 {
		c.t.Fatalf("found no intent log of %s: %v", node, err)
	}
	return paths
}

// doesNotFollow starts the node's agent, which has to end with a message or to show the trouble in its status or its
// events, in these words; it must not become a working target, and is stopped again.
func (c *cluster) doesNotFollow(node string, words ...string) {
	c.t.Helper()
	before := len(c.logs(node))
	p := c.launch(node)
	c.wait(node+" says what is wrong: "+strings.Join(words, ", "), settleMax, func() error {
		said := c.logs(node)[before:]
		for _, args := range [][]string{{"status", "--json"}, {"events"}} {
			said += c.execute(node, args...).stdout
		}
		for _, word := range words {
			if !strings.Contains(said, word) {
				return fmt.Errorf("it says nothing of %q: %s", word, said)
			}
		}
		return nil
	})
	if m, err := c.mirror("a", node); err != nil || m.State == "Mirroring" {
		c.t.Errorf("%s follows: %+v, %v", node, m, err)
	}
	if text, err := json.Marshal(must(c.volume("a"))); err == nil && !strings.Contains(string(text), node) {
		c.t.Errorf("the source does not speak of %s", node)
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	<-p.done
}
