package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson/internal/api"
)

const readme = "../../README.md"

// adminPages are the administrator's pages.
const adminPages = "../../docs/admin/*.md"

// tourBlocks finds a page's blocks of commands with what they print, and blocks of commands that readers do not see:
//
//	```console           <!-- prepare
//	$ command            command
//	output               command
//	```                  -->
//
// A command that is refused is shown with its message, and "[exit 3]" behind it.
var tourBlocks = regexp.MustCompile("(?s)```console\n(.*?)```|<!-- prepare\n(.*?)-->")

// tourStep is one command of the tour and what the README says it prints.
type tourStep struct{ command, output string }

func tourSteps(block string) (steps []tourStep) {
	for _, line := range strings.SplitAfter(block, "\n") {
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			steps = append(steps, tourStep{command: strings.TrimSpace(command)})
		} else if len(steps) > 0 {
			steps[len(steps)-1].output += line
		}
	}
	return steps
}

// What differs from run to run: numbers, times, ids, and how wide a column is because of them.
var (
	variable = regexp.MustCompile(`[0-9a-f]{8,}|\d+(\.\d+)?`)
	unit     = regexp.MustCompile(`N ?([KMGT]?i?B|[kKMGT]B|[mµn]?s|m)(/s)?\b`)
	state    = regexp.MustCompile(`it is (Paused|Resync|ResyncPending|Mirroring)\b.*`) // as it was at that moment
	aged     = regexp.MustCompile(`(?m)^  \S+: as it was .*\n`)                        // shown only of what is some seconds old
	spaces   = regexp.MustCompile(`[ \t─-]+`)
)

// shape is a text without what differs from run to run.
func shape(text string) string {
	text = aged.ReplaceAllString(text, "")
	text = variable.ReplaceAllString(state.ReplaceAllString(strings.TrimSpace(text), "it is"), "N")
	return spaces.ReplaceAllString(unit.ReplaceAllString(text, "N"), " ")
}

// The README's tour works as printed: its commands are run one after the other, in one shell's folder, and print what
// it says, but for numbers. With -update what they print is written into the README.
func TestReadmeTour(t *testing.T) { tourPage(t, readme, 5) }

// The administrator's pages show what happens: as TestReadmeTour, each in a demo of its own.
func TestAdminPages(t *testing.T) {
	pages := must(filepath.Glob(adminPages))
	if len(pages) < 7 {
		t.Errorf("only %d pages", len(pages))
	}
	for _, page := range pages {
		if text := must(os.ReadFile(page)); !tourBlocks.Match(text) || serverPrompt.Match(text) {
			continue // it shows no commands, or those of TestServerPages
		}
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) {
			t.Parallel()
			tourPage(t, page, 1)
		})
	}
}

func tourPage(t *testing.T, page string, stepsMin int) {
	text := string(must(os.ReadFile(page)))
	c := &cluster{t: t, dir: folder(t), nodes: []string{"a", "b", "c"}, name: "data", demo: true}
	t.Cleanup(func() { // also what a page that stopped in the middle has mounted
		mounts := string(must(os.ReadFile("/proc/mounts")))
		for _, m := range regexp.MustCompile(` (`+regexp.QuoteMeta(c.dir)+`/\S+) fuse`).FindAllStringSubmatch(mounts, -1) {
			sh(t, "fusermount3", "-uz", m[1])
		}
	})
	t.Cleanup(c.close)
	steps := 0
	text = tourBlocks.ReplaceAllStringFunc(text, func(block string) string {
		parts := tourBlocks.FindStringSubmatch(block)
		if unseen := strings.TrimSpace(parts[2]); unseen != "" {
			for _, command := range strings.Split(unseen, "\n") {
				if out := c.tour(command); strings.Contains(out, refusedMark) {
					t.Fatalf("%s: %s: %s", page, command, out)
				}
			}
			return block
		}
		out := "```console\n"
		for _, step := range tourSteps(parts[1]) {
			steps++
			got := c.tour(step.command)
			if !*update && shape(got) != shape(step.output) {
				t.Errorf("$ %s\nprints\n%s\nand %s says\n%s", step.command, got, page, step.output)
			}
			out += "$ " + step.command + "\n" + got
		}
		return out + "```"
	})
	if steps < stepsMin {
		t.Errorf("%s has a tour of %d commands", page, steps)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(page, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// refusedMark is behind the output of a command that was refused.
const refusedMark = "[exit 3]"

// tour runs one line of a page as a shell does, in a folder of its own in place of the page's /tmp/k. What a command may
// need some time for, it waits for before it runs: servers that come or go, resyncs under way. What "export" says holds
// from then on.
func (c *cluster) tour(command string) string {
	c.t.Helper()
	if strings.HasPrefix(command, "export ") {
		c.exports += command + "; "
		return ""
	}
	line := strings.ReplaceAll(c.exports+command, "/tmp/k", c.dir)
	line = regexp.MustCompile(`(^|[ ;|])(\./)?keelson `).ReplaceAllString(line, "${1}"+keelson+" ")
	if waitFor.MatchString(command) {
		c.wait("the mirrors rest before "+command, settleMax, c.resting)
	}
	cmd := exec.Command("bash", "-c", line)
	cmd.WaitDelay = time.Second // what runs on in the background keeps its output, and nobody waits for that
	var printed, progress strings.Builder
	cmd.Stdout, cmd.Stderr = &printed, &progress // progress is what went on meanwhile, which no two runs have alike
	err := cmd.Run()
	out := printed.String()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == exitRefused:
		out += progress.String() + refusedMark + "\n"
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		c.t.Fatalf("$ %s: %v\n%s%s", line, err, out, progress.String())
	}
	for _, started := range agentStarts.FindAllStringSubmatch(command, -1) {
		c.wait("agent "+started[1]+" runs", settleMax, func() error {
			pid, err := c.pid(started[1])
			if err == nil && !alive(pid) {
				err = errors.New("not yet")
			}
			return err
		})
	}
	return strings.ReplaceAll(strings.ReplaceAll(out, c.dir, "/tmp/k"), keelson, "./keelson")
}

// agentStarts are the starts of agents in a command.
var agentStarts = regexp.MustCompile(`keelson agent --config /tmp/k/(\w+)/`)

// waitFor are commands that show or use what others began.
var waitFor = regexp.MustCompile(`status|switchover|cmp|split-brain|salvage|verify|demo stop`)

// resting is nil if every agent that runs sees which others do, and no mirror between such is about to change its state
// by itself.
func (c *cluster) resting() error {
	running := map[string]bool{}
	for _, node := range c.nodes {
		pid, err := c.pid(node)
		running[node] = err == nil && alive(pid)
	}
	return resting(running, c.status)
}

func resting(running map[string]bool, status func(node string) (*api.Status, error)) error {
	for node, runs := range running {
		if !runs {
			continue
		}
		s, err := status(node)
		if err != nil {
			return err
		}
		for _, other := range s.Nodes {
			if other.Reachable != running[other.Name] {
				return fmt.Errorf("%s says of %s: reachable %t", node, other.Name, other.Reachable)
			}
		}
		for _, v := range s.Volumes {
			if v.State == "Closed" && slices.ContainsFunc(v.Mirrors, func(m api.MirrorStatus) bool { return m.State == "SplitBrain" }) {
				continue // a side of a split brain waits for an administrator
			}
			for _, m := range v.Mirrors {
				if m.State == "Resync" || m.State == "ResyncPending" && running[m.Source] && running[m.Target] {
					return fmt.Errorf("%s->%s is %s (%s), says %s", m.Source, m.Target, m.State, m.Reason, node)
				}
			}
		}
	}
	return nil
}
