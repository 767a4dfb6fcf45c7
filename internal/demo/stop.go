package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

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
	agents, err := handles(dir)
	defer func() {
		for _, h := range agents {
			h.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := signal(agents, unix.SIGTERM); err != nil {
		return nil, err
	}
	soft, cancel := context.WithTimeout(ctx, stopTimeMax)
	defer cancel()
	left := gone(soft, agents)
	if len(left) > 0 && ctx.Err() == nil {
		if err := signal(left, unix.SIGKILL); err != nil {
			return nil, err
		}
		for _, h := range left {
			h.Killed = true
		}
		left = gone(ctx, left)
	}
	var stopped []Stopped
	for _, h := range agents {
		stopped = append(stopped, h.Stopped)
	}
	if len(left) > 0 {
		return stopped, &api.Error{Code: api.Unfinished, Object: "demo " + dir, Message: "not all agents ended within the time limit",
			Waits: fmt.Sprintf("agent %s (process %d)", left[0].Node, left[0].PID), Next: "run keelson demo stop again"}
	}
	return stopped, nil
}

// handle is a running agent. Its pidfd goes on naming that process when its number is given to another, and tells when
// all of its threads have ended: only then are its sockets and locks free. (/proc shows it as gone before.)
type handle struct {
	Stopped
	pidfd int
}

func (h *handle) close() { _ = unix.Close(h.pidfd) } // only the handle

// handles are those of all agents of a demo that run, by node. They are to be closed, also with an error.
func handles(dir string) ([]*handle, error) {
	var agents []*handle
	for pid, node := range Running(dir) {
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return agents, api.Errorf(api.Failed, "agent "+node, "no handle of process %d: %v", pid, err)
		}
		h := &handle{Stopped{Node: node, PID: pid}, fd}
		if !isAgent(pid, Config(dir, node)) { // since the handle was taken it cannot become another's
			h.close()
			continue
		}
		agents = append(agents, h)
	}
	slices.SortFunc(agents, func(a, b *handle) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.PID, b.PID)) })
	return agents, nil
}

// signal sends a signal to all; one that has ended needs none.
func signal(agents []*handle, sig unix.Signal) error {
	for _, h := range agents {
		if err := unix.PidfdSendSignal(h.pidfd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return api.Errorf(api.Failed, "agent "+h.Node, "process %d cannot be ended: %v", h.PID, err)
		}
	}
	return nil
}

// gone waits until all have ended, and returns those that have not when ctx ends.
func gone(ctx context.Context, agents []*handle) []*handle {
	var left []*handle
	for _, h := range agents {
		for !h.ended() {
			if ctx.Err() != nil {
				left = append(left, h)
				break
			}
		}
	}
	return left
}

// ended waits for a moment for the end of the process, and reports whether it has come.
func (h *handle) ended() bool {
	fds := []unix.PollFd{{Fd: int32(h.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(pollEvery.Milliseconds()))
	return err == nil && n == 1
}
