package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"keelson/internal/hook"
)

// hooks is a folder of hooks that are all one script: it writes its environment into a file, and refuses or hangs where a file says so.
type hooks struct {
	c   *cluster
	dir string
}

func (c *cluster) hooks(limit string) *hooks {
	c.t.Helper()
	h := &hooks{c, filepath.Join(c.dir, "hooks")}
	must(0, os.Mkdir(h.dir, 0o755))
	script := fmt.Sprintf(`#!/bin/sh
env | grep ^KEELSON_ > %[1]s/said-$KEELSON_HOOK-$KEELSON_NODE.new
mv %[1]s/said-$KEELSON_HOOK-$KEELSON_NODE.new %[1]s/said-$KEELSON_HOOK-$KEELSON_NODE
if [ -e %[1]s/refuse-$KEELSON_HOOK ]; then echo not now; exit 7; fi
if [ -e %[1]s/hang-$KEELSON_HOOK ]; then sleep 600; fi
`, c.dir)
	for _, name := range hook.Names {
		must(0, os.WriteFile(filepath.Join(h.dir, name), []byte(script), 0o755))
	}
	for _, node := range c.nodes {
		c.stop(node)
		c.edit(node, "[hooks]\n", fmt.Sprintf("[hooks]\ndirectory = %q\nlimit = %q\n", h.dir, limit))
	}
	for _, node := range c.nodes {
		c.launch(node)
	}
	c.waitMirroring("a", "b", "c")
	return h
}

func (h *hooks) file(verb, name string) string { return filepath.Join(h.c.dir, verb+"-"+name) }

// when has the hook refuse or hang until the function that it returns is called.
func (h *hooks) when(verb, name string) (over func()) {
	h.c.t.Helper()
	must(0, os.WriteFile(h.file(verb, name), nil, 0o644))
	return func() { must(0, os.Remove(h.file(verb, name))) }
}

// ran waits until the hook was run at the node with these variables, and forgets it.
func (h *hooks) ran(name, node string, vars ...string) {
	h.c.t.Helper()
	file := h.file("said", name+"-"+node)
	h.c.wait("the hook "+name+" runs at "+node, settleMax, func() error {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		lines := strings.Split(string(text), "\n")
		for _, v := range append(vars, "KEELSON_VOLUME="+h.c.name) {
			if !slices.Contains(lines, "KEELSON_"+strings.TrimPrefix(v, "KEELSON_")) {
				return fmt.Errorf("no %s in %q", v, text)
			}
		}
		return nil
	})
	must(0, os.Remove(file))
}

// Hooks are run at their moments and know what it is about. Those that are asked may refuse; one that hangs holds up neither the
// volume nor its status.
func TestHooks(t *testing.T) {
	c := demo(t, "64MiB")
	h := c.hooks("2s")
	h.ran(hook.AfterPromote, "a", "CAUSE=start", "ROLE=source", "STATE=Serving", "SOURCE=a", "OLD_SOURCE=")

	over := h.when("refuse", hook.BeforeDemote)
	r := c.execute("a", "switchover", c.name, "--to", "b", "--yes")
	if r.code != exitRefused || !strings.Contains(r.stderr, "exit code 7: not now") || !strings.Contains(r.stderr, "hook-refused") {
		t.Errorf("a refused switchover: exit %d: %s", r.code, r.stderr)
	}
	h.ran(hook.BeforeDemote, "a", "OLD_SOURCE=a", "NEW_SOURCE=b")
	h.ran(hook.DemoteCancelled, "a", "ROLE=source")
	over()

	over = h.when("hang", hook.StateChange)
	began := time.Now()
	c.run("a", "switchover", c.name, "--to", "b", "--yes")
	h.ran(hook.StateChange, "a")
	want := c.writeAt("b", 0, 64<<10, 1)
	c.expect("b", 0, want)
	if _, err := c.status("a"); err != nil {
		t.Error(err)
	}
	c.wait("an event tells of the hook that hangs", settleMax, func() error {
		return c.said("a", "warning", "not done within 2", "started")
	})
	t.Log("with hooks that hang for 2 s:", time.Since(began))
	over()
	h.ran(hook.AfterDemote, "a", "ROLE=target", "OLD_SOURCE=a", "SOURCE=b")
	h.ran(hook.AfterPromote, "b", "CAUSE=planned", "OLD_SOURCE=a", "SOURCE=b")

	c.waitMirroring("b", "a", "c")
	c.kill("b")
	over = h.when("refuse", hook.Fence)
	c.wait("a knows that b is lost and its hook refuses", settleMax, func() error {
		r := c.execute("a", "switchover", c.name, "--to", "a", "--force", "--yes")
		if r.code != exitRefused || !strings.Contains(r.stderr, "fence-failed") || !strings.Contains(r.stderr, "see that b is off") {
			return fmt.Errorf("exit %d: %s", r.code, r.stderr)
		}
		return nil
	})
	if v, err := c.volume("a"); err != nil || v.Role != "target" {
		t.Errorf("a is %+v, %v", v, err)
	}
	over()
	c.run("a", "switchover", c.name, "--to", "a", "--force", "--yes")
	h.ran(hook.Fence, "a", "OLD_SOURCE=b", "NEW_SOURCE=a", "ROLE=target")
	h.ran(hook.AfterPromote, "a", "CAUSE=forced", "OLD_SOURCE=b")
	c.expect("a", 0, want)

	must(0, os.Chmod(filepath.Join(h.dir, hook.StateChange), 0o777))
	c.start("b")
	c.waitMirroring("a", "b", "c")
	c.wait("a hook that others can change is not run", settleMax, func() error { return c.said("a", "warning", "is not run", "chmod go-w") })
}
