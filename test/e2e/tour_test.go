package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

const readme = "../../README.md"

// tourBlocks finds the README's blocks of commands with what they print:
//
//	```console
//	$ command
//	output
//	```
var tourBlocks = regexp.MustCompile("(?s)```console\n(.*?)```")

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
	spaces   = regexp.MustCompile(`[ \t─-]+`)
)

// shape is a text without what differs from run to run.
func shape(text string) string {
	text = variable.ReplaceAllString(state.ReplaceAllString(strings.TrimSpace(text), "it is"), "N")
	return spaces.ReplaceAllString(unit.ReplaceAllString(text, "N"), " ")
}

// The README's tour works as printed: its commands are run one after the other, in one shell's folder, and print what
// it says, but for numbers. With -update what they print is written into the README.
func TestReadmeTour(t *testing.T) {
	text := string(must(os.ReadFile(readme)))
	c := &cluster{t: t, dir: folder(t), nodes: []string{"a", "b", "c"}, name: "data", demo: true}
	t.Cleanup(c.close)
	steps := 0
	text = tourBlocks.ReplaceAllStringFunc(text, func(block string) string {
		out := "```console\n"
		for _, step := range tourSteps(tourBlocks.FindStringSubmatch(block)[1]) {
			steps++
			got := c.tour(step.command)
			if !*update && shape(got) != shape(step.output) {
				t.Errorf("$ %s\nprints\n%s\nand the README says\n%s", step.command, got, step.output)
			}
			out += "$ " + step.command + "\n" + got
		}
		return out + "```"
	})
	if steps < 5 {
		t.Errorf("the README has a tour of %d commands", steps)
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(readme, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tour runs one line of the tour as a shell does, in a folder of its own in place of the README's /tmp/k. What a
// command may need some time for, it waits for before it runs: resyncs under way. What "export" says holds from then on.
func (c *cluster) tour(command string) string {
	c.t.Helper()
	if strings.HasPrefix(command, "export ") {
		c.exports += command + "; "
		return ""
	}
	line := strings.ReplaceAll(c.exports+command, "/tmp/k", c.dir)
	line = regexp.MustCompile(`(^|[ ;|])(\./)?keelson `).ReplaceAllString(line, "${1}"+keelson+" ")
	if strings.Contains(command, "status") || strings.Contains(command, "switchover") || strings.Contains(command, "cmp") {
		c.wait("the mirrors rest", settleMax, c.resting)
	}
	cmd := exec.Command("bash", "-c", line)
	var progress strings.Builder // standard error: what went on meanwhile, which no two runs have alike
	cmd.Stderr = &progress
	printed, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("$ %s: %v\n%s%s", line, err, printed, progress.String())
	}
	out := string(printed)
	return strings.ReplaceAll(strings.ReplaceAll(out, c.dir, "/tmp/k"), keelson, "./keelson")
}

// resting is nil if no mirror is about to change its state by itself.
func (c *cluster) resting() error {
	for _, node := range c.nodes {
		v, err := c.volume(node)
		if err != nil {
			return err
		}
		for _, m := range v.Mirrors {
			if m.State == "Resync" || m.State == "ResyncPending" {
				return fmt.Errorf("%s->%s is %s", m.Source, m.Target, m.State)
			}
		}
	}
	return nil
}
