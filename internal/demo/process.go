package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// process is an agent that this process started.
type process struct {
	node string
	cmd  *exec.Cmd
	from int64         // where its part of agent.log begins
	done chan struct{} // closed when it has ended; then err says how
	err  error
}

// spawn starts an agent in a session of its own. It holds none of this process's streams.
func spawn(program, dir, node string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, node, "agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the agent has it
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	p := &process{node: node, from: from, done: make(chan struct{}), cmd: exec.Command(program, "agent", "--config", Config(dir, node))}
	p.cmd.Args[0] = "keelson"
	p.cmd.Dir = filepath.Join(dir, node)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// ended reports whether the process is over.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// how says how the process ended.
func (p *process) how() string {
	if p.err == nil {
		return "exit status 0"
	}
	return p.err.Error()
}

const logTailBytesMax = 4 << 10

// logTail is the end of what the process wrote.
func (p *process) logTail(dir string) string {
	f, err := os.Open(filepath.Join(dir, p.node, "agent.log"))
	if err != nil {
		return ""
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	from := max(p.from, size-logTailBytesMax)
	data := make([]byte, size-from)
	n, _ := f.ReadAt(data, from) // what can be read is shown
	return strings.TrimSpace(string(data[:n]))
}

// Running are the process ids of the agents of a demo that run, also of those that were started by hand.
func Running(dir string) map[int]string {
	pids := map[int]string{}
	rec, err := load(dir)
	if err != nil {
		rec = &record{}
	}
	for _, node := range Nodes {
		candidates := slices.Clone(rec.Started)
		if text, err := os.ReadFile(filepath.Join(dir, node, "agent.pid")); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				candidates = append(candidates, pid)
			}
		}
		for _, pid := range candidates {
			if isAgent(pid, Config(dir, node)) {
				pids[pid] = node
			}
		}
	}
	return pids
}

// isAgent reports whether the process runs, and is an agent of that configuration file.
func isAgent(pid int, configFile string) bool {
	if pid <= 1 {
		return false
	}
	proc := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		return false
	}
	if i := bytes.LastIndexByte(stat, ')'); i < 0 || i+2 >= len(stat) || stat[i+2] == 'Z' || stat[i+2] == 'X' {
		return false
	}
	line, err := os.ReadFile(proc + "cmdline")
	if err != nil {
		return false
	}
	want, err := os.Stat(configFile)
	if err != nil {
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	agent := false
	for i, arg := range args {
		agent = agent || i > 0 && arg == "agent"
		path, ok := strings.CutPrefix(arg, "--config=")
		if !ok && arg == "--config" && i+1 < len(args) {
			path, ok = args[i+1], true
		}
		if !ok || !agent {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(proc+"cwd", path)
		}
		if have, err := os.Stat(path); err == nil && os.SameFile(have, want) {
			return true
		}
	}
	return false
}
