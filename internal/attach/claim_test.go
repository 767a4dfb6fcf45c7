package attach

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keelson/internal/frontend/loop"
)

const helperWord = "attach-helper"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == helperWord {
		if err := HelperMain(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// run runs a command of the system.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// loopDevice is one on a file with a file system, and a folder to mount it on.
func loopDevice(t *testing.T) (device, folder string) {
	t.Helper()
	dir := t.TempDir()
	file, folder := filepath.Join(dir, "disk"), filepath.Join(dir, "mnt")
	run(t, "truncate", "--size", "8M", file)
	run(t, "mkfs.ext4", "-q", file)
	run(t, "mkdir", folder)
	device = run(t, "losetup", "--find", "--show", file)
	t.Cleanup(func() {
		_ = exec.Command("umount", "--quiet", folder).Run() // if it is mounted still
		run(t, "losetup", "--detach", device)
	})
	return device, folder
}

// attachmentOf is an attachment with that device, and no goroutine.
func attachmentOf(device string) *Attachment {
	a := &Attachment{o: Options{Log: slog.New(slog.DiscardHandler), Note: func(string, string, string) {}, Loop: loop.Options{Helper: []string{os.Args[0], helperWord}}}}
	a.shown.Store(&Status{State: Attached, Device: device})
	return a
}

// Between the look at who uses a device and its end nobody can mount it; if it is not ended everybody can again.
func TestClaimKeepsMountsOut(t *testing.T) {
	device, folder := loopDevice(t)
	a := attachmentOf(device)
	released, err := a.Release(ByItself)
	if err != nil {
		t.Fatal(err)
	}
	defer a.unclaim()
	if out, err := exec.Command("mount", device, folder).CombinedOutput(); err == nil || !strings.Contains(string(out), "busy") && !strings.Contains(string(out), "already mounted") {
		t.Errorf("a claimed device was mounted: %v: %s", err, out)
	}
	if users, err := a.Users(); users != nil || err != nil {
		t.Errorf("the claim counts as a user: %v, %v", users, err)
	}
	if err := attachmentOf(device).claimDevice(device); err == nil {
		t.Error("it was claimed twice")
	}
	if err := released.Undo(); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", device, folder)
	var used *InUseError
	if err := a.claimDevice(device); !errors.As(err, &used) || used.Holders[0].Mount != folder {
		t.Errorf("a mounted device was claimed: %v", err)
	}
}

// The claim ends with whoever asked for it, also if that dies.
func TestClaimEndsWithItsInput(t *testing.T) {
	device, _ := loopDevice(t)
	in, agent := io.Pipe()
	out, said := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- HelperMain([]string{"claim", device}, in, said) }()
	line := make([]byte, len(claimed))
	if _, err := io.ReadFull(out, line); err != nil || string(line) != claimed {
		t.Fatalf("it says %q, %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // the rest of the line
	_ = agent.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := attachmentOf(device).claimDevice("/dev/nothing"); err == nil {
		t.Error("a device that is not there was claimed")
	}
}
