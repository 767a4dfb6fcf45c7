// Package hook runs an administrator's programs at named moments of a volume's life. A program is DIRECTORY/NAME; it is started
// directly and not by a shell, with an environment of its own, within a time limit, as the leader of a process group that is
// killed as a whole at that limit. What it says is kept, up to a limit. It decides nothing: what an exit code means is for
// whoever asked.
//
// Only programs that root alone can change are run: the program and every folder above it belong to root, or to the user of this
// process, and nobody else may write to them.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The moments, which are the names of the programs.
const (
	Fence           = "fence"            // before a forced take-over, at the server that is to be source; not 0 refuses it
	BeforeDemote    = "before-demote"    // before a planned switchover away, at the source; not 0 refuses it
	DemoteCancelled = "demote-cancelled" // before-demote said yes, and this server is source still
	AfterDemote     = "after-demote"     // this server is not source any more, its device is gone
	AfterPromote    = "after-promote"    // this server serves as source, its device is there and mounted, if that was possible
	SplitBrain      = "split-brain"      // a split brain was noticed
	StateChange     = "state-change"     // the state of the volume or of a mirror is another
)

// Names are all moments.
var Names = []string{Fence, BeforeDemote, DemoteCancelled, AfterDemote, AfterPromote, SplitBrain, StateChange}

// outputBytesMax is how much is kept of what a program says; the rest is read and thrown away.
const outputBytesMax = 2 << 10

// pipeMax is how long the output of a program that has ended is waited for: somebody outside of its group may hold it.
const pipeMax = time.Second

// searchPath is the PATH of programs.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Runner runs the programs of one folder.
type Runner struct {
	Directory string        // "": there are none
	Limit     time.Duration // of each
}

// Result is what became of a program.
type Result struct {
	Ran    bool // there is one, and it was started
	Output string
	Err    error // nil: it said 0, or there is none
	Took   time.Duration
}

// ExitError is the code that a program ended with, or the signal that ended it.
type ExitError struct {
	Code   int // -1: a signal
	Signal string
}

// Error says it.
func (e *ExitError) Error() string {
	if e.Signal != "" {
		return "ended by signal " + e.Signal
	}
	return fmt.Sprintf("exit code %d", e.Code)
}

// Has reports whether there is a program of that name.
func (r *Runner) Has(name string) bool {
	if r.Directory == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(r.Directory, name))
	return !errors.Is(err, fs.ErrNotExist)
}

// Run runs the program of that name, if there is one, with these variables. It returns within the limit, or soon after ctx's end.
func (r *Runner) Run(ctx context.Context, name string, vars ...string) Result {
	if !r.Has(name) {
		return Result{}
	}
	program, err := trusted(filepath.Join(r.Directory, name))
	if err != nil {
		return Result{Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, r.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append([]string{"PATH=" + searchPath, "LANG=C.UTF-8", "KEELSON_HOOK=" + name}, vars...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeMax
	var said limited
	cmd.Stdout, cmd.Stderr = &said, &said
	begun := time.Now()
	if err = start(cmd); err != nil {
		return Result{Err: fmt.Errorf("%s: %w", program, err)}
	}
	err = cmd.Wait()
	result := Result{Ran: true, Output: strings.ToValidUTF8(string(bytes.TrimSpace(said)), "?"), Took: time.Since(begun)}
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		result.Err = fmt.Errorf("not done within %s, and ended with all that it had started", result.Took.Round(time.Millisecond))
	case ctx.Err() != nil:
		result.Err = ctx.Err()
	case errors.As(err, &exit):
		result.Err = exitError(exit)
	case errors.Is(err, exec.ErrWaitDelay): // it ended well; what it started in the background holds its output
	case err != nil:
		result.Err = err
	}
	return result
}

func exitError(e *exec.ExitError) error {
	if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &ExitError{-1, status.Signal().String()}
	}
	return &ExitError{Code: e.ExitCode()}
}

// start starts the program as an ordinary process: what the kernel grants an agent so that it can serve disks when memory is short
// (package attach, and the unit's OOMScoreAdjust) is not for what a program starts.
func start(cmd *exec.Cmd) error {
	runtime.LockOSThread() // the child has what this thread has
	defer runtime.UnlockOSThread()
	if is, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0); err == nil && is == 1 {
		if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 0, 0, 0, 0); err == nil {
			defer func() { _ = unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0) }() // it was so before
		}
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("0"), 0) // it may have ended
	return nil
}

// trusted is the path of the program without links, if nobody but root and this user can change it.
func trusted(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return "", fmt.Errorf("%s is no executable file; chmod 755 %s", path, real)
	}
	for p := real; ; p = filepath.Dir(p) {
		if info, err = os.Lstat(p); err != nil {
			return "", err
		}
		if err := safe(p, info); err != nil {
			return "", fmt.Errorf("%s is not run: %w", path, err)
		}
		if p == "/" {
			return real, nil
		}
	}
}

// safe says why others can change what is at that path; nil if they cannot. In a sticky folder nobody replaces what is not his.
func safe(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: its owner is not known", path)
	}
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d; chown root %s", path, stat.Uid, path)
	}
	sticky := info.IsDir() && info.Mode()&os.ModeSticky != 0
	if info.Mode()&0o022 != 0 && !sticky {
		return fmt.Errorf("%s can be written to by others (mode %04o); chmod go-w %s", path, info.Mode().Perm(), path)
	}
	return nil
}

// limited keeps the first bytes written and takes the rest.
type limited []byte

func (l *limited) Write(p []byte) (int, error) {
	*l = append(*l, p[:min(len(p), outputBytesMax-len(*l))]...)
	return len(p), nil
}
