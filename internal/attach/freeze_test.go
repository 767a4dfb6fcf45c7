package attach

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"keelson/internal/vfs"
)

// frozen reports whether the file system is: whether it cannot be frozen once more. If it was not it is not.
func frozen(t *testing.T, folder string) bool {
	t.Helper()
	if out, err := exec.Command("fsfreeze", "--freeze", folder).CombinedOutput(); err != nil {
		if !strings.Contains(string(out), "busy") {
			t.Fatalf("freeze %s: %v: %s", folder, err, out)
		}
		return true
	}
	run(t, "fsfreeze", "--unfreeze", folder)
	return false
}

// waitFor waits for a condition.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came that " + what)
		}
	}
}

// slowFreeze puts a freeze into the PATH that goes on, whoever is killed, until the file is there: so it is in the kernel.
func slowFreeze(t *testing.T) (goOn string) {
	t.Helper()
	dir := t.TempDir()
	goOn = filepath.Join(dir, "go-on")
	real, err := exec.LookPath("fsfreeze")
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\n[ $1 = --freeze ] || exec " + real + " \"$@\"\n" +
		"(while [ ! -e " + goOn + " ]; do sleep 0.01; done; exec " + real + " \"$@\") &\nwait\n"
	if err := os.WriteFile(filepath.Join(dir, "fsfreeze"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return goOn
}

// TestSlowFreezeIsThawed: a freeze that is not done in time is refused, and cannot be taken back; when the kernel is done with it the
// file system is thawed.
func TestSlowFreezeIsThawed(t *testing.T) {
	device, folder := loopDevice(t)
	run(t, "mount", device, folder)
	a := attachmentOf(device)
	a.o.Files, a.o.File = vfs.OS, filepath.Join(t.TempDir(), "device.json")
	goOn := slowFreeze(t)
	path := os.Getenv("PATH")
	old := freezeMax
	freezeMax = 300 * time.Millisecond
	t.Cleanup(func() { freezeMax = old })
	if released, err := a.Release(ByFreeze); err == nil {
		_ = released.Undo()
		t.Fatal("a freeze that was never done was done")
	}
	noted := func() bool { _, err := vfs.OS.Stat(a.frozenNote()); return !errors.Is(err, fs.ErrNotExist) }
	if !noted() {
		t.Error("the next agent would not know that something may be frozen")
	}
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the note is gone", func() bool { return !noted() })
	t.Setenv("PATH", path[strings.Index(path, ":")+1:])
	if frozen(t, folder) {
		run(t, "fsfreeze", "--unfreeze", folder)
		t.Error("it is frozen, and nobody thaws it")
	}
	run(t, "umount", folder)
}

// TestDeadAgentLeftItFrozen: an agent is killed between a freeze and its end; the next one thaws what is mounted of its devices, and
// only where there is a note.
func TestDeadAgentLeftItFrozen(t *testing.T) {
	device, folder := loopDevice(t)
	run(t, "mount", device, folder)
	a := attachmentOf(device)
	a.o.Files, a.o.File = vfs.OS, filepath.Join(t.TempDir(), "device.json")
	if _, err := a.Release(ByFreeze); err != nil {
		t.Fatal(err)
	}
	if !frozen(t, folder) {
		t.Error("it is not frozen")
	}
	if _, err := vfs.OS.Stat(a.frozenNote()); err != nil {
		t.Errorf("the next agent does not know: %v", err)
	}
	next := attachmentOf("")
	next.o.Files, next.o.File = a.o.Files, a.o.File
	next.o.Mount.Point = folder // what it would have mounted itself it unmounts, and lets go of the device
	next.letGo(device, "the agent that served it ended")
	run(t, "mount", device, folder)
	if frozen(t, folder) {
		run(t, "fsfreeze", "--unfreeze", folder)
		t.Error("it was unmounted, and is frozen still")
	}
	run(t, "fsfreeze", "--freeze", folder)
	next.thawAll(t.Context(), []string{device})
	if frozen(t, folder) {
		run(t, "fsfreeze", "--unfreeze", folder)
		t.Error("it is frozen still")
	}
	if _, err := vfs.OS.Stat(a.frozenNote()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the note stays: %v", err)
	}
	run(t, "umount", folder)
}
