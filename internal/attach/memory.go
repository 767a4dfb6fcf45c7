package attach

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// flusherMark is in the environment of a process that was started anew as an I/O flusher.
const flusherMark = "KEELSON_IO_FLUSHER"

// flusher says, for the log, whether this process is an I/O flusher, or why not. Set once, before there are attachments.
var flusher = "not asked for"

// PrepareMemory makes the agent fit to serve the device that the kernel writes its pages to: before anything else of it runs.
func PrepareMemory(lock bool) error {
	is, err := becomeIOFlusher()
	flusher = fmt.Sprint(is)
	if err != nil {
		flusher = "no: " + err.Error()
	}
	if lock {
		return lockMemory()
	}
	return nil
}

// becomeIOFlusher tells the kernel that this process is part of the way to a disk: when it needs memory, the kernel does not
// have it wait for pages to be written, which may be those that only it can write. The state is a thread's and
// inherited, also by exec, so the process starts itself anew, once, while it has no others that matter; then this returns true.
// It takes CAP_SYS_RESOURCE; without it the error says so, and nothing is changed.
func becomeIOFlusher() (bool, error) {
	if os.Getenv(flusherMark) != "" {
		_ = os.Unsetenv(flusherMark) // not for children
		is, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0)
		return is == 1, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
		return false, err
	}
	program, err := os.Executable()
	if err == nil {
		err = unix.Exec(program, os.Args, append(os.Environ(), flusherMark+"=1"))
	}
	return false, errors.Join(err, unix.Prctl(unix.PR_SET_IO_FLUSHER, 0, 0, 0, 0))
}

// lockMemory keeps everything that the process has in memory, and will have, from being paged out.
func lockMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("lock memory ([device] lock-memory): %w; raise the limit (LimitMEMLOCK=infinity) or leave it off", err)
	}
	return nil
}
