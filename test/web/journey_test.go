package webtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"keelson/internal/api"
)

// demo is a running demo and what this test does to its agents in a terminal.
type demo struct {
	t   *testing.T
	dir string
}

func startDemo(t *testing.T) *demo {
	t.Helper()
	dir, err := os.MkdirTemp("", "kw-")
	if err != nil {
		t.Fatal(err)
	}
	d := &demo{t, dir}
	t.Cleanup(func() {
		d.keelson("demo", "stop", "--dir", dir)
		_ = os.RemoveAll(dir) // what stays is in the machine's folder for temporary files
	})
	d.keelson("demo", "--dir", dir, "--size", "16MiB", "--detach")
	return d
}

// keelson runs a command and returns what it prints.
func (d *demo) keelson(args ...string) string {
	d.t.Helper()
	cmd := exec.Command(keelson, args...)
	var problems strings.Builder
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		d.t.Errorf("keelson %s: %v\n%s", strings.Join(args, " "), err, problems.String())
	}
	return strings.TrimSpace(string(out))
}

func (d *demo) socket(node string) string { return filepath.Join(d.dir, node, "agent.sock") }

// page is the address of a server's page.
func (d *demo) page(node string) string {
	d.t.Helper()
	var s api.Status
	if err := json.Unmarshal([]byte(d.keelson("status", "--json", "--socket", d.socket(node))), &s); err != nil || s.Web == "" {
		d.t.Fatalf("the page of %s: %q, %v", node, s.Web, err)
	}
	return s.Web
}

// end sends a server's agent a signal and waits until it is gone.
func (d *demo) end(node string, sig syscall.Signal) {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.dir, node, "agent.pid"))
	if err != nil {
		d.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid < 2 {
		d.t.Fatalf("agent.pid of %s: %q", node, text)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		d.t.Fatal(err)
	}
	for limit := time.Now().Add(waitMax); ; time.Sleep(20 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(limit) {
			d.t.Fatalf("agent %s does not end", node)
		}
	}
}

// start starts a server's agent again, as in a terminal. It ends with the demo.
func (d *demo) start(node string) {
	d.t.Helper()
	cmd := exec.Command(keelson, "agent", "--config", filepath.Join(d.dir, node, "keelson.toml"))
	log, err := os.OpenFile(filepath.Join(d.dir, node, "agent.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close() // the agent has its own
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	d.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
}

// A person who has only the page of a running demo makes a user, creates a volume, watches the first resync, switches over,
// takes over by force when the source was killed in a terminal, and sees it return as a target. The page itself outlives the
// restart of its agent without being loaded again.
func TestPersonWithOnlyThePage(t *testing.T) {
	d := startDemo(t)
	b := browse(t)
	b.as(looks[0])

	// The first login, by the link; a user who can come back, to any server.
	b.open(d.keelson("web", "link", "--socket", d.socket("a")))
	b.sees("#v-data", "safe: can switch over to b, c")
	b.click("Make a user for yourself")
	b.fill("Name", "alice")
	b.fill("Role", "administrator")
	b.fill("Password", "correct horse battery")
	b.click("Save user")
	b.sees("main", "The user alice is saved as administrator.")
	home := d.page("b")
	b.until("b knows alice", func() bool {
		return strings.Contains(d.keelson("user", "list", "--socket", d.socket("b")), "alice")
	})
	b.open(home)
	b.fill("Name", "alice")
	b.fill("Password", "correct horse battery")
	b.click("Log in")
	b.sees("header", "as seen by b")

	// A volume, and its first resync.
	b.click("New volume")
	b.fill("Name", "shop")
	b.fill("Size", "32MiB")
	fields := `(() => { const set = (n, v) => { document.querySelector("[name=" + n + "]").value = v; }; set("source", "a"); set("source_path", %q);
		set("target0", "b"); set("target0_path", %q); set("target1", "c"); set("target1_path", %q); return true; })()`
	eval[bool](b, fmt.Sprintf(fields, filepath.Join(d.dir, "a", "shop.img"), filepath.Join(d.dir, "b", "shop.img"), filepath.Join(d.dir, "c", "shop.img")))
	b.click("Create volume")
	b.sees("main", "The volume shop is made; the first resync begins.")
	b.sees("#m-b h2", "Mirroring")
	b.sees("#m-c h2", "Mirroring")
	b.sees("#head", "safe: can switch over to b, c")

	// A state change is on the screen within a second of its command's end (one of several tries, on a busy machine).
	client := api.NewSocketClient(d.socket("a"))
	defer client.Close()
	best := time.Hour
	for i := 0; i < 12 && best > time.Second; i++ {
		action, state := "pause", "Paused"
		if i%2 == 1 {
			action, state = "continue", "Mirroring"
		}
		if _, err := client.ChangeMirror(context.Background(), api.MirrorChange{Volume: "shop", Action: action, Target: "c"}); err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		b.sees("#m-c h2", state)
		if action == "pause" {
			best = min(best, time.Since(from))
		}
	}
	if best > time.Second {
		t.Errorf("a pause is shown after %s", best)
	}
	t.Logf("a pause is shown after %s", best)
	if eval[bool](b, `document.querySelector("#m-c h2").textContent.includes("Paused")`) {
		b.click("Continue")
		b.sees("#m-c h2", "Mirroring")
	}

	// A switchover, by its plan.
	b.sees("#head", "safe: can switch over to b, c")
	b.click("Switch over")
	b.click("c")
	b.sees("main", "✓ nothing")
	b.shot("journey-plan")
	b.click("Switch over to c")
	b.sees("#task", "done: c is the source")
	b.sees("#task table", "c → a")
	b.shot("journey-switched")
	b.click("To the volume")
	b.sees("#head", "safe: can switch over to a, b")

	// Its source dies in a terminal. The other copies are to stay as they were until somebody has looked at the new source.
	on := true
	if _, err := client.SetVolume(context.Background(), api.VolumeChange{Name: "shop", HoldOldCopies: &on}); err != nil {
		t.Fatal(err)
	}
	d.end("c", syscall.SIGKILL)
	b.sees("#head", "source lost")
	b.shot("journey-lost")
	b.click("Take over by force")
	b.click("b")
	b.fill("Type shop", "shop")
	b.click("Take over by force to b")
	b.sees("#task", "b is the source")
	b.click("To the volume")
	b.sees("#m-a h2", "Paused, held")
	b.sees("#head", "a is held as it was")
	b.shot("journey-held")
	b.click("Accept new source")
	b.sees("main", "The new source is accepted")
	b.sees("#m-a h2", "Mirroring")
	b.sees("#tenures", "")
	b.shot("journey-forced")

	// It is started again, and comes back as a target while one looks.
	d.start("c")
	b.sees("#m-c h2", "Mirroring")
	b.sees("#head", "safe: can switch over to a, c")
	b.quiet()

	// The page outlives the restart of its own agent.
	eval[bool](b, "window.mark = true")
	d.end("b", syscall.SIGTERM)
	b.until("the page says that its agent is gone", func() bool { return eval[bool](b, `!document.getElementById("lost").hidden`) })
	b.shot("journey-silent")
	d.start("b")
	b.until("the page is connected again", func() bool { return eval[bool](b, `document.getElementById("lost").hidden`) })
	b.sees("#head", "safe: can switch over to a, c")
	if !eval[bool](b, "window.mark === true") {
		t.Error("the page was loaded again")
	}
}
