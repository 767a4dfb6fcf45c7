package attach

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"keelson/internal/blockdev"
)

// syncMax is how long the writing out of a file system may take when the agent stops.
const syncMax = 20 * time.Second

// command runs a program of the system that may touch the device: the agent itself must not wait for it. A program that does
// not end in time is killed and left to end when the device does.
func command(limit time.Duration, name string, args ...string) error {
	_, err := commandOr(limit, func() {}, name, args...)
	return err
}

// commandOr is command. If the program was killed, late is called once it has ended, perhaps after the return: what it was asking of
// the kernel may be done by then all the same.
func commandOr(limit time.Duration, late func(), name string, args ...string) (killed bool, _ error) {
	var err error // of the end
	cmd := exec.Command(name, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	line := strings.Join(append([]string{name}, args...), " ")
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("%s: %w", line, err)
	}
	ended := make(chan struct{})
	go func() { // ends with the process
		err = cmd.Wait()
		close(ended)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ended:
		var exit *exec.ExitError
		if killed = errors.As(err, &exit) && !exit.Exited(); killed {
			late()
		}
		if text := strings.TrimSpace(said.String()); err != nil && text != "" {
			err = errors.New(text)
		}
		if err != nil {
			return killed, fmt.Errorf("%s: %w", line, err)
		}
		return false, nil
	case <-timer.C:
		_ = cmd.Process.Kill()
		go func() { // ends with the process
			<-ended
			late()
		}()
		return true, fmt.Errorf("%s: not done within %s", line, limit)
	}
}

// syncMounts has the file systems on the device write out what they have cached.
func syncMounts(holders []blockdev.Holder) {
	for _, h := range holders {
		if h.Kind == "mount" && h.PID == 0 {
			_ = command(syncMax, "sync", "--file-system", h.Mount) // what cannot be written is lost with the device
		}
	}
}
