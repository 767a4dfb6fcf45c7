package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"keelson/internal/api"
)

// errPortTaken: somebody else took a port between its choice and the agent's start.
var errPortTaken = errors.New("port taken")

// launch starts the agents and waits until all answer.
func (d *Demo) launch(ctx context.Context, program string, rec *record, progress func(string)) error {
	for attempt := 1; ; attempt++ {
		err := d.launchOnce(ctx, program, rec)
		if err == nil {
			progress("servers " + strings.Join(Nodes, ", ") + " answer")
			return nil
		}
		if !errors.Is(err, errPortTaken) || attempt == startsMax {
			return err
		}
		progress("a port was taken meanwhile: choosing others")
		if err := d.end(); err != nil {
			return err
		}
		if err := readdress(d.Dir); err != nil {
			return failed(d.Dir, err)
		}
	}
}

func (d *Demo) launchOnce(ctx context.Context, program string, rec *record) error {
	d.agents, rec.Started = nil, nil
	for _, node := range Nodes {
		p, err := spawn(program, d.Dir, node)
		if err != nil {
			return failed(d.Dir, fmt.Errorf("agent %s does not start: %w", node, err))
		}
		d.agents = append(d.agents, p)
		rec.Started = append(rec.Started, p.cmd.Process.Pid)
	}
	if err := rec.save(d.Dir); err != nil {
		return failed(d.Dir, err)
	}
	limit, cancel := context.WithTimeout(ctx, startTimeMax)
	defer cancel()
	for _, p := range d.agents {
		if err := d.await(ctx, limit, p); err != nil {
			return err
		}
	}
	return nil
}

// await waits until the agent answers at its socket.
func (d *Demo) await(ctx, limit context.Context, p *process) error {
	client := api.NewSocketClient(Socket(d.Dir, p.node))
	defer client.Close()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		status, err := client.Status(limit)
		if err == nil && status.Node == p.node {
			return nil
		}
		select {
		case <-p.done:
			return d.died(p)
		case <-limit.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return api.Errorf(api.Failed, "agent "+p.node, "it does not answer at %s within %s", Socket(d.Dir, p.node), startTimeMax).
				WithNext("look at %s/%s/agent.log", d.Dir, p.node)
		case <-tick.C:
		}
	}
}

// died explains the end of an agent that was to run.
func (d *Demo) died(p *process) error {
	tail := p.logTail(d.Dir)
	err := api.Errorf(api.Failed, "agent "+p.node, "it ended at once (%s): %s", p.how(), tail).WithNext("look at %s/%s/agent.log", d.Dir, p.node)
	if strings.Contains(tail, "address already in use") {
		return fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return err
}

// settle makes the volume if there is none, and waits until its mirrors are Mirroring, or as the administrator left them.
func (d *Demo) settle(ctx context.Context, rec *record, progress func(string)) error {
	first := api.NewSocketClient(Socket(d.Dir, Nodes[0]))
	defer first.Close()
	status, err := first.Status(ctx)
	if err != nil {
		return err
	}
	if find(status) == nil {
		r := api.CreateVolume{Name: Volume, Mode: rec.Mode, SizeBytes: rec.SizeBytes, Source: api.Place{Node: Nodes[0], Path: Image(d.Dir, Nodes[0])}}
		for _, node := range Nodes[1:] {
			r.Targets = append(r.Targets, api.Place{Node: node, Path: Image(d.Dir, node)})
		}
		if _, err := first.CreateVolume(ctx, r); err != nil {
			return err
		}
		progress("volume " + Volume + " is made")
	}
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	why := ""
	for {
		ready, reason, err := d.look(ctx)
		if ready || err != nil && !timedOut(err) {
			return err
		}
		if err == nil && reason != why {
			why = reason
			progress(why)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		if timedOut(ctx.Err()) {
			return &api.Error{Code: api.Unfinished, Object: "demo " + d.Dir, Message: "the mirrors are not Mirroring within the time limit; the agents run on",
				Waits: why, Next: "look at keelson status --socket " + Socket(d.Dir, Nodes[0])}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || err != nil && api.AsError(err).Code == api.Unfinished && !errors.Is(err, context.Canceled)
}

// look finds the source and says what is not ready yet.
func (d *Demo) look(ctx context.Context) (ready bool, reason string, err error) {
	reason = "no server is source yet"
	for _, p := range d.agents {
		if p.ended() {
			return false, "", d.died(p)
		}
		client := api.NewSocketClient(Socket(d.Dir, p.node))
		status, err := client.Status(ctx)
		client.Close()
		if err != nil {
			return false, "", err
		}
		v := find(status)
		if v == nil || v.Role != "source" {
			continue
		}
		d.Status = status
		return unready(v) == "", unready(v), nil
	}
	return false, reason, nil
}

// unready says what the volume at its source still lacks; "" if it is as it should be.
func unready(v *api.VolumeStatus) string {
	if len(v.Devices) == 0 {
		return strings.TrimSuffix("the volume is not open at its source "+v.Source+": "+v.Reason, ": ")
	}
	for _, m := range v.Mirrors {
		if m.State != "Mirroring" && m.State != "Paused" && m.State != "Broken" {
			return strings.TrimSuffix(fmt.Sprintf("mirror %s->%s is %s: %s", m.Source, m.Target, m.State, m.Reason), ": ")
		}
	}
	if len(v.Mirrors) == 0 {
		return "the volume has no mirrors yet"
	}
	return ""
}

func find(s *api.Status) *api.VolumeStatus {
	for i := range s.Volumes {
		if s.Volumes[i].Name == Volume {
			return &s.Volumes[i]
		}
	}
	return nil
}

// Device is the address of the volume at its source.
func (d *Demo) Device() string {
	if d.Status == nil {
		return ""
	}
	if v := find(d.Status); v != nil && len(v.Devices) > 0 {
		return v.Devices[0].Address
	}
	return ""
}

// end ends the agents that were started, when the demo does not come up.
func (d *Demo) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeMax+time.Second)
	defer cancel()
	_, err := stopAgents(ctx, d.Dir)
	for _, p := range d.agents {
		<-p.done
	}
	if err != nil && os.IsNotExist(err) {
		return nil
	}
	return err
}

// Foreground waits until ctx ends and then ends the agents, or until none of them runs any more. note gets a line for
// each agent that ends before.
func (d *Demo) Foreground(ctx context.Context, note func(string)) error {
	ended := make(chan *process, len(d.agents))
	for _, p := range d.agents {
		go func() { <-p.done; ended <- p }() // ends with the process, which is ended below
	}
	for {
		select {
		case <-ctx.Done():
			return d.end()
		case p := <-ended:
			if len(Running(d.Dir)) == 0 {
				note("no agent of the demo runs any more")
				return nil
			}
			note(fmt.Sprintf("agent %s ended (%s); start it again: keelson agent --config %s", p.node, p.how(), Config(d.Dir, p.node)))
		}
	}
}
