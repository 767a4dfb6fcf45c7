package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"syscall"
	"time"

	"keelson/internal/api"
)

// stopTimeMax is how long agents get for a clean stop before they are killed.
const stopTimeMax = 15 * time.Second

// Stopped is an agent that was ended.
type Stopped struct {
	Node   string `json:"node"`
	PID    int    `json:"pid"`
	Killed bool   `json:"killed"` // it did not stop cleanly in time
}

// Stop ends the agents of the demo in a directory and waits until they are gone. None running is fine.
func Stop(ctx context.Context, dir string) ([]Stopped, error) {
	dir, err := CheckDir(dir)
	if err != nil {
		return nil, err
	}
	if _, err := load(dir); errors.Is(err, os.ErrNotExist) {
		return nil, api.Errorf(api.Failed, "demo "+dir, "there is no demo in this directory").WithNext("name the directory of one: --dir DIR")
	} else if err != nil {
		return nil, failed(dir, err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	return stopAgents(ctx, dir)
}

// stopAgents asks all to end, waits, and kills those that do not.
func stopAgents(ctx context.Context, dir string) ([]Stopped, error) {
	var stopped []Stopped
	for pid, node := range Running(dir) {
		stopped = append(stopped, Stopped{Node: node, PID: pid})
	}
	sort.Slice(stopped, func(i, j int) bool { return stopped[i].Node < stopped[j].Node })
	if err := signal(dir, stopped, syscall.SIGTERM); err != nil {
		return nil, err
	}
	soft, cancel := context.WithTimeout(ctx, stopTimeMax)
	defer cancel()
	left := gone(soft, dir, stopped)
	if len(left) > 0 && ctx.Err() == nil {
		if err := signal(dir, left, syscall.SIGKILL); err != nil {
			return nil, err
		}
		for i := range stopped {
			stopped[i].Killed = slices.Contains(left, stopped[i])
		}
		left = gone(ctx, dir, left)
	}
	if len(left) > 0 {
		return stopped, &api.Error{Code: api.Unfinished, Object: "demo " + dir, Message: "not all agents ended within the time limit",
			Waits: fmt.Sprintf("agent %s (process %d)", left[0].Node, left[0].PID), Next: "run keelson demo stop again"}
	}
	return stopped, nil
}

// signal sends a signal to the agents that still are agents of this demo. The handle is taken before that is looked at,
// so that another process that got the number is never hit.
func signal(dir string, agents []Stopped, sig syscall.Signal) error {
	for _, a := range agents {
		p, err := os.FindProcess(a.PID)
		if err != nil {
			continue // gone
		}
		if isAgent(a.PID, Config(dir, a.Node)) {
			if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return api.Errorf(api.Failed, "agent "+a.Node, "process %d cannot be ended: %v", a.PID, err)
			}
		}
		_ = p.Release() // only the handle
	}
	return nil
}

// gone waits until the agents are gone and returns those that are not when ctx ends.
func gone(ctx context.Context, dir string, agents []Stopped) []Stopped {
	tick := time.NewTicker(pollEvery / 5)
	defer tick.Stop()
	for {
		left := slices.DeleteFunc(slices.Clone(agents), func(a Stopped) bool { return !isAgent(a.PID, Config(dir, a.Node)) })
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return left
		case <-tick.C:
		}
	}
}
