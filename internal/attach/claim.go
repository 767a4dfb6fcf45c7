package attach

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"keelson/internal/blockdev"
	"keelson/internal/frontend/loop"
)

// A claim is what keeps a device from being mounted between the look at who uses it and its end: a process, not the agent's own, has
// it open exclusively, as a mounted file system would. It ends with the agent.
type claim struct {
	pid   int
	in    io.Closer     // closed: the claim ends
	ended chan struct{} // closed when the process has ended
}

// claimMax is how long the opening of a device, or its closing, may take.
const claimMax = 15 * time.Second

// claimed is what the helper says when it has the device.
const claimed = "claimed"

// claimDevice has a helper open the device exclusively. *InUseError: somebody else has it so.
func (a *Attachment) claimDevice(device string) error {
	words := append(append([]string(nil), a.o.Loop.Helper...), "claim", device)
	cmd := exec.Command(words[0], words[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("claim %s: %w", device, err)
	}
	c := &claim{pid: cmd.Process.Pid, in: in, ended: make(chan struct{})}
	answer := make(chan string, 1)
	go func() { // ends with the process
		line, _ := bufio.NewReader(out).ReadString('\n') // "" if it says nothing
		answer <- strings.TrimSpace(line)
		_ = cmd.Wait() // what it says is on its standard error
		close(c.ended)
	}()
	select {
	case line := <-answer:
		if line == claimed {
			a.mu.Lock()
			a.claim = c
			a.mu.Unlock()
			return nil
		}
		<-c.ended
		if users, err := a.Users(); err == nil && users != nil {
			return users
		}
		return fmt.Errorf("claim %s: %s", device, strings.TrimSpace(said.String()))
	case <-time.After(claimMax):
		_ = cmd.Process.Kill() // it ends when the device lets it go
		return fmt.Errorf("claim %s: not done within %s", device, claimMax)
	}
}

// unclaim ends the claim, if there is one.
func (a *Attachment) unclaim() {
	a.mu.Lock()
	c := a.claim
	a.claim = nil
	a.mu.Unlock()
	if c == nil {
		return
	}
	_ = c.in.Close()
	select {
	case <-c.ended:
	case <-time.After(claimMax):
		a.o.Log.Warn("the claim on a block device does not end", "volume", a.o.Volume, "process", c.pid)
	}
}

// claims reports whether the holder is the claim's process.
func (a *Attachment) claims(h blockdev.Holder) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claim != nil && h.Kind == "process" && h.PID == a.claim.pid
}

// busyMax is how long a device may be busy although nobody is seen to use it: a mount namespace that was made just now, of a service or a
// container that starts, has a copy of what was unmounted meanwhile, until that is taken away there too.
const busyMax = 2 * time.Second

// openAlone opens a device exclusively.
func openAlone(device string) (fd int, err error) {
	for end := time.Now().Add(busyMax); ; time.Sleep(busyMax / 40) {
		fd, err = unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fd, err
		}
	}
}

// HelperMain is what the agent's program does as a helper of its devices: "claim DEVICE" holds the device until its standard input
// ends; the others are package loop's.
func HelperMain(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 2 || args[0] != "claim" {
		said, err := loop.HelperMain(args)
		if err == nil {
			_, err = fmt.Fprintln(out, said)
		}
		return err
	}
	fd, err := openAlone(args[1])
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s is mounted or claimed by somebody else", args[1])
	}
	if err != nil {
		return os.NewSyscallError("open "+args[1], err)
	}
	defer unix.Close(fd)
	if _, err := fmt.Fprintln(out, claimed); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}
