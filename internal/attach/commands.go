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
	cmd := exec.Command(name, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	line := strings.Join(append([]string{name}, args...), " ")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", line, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the process
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-ended:
		if text := strings.TrimSpace(said.String()); err != nil && text != "" {
			err = errors.New(text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		return nil
	case <-timer.C:
		_ = cmd.Process.Kill()
		return fmt.Errorf("%s: not done within %s", line, limit)
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
