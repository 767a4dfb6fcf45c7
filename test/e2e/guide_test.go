package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/api"
)

// serverPages are those that show commands at servers:
//
//	```console           <!-- prepare
//	a# command           a# command
//	output               -->
//	```
var serverPages = []string{"../../docs/GUIDE.md", "../../docs/admin/*.md"}

// serverPrompt is the prompt of the administrator at a server, and what he types.
var serverPrompt = regexp.MustCompile(`(?m)^([a-z]+)# (.*)$`)

// The administrator's guide and the pages like it work as printed: at servers with their own mounts and network, one command
// after the other. With -update what they print is written into the pages.
func TestServerPages(t *testing.T) {
	mountPoints(t)
	count := 0
	for _, pattern := range serverPages {
		for _, page := range must(filepath.Glob(pattern)) {
			text := string(must(os.ReadFile(page)))
			if !serverPrompt.MatchString(text) {
				continue
			}
			count++
			t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) {
				t.Parallel()
				tourServers(t, page, text)
			})
		}
	}
	if count < 1 {
		t.Errorf("only %d pages", count)
	}
}

// tour is what is going on while a page's commands are run.
type tour struct {
	*servers
	page  string
	token string // of the newest invitation
}

func tourServers(t *testing.T, page, text string) {
	names := map[string]bool{}
	var order []string
	for _, m := range serverPrompt.FindAllStringSubmatch(text, -1) {
		if !names[m[1]] {
			names[m[1]] = true
			order = append(order, m[1])
		}
	}
	x := &tour{servers: newServers(t, order...), page: page}
	for _, m := range x.all {
		x.disk(m, "data", 128*mib)
	}
	t.Cleanup(x.show)
	text = tourBlocks.ReplaceAllStringFunc(text, func(block string) string {
		shown, hidden := tourBlocks.FindStringSubmatch(block)[1], tourBlocks.FindStringSubmatch(block)[2]
		out := ""
		for _, step := range serverSteps(shown + hidden) {
			got := x.run(step)
			if shown != "" && !*update && steady(got) != steady(step.output) {
				t.Errorf("%s# %s\nprints\n%s\nand %s says\n%s", step.server, step.command, got, page, step.output)
			}
			out += step.server + "# " + step.command + "\n" + got
		}
		if shown == "" {
			return block
		}
		return "```console\n" + out + "```"
	})
	if *update && !t.Failed() {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// show logs what a person needs to understand a failure.
func (x *tour) show() {
	if !x.t.Failed() {
		return
	}
	for name, m := range x.all {
		log, _ := os.ReadFile(x.log(m)) // for messages only
		status, _ := x.command(m, "keelson status; keelson events; cat /srv/data/pg/log; grep keelson /proc/mounts").CombinedOutput()
		x.t.Logf("--- %s\n%s\n%s", name, log[max(0, len(log)-8000):], status)
	}
}

// resynced is what status says of the newest resync, at the end of a line: how much depends on what programs wrote just then.
var resynced = regexp.MustCompile(`(?m) (none yet|(none|partial|compare): .*)$`)

// steady is the shape of what a command prints.
func steady(text string) string { return shape(resynced.ReplaceAllString(text, " resync")) }

// tokenShown is how much of a token a page shows.
const tokenShown = len("keelson-join-")

type serverStep struct{ server, command, output string }

func serverSteps(block string) (steps []serverStep) {
	for line := range strings.Lines(block) {
		if m := serverPrompt.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
			steps = append(steps, serverStep{server: m[1], command: m[2]})
		} else if len(steps) > 0 {
			steps[len(steps)-1].output += line
		}
	}
	return steps
}

// copies is a folder that goes to another server.
var copies = regexp.MustCompile(`^scp -qr (\S+) ([a-z]+):(\S+)$`)

// copy plays scp.
func (x *tour) copy(from *server, dir string, to *server, as string) {
	x.t.Helper()
	out := x.command(to, "mkdir -p "+as+" && tar -xC "+as)
	packed, err := x.command(from, "tar -cC "+dir+" .").Output()
	if err == nil {
		out.Stdin = bytes.NewReader(packed)
		err = out.Run()
	}
	if err != nil {
		x.t.Fatalf("%s to %s at %s: %v", dir, as, to.name, err)
	}
}

// run runs one command and returns what it prints. The service manager's, copies to other servers, and the loss of power, are played by the test.
func (x *tour) run(step serverStep) (printed string) {
	x.t.Helper()
	m := x.all[step.server]
	switch step.command {
	case "systemctl enable --now keelson", "systemctl start keelson", "power on":
		x.start(m)
		return ""
	case "systemctl stop keelson":
		x.stop(m, syscall.SIGTERM)
		return ""
	case "systemctl restart keelson":
		x.stop(m, syscall.SIGTERM)
		x.start(m)
		return ""
	case "systemctl reboot":
		x.off(m, syscall.SIGTERM)
		x.start(m)
		return ""
	case "power off":
		x.off(m, syscall.SIGKILL)
		return ""
	}
	if waitFor.MatchString(step.command) {
		x.wait("the mirrors rest before "+step.command, x.resting)
	}
	if to := copies.FindStringSubmatch(step.command); to != nil {
		x.copy(m, to[1], x.all[to[2]], to[3])
		return ""
	}
	line := strings.ReplaceAll(step.command, "TOKEN", x.token)
	cmd := x.command(m, line)
	var out, progress strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &progress
	err := cmd.Run()
	printed = out.String()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == exitRefused:
		printed += progress.String() + refusedMark + "\n"
	case err != nil:
		x.t.Fatalf("%s# %s: %v\n%s%s", step.server, line, err, printed, progress.String())
	}
	if strings.HasSuffix(step.command, "/pg stop") { // it says so a moment before its last process has left its folder
		x.wait("PostgreSQL is gone", func() error {
			for pid, name := range x.processes(m) {
				if name == "postgres" {
					return fmt.Errorf("process %d", pid)
				}
			}
			return nil
		})
	}
	if strings.Contains(step.command, "node invite") {
		x.token = strings.TrimSpace(printed)
		printed = x.token[:min(len(x.token), tokenShown)] + "...\n"
	}
	return printed
}

func (x *tour) resting() error {
	running := map[string]bool{}
	for name, m := range x.all {
		if m.agent != nil {
			running[name] = true
		}
	}
	return resting(running, func(node string) (*api.Status, error) {
		out, err := x.command(x.all[node], "keelson status --json").Output()
		if err != nil {
			return nil, err
		}
		s := new(api.Status)
		return s, json.Unmarshal(out, s)
	})
}
