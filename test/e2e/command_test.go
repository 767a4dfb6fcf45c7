package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"keelson/internal/api"
)

// Exit codes of the command line, as the contract has them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnfinished  = 4
	exitUnreachable = 5
)

// commandMax is how long any command may take: all of them promise to end by themselves before.
const commandMax = 120 * time.Second

// result is what a command printed and how it ended.
type result struct {
	args           string
	stdout, stderr string
	code           int
}

// err is nil if the command succeeded.
func (r result) err() error {
	if r.code == exitDone {
		return nil
	}
	return fmt.Errorf("keelson %s: exit %d: %s", r.args, r.code, strings.TrimSpace(r.stderr+r.stdout))
}

// execute runs the binary against the agent of a node ("": none) and never fails the test by itself.
func (c *cluster) execute(node string, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), commandMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, keelson, args...)
	cmd.Env = append(os.Environ(), c.env...)
	if node != "" {
		cmd.Env = append(cmd.Env, "KEELSON_SOCKET="+c.path(node, "agent.sock"))
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	r := result{args: strings.Join(args, " ")}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.code = -1
		fmt.Fprintf(&errs, "\ndid not end within %s", commandMax)
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		r.code = -1
		errs.WriteString(err.Error())
	}
	r.stdout, r.stderr = out.String(), errs.String()
	return r
}

// run runs a command that has to succeed and returns its standard output.
func (c *cluster) run(node string, args ...string) string {
	c.t.Helper()
	r := c.execute(node, args...)
	if err := r.err(); err != nil {
		c.t.Fatal(err)
	}
	return r.stdout
}

// refused runs a command that has to be refused by that rule ("": any), with a message and a next step.
func (c *cluster) refused(rule, node string, args ...string) {
	c.t.Helper()
	r := c.execute(node, args...)
	if r.code != exitRefused {
		c.t.Fatalf("keelson %s: exit %d, not refused: %s%s", r.args, r.code, r.stdout, r.stderr)
	}
	if rule != "" && !strings.Contains(r.stderr, rule) {
		c.t.Fatalf("keelson %s: refused, but not by rule %s: %s", r.args, rule, r.stderr)
	}
	again := c.execute(node, append(args, "--json")...)
	var told struct{ Rule, Message string }
	text := again.stdout
	if strings.TrimSpace(text) == "" {
		text = again.stderr
	}
	if err := json.Unmarshal([]byte(text), &told); err != nil || told.Rule == "" || (rule != "" && told.Rule != rule) {
		c.t.Fatalf("keelson %s --json: exit %d, rule %q (wanted %q), %v: %s", r.args, again.code, told.Rule, rule, err, text)
	}
}

// status asks one agent.
func (c *cluster) status(node string) (*api.Status, error) {
	r := c.execute(node, "status", "--json")
	if err := r.err(); err != nil {
		return nil, err
	}
	s := new(api.Status)
	if err := json.Unmarshal([]byte(r.stdout), s); err != nil {
		return nil, fmt.Errorf("status of %s: %w: %s", node, err, r.stdout)
	}
	return s, nil
}

// volume is what one agent says of the volume.
func (c *cluster) volume(node string) (*api.VolumeStatus, error) { return c.volumeNamed(node, c.name) }

func (c *cluster) volumeNamed(node, name string) (*api.VolumeStatus, error) {
	s, err := c.status(node)
	if err != nil {
		return nil, err
	}
	for i := range s.Volumes {
		if s.Volumes[i].Name == name {
			return &s.Volumes[i], nil
		}
	}
	return nil, fmt.Errorf("%s knows no volume %q", node, name)
}

// mirror is what the source says of its mirror to the target.
func (c *cluster) mirror(source, target string) (*api.MirrorStatus, error) {
	v, err := c.volume(source)
	if err != nil {
		return nil, err
	}
	for i := range v.Mirrors {
		if v.Mirrors[i].Source == source && v.Mirrors[i].Target == target {
			return &v.Mirrors[i], nil
		}
	}
	return nil, fmt.Errorf("%s shows no mirror %s->%s", source, source, target)
}

// address is the NBD address of the volume at the node, an error if it does not offer it.
func (c *cluster) address(node string) (string, error) {
	v, err := c.volume(node)
	if err != nil {
		return "", err
	}
	return nbdAddress(v, node)
}

func nbdAddress(v *api.VolumeStatus, node string) (string, error) {
	for _, d := range v.Devices {
		if d.Kind == "nbd" && strings.HasPrefix(d.Address, "nbd+unix:") {
			return d.Address, nil
		}
	}
	return "", fmt.Errorf("%s does not offer volume %s", node, v.Name)
}

// events returns everything the node's agent keeps.
func (c *cluster) events(node string) ([]api.Event, error) {
	r := c.execute(node, "events", "--json")
	if err := r.err(); err != nil {
		return nil, err
	}
	var all []api.Event
	lines := bufio.NewScanner(strings.NewReader(r.stdout))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e api.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("events of %s: %w: %s", node, err, lines.Text())
		}
		all = append(all, e)
	}
	return all, lines.Err()
}

// path is a file in the folder of a node.
func (c *cluster) path(node, file string) string { return filepath.Join(c.dir, node, file) }

// image is the node's copy of the demo's volume.
func (c *cluster) image(node string) string { return c.path(node, c.name+".img") }
