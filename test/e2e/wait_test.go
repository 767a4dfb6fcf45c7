package e2e

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"keelson/internal/api"
)

// pollEvery is the pause between two looks at a condition.
const pollEvery = 50 * time.Millisecond

// settleMax is how long a cluster may take to come to rest after anything.
const settleMax = 60 * time.Second

// until calls look until it returns nil, and returns its last error if that does not happen in time.
func until(limit time.Duration, look func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	again := time.NewTicker(pollEvery)
	defer again.Stop()
	for {
		err := look()
		if err == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-again.C:
		}
	}
}

// wait fails the test if the condition does not hold in time.
func (c *cluster) wait(what string, limit time.Duration, look func() error) {
	c.t.Helper()
	if err := until(limit, look); err != nil {
		c.t.Fatalf("%s: %v", what, err)
	}
}

// waitMirroring waits until the source serves and its mirrors to these targets are Mirroring.
func (c *cluster) waitMirroring(source string, targets ...string) {
	c.t.Helper()
	c.wait("volume at "+source+" mirrors to "+strings.Join(targets, ", "), settleMax, func() error {
		return c.mirroring(source, targets...)
	})
}

func (c *cluster) mirroring(source string, targets ...string) error {
	v, err := c.volume(source)
	if err != nil {
		return err
	}
	if v.Source != source || v.Role != "source" || len(v.Devices) == 0 {
		return fmt.Errorf("%s is not the source: source %q, role %s, %d devices", source, v.Source, v.Role, len(v.Devices))
	}
	for _, target := range targets {
		m := mirrorTo(v, target)
		if m == nil {
			return fmt.Errorf("no mirror %s->%s", source, target)
		}
		if m.State != "Mirroring" {
			return fmt.Errorf("mirror %s->%s is %s (%s)", source, target, m.State, m.Reason)
		}
	}
	return nil
}

// mirrorTo returns the mirror to the target, nil if there is none.
func mirrorTo(v *api.VolumeStatus, target string) *api.MirrorStatus {
	i := slices.IndexFunc(v.Mirrors, func(m api.MirrorStatus) bool { return m.Source == v.Source && m.Target == target })
	if i < 0 {
		return nil
	}
	return &v.Mirrors[i]
}

// waitState waits until the source shows that state of its mirror.
func (c *cluster) waitState(source, target, state string) *api.MirrorStatus {
	c.t.Helper()
	var m *api.MirrorStatus
	c.wait("mirror "+source+"->"+target+" is "+state, settleMax, func() (err error) {
		if m, err = c.mirror(source, target); err != nil {
			return err
		}
		if m.State != state {
			return fmt.Errorf("it is %s (%s)", m.State, m.Reason)
		}
		return nil
	})
	return m
}

// others are all nodes but that one.
func (c *cluster) others(node string) []string {
	return slices.DeleteFunc(slices.Clone(c.nodes), func(n string) bool { return n == node })
}

// waitOneSource waits until all agents agree on one source and one term, only that one offers the volume, and all its
// mirrors are Mirroring. It returns the source.
func (c *cluster) waitOneSource() string {
	c.t.Helper()
	source := ""
	c.wait("exactly one source with all mirrors Mirroring", settleMax, func() error {
		var err error
		source, err = c.oneSource()
		if err != nil {
			return err
		}
		return c.mirroring(source, c.others(source)...)
	})
	return source
}

func (c *cluster) oneSource() (string, error) {
	source, term := "", uint64(0)
	for i, node := range c.nodes {
		v, err := c.volume(node)
		if err != nil {
			return "", err
		}
		if i == 0 {
			source, term = v.Source, v.Term
		}
		if v.Source != source || v.Term != term {
			return "", fmt.Errorf("%s says source %q in term %d, %s says %q in %d", c.nodes[0], source, term, node, v.Source, v.Term)
		}
		if serves := len(v.Devices) > 0; serves != (node == source) {
			return "", fmt.Errorf("%s says the source is %q and offers %d devices", node, source, len(v.Devices))
		}
	}
	if source == "" {
		return "", errors.New("nobody is source")
	}
	return source, nil
}

// same flushes the volume and compares the copies of all nodes byte by byte. Nothing may write meanwhile.
func (c *cluster) same(nodes ...string) {
	c.t.Helper()
	source, err := c.oneSource()
	if err != nil {
		c.t.Fatal(err)
	}
	uri, err := c.address(source)
	if err != nil {
		c.t.Fatal(err)
	}
	d, err := dial(uri)
	if err == nil {
		err = errors.Join(d.Flush(), d.Close())
	}
	if err != nil {
		c.t.Fatalf("flush at %s: %v", source, err)
	}
	if len(nodes) == 0 {
		nodes = c.nodes
	}
	for _, node := range nodes {
		if out, err := exec.Command("cmp", c.image(source), c.image(node)).CombinedOutput(); err != nil {
			c.t.Errorf("the copies of %s and %s differ: %s", source, node, out)
		}
	}
}

// resyncRules are the rules that decide for a resync of the kind in resyncKinds.
var (
	resyncRules = []string{"full-asked", "foreign-content"}
	resyncKinds = []string{"full", "compare"}
)

// noResyncOfKind fails the test if any agent shows, or has noted as an event, a resync of a kind that should never be
// needed here.
func (c *cluster) noResyncOfKind(kinds ...string) {
	c.t.Helper()
	for _, node := range c.nodes {
		v, err := c.volume(node)
		if err != nil {
			c.t.Error(err)
			continue
		}
		for _, m := range v.Mirrors {
			if m.Resync != nil && slices.Contains(kinds, m.Resync.Kind) {
				c.t.Errorf("%s: mirror %s->%s had a resync of kind %s (%s)", node, m.Source, m.Target, m.Resync.Kind, m.Resync.Rule)
			}
		}
		events, err := c.events(node)
		if err != nil {
			c.t.Error(err)
		}
		for _, e := range events {
			if i := slices.Index(resyncRules, e.Rule); i >= 0 && slices.Contains(kinds, resyncKinds[i]) {
				c.t.Errorf("%s: event %+v", node, e)
			}
		}
	}
}

// wantResync is nil if the mirror's newest resync has that kind and is finished.
func wantResync(m *api.MirrorStatus, err error, kind string) error {
	switch {
	case err != nil:
		return err
	case m.Resync == nil:
		return errors.New("no resync is shown")
	case m.Resync.Kind != kind || m.Resync.State != "finished":
		return fmt.Errorf("it is of kind %s and %s", m.Resync.Kind, m.Resync.State)
	}
	return nil
}
