package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program writes one, a shell's script, into a new folder.
func program(t *testing.T, name, text string) *Runner {
	t.Helper()
	r := &Runner{Directory: t.TempDir(), Limit: time.Minute}
	if err := os.WriteFile(filepath.Join(r.Directory, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRun(t *testing.T) {
	r := program(t, Fence, `echo "$KEELSON_HOOK $KEELSON_VOLUME $PATH $PWD ${SECRET-unset}"; cat`)
	t.Setenv("SECRET", "of the agent")
	got := r.Run(t.Context(), Fence, "KEELSON_VOLUME=data")
	if want := "fence data " + searchPath + " / unset"; got.Err != nil || !got.Ran || got.Output != want {
		t.Errorf("%+v, want %q", got, want)
	}
	if got := r.Run(t.Context(), AfterPromote); got != (Result{}) {
		t.Errorf("there is none, and: %+v", got)
	}
	if got := (&Runner{}).Run(t.Context(), Fence); got != (Result{}) {
		t.Errorf("there is no folder, and: %+v", got)
	}
}

func TestExitCodes(t *testing.T) {
	for text, want := range map[string]string{"exit 3": "exit code 3", "kill -9 $$": "ended by signal killed", "echo no; exit 1": "exit code 1"} {
		var exit *ExitError
		if got := program(t, Fence, text).Run(t.Context(), Fence); !errors.As(got.Err, &exit) || got.Err.Error() != want {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

// What is said beyond the limit is read, so that the program does not wait, and thrown away.
func TestOutputIsBounded(t *testing.T) {
	got := program(t, Fence, "head -c 1000000 /dev/zero | tr '\\0' x; echo >&2 end").Run(t.Context(), Fence)
	if got.Err != nil || len(got.Output) != outputBytesMax {
		t.Errorf("%v, %d bytes", got.Err, len(got.Output))
	}
}

// At its limit a program is ended together with what it started; also when whoever asked does not wait any more.
func TestLimitEndsTheGroup(t *testing.T) {
	child := filepath.Join(t.TempDir(), "child")
	r := program(t, Fence, fmt.Sprintf("sleep 600 & echo $! > %s.new; mv %s.new %s; trap '' TERM; sleep 600", child, child, child))
	for r.Limit = 200 * time.Millisecond; !exists(child); r.Limit *= 2 { // a slow machine starts it later
		got := r.Run(t.Context(), Fence)
		if got.Err == nil || !strings.Contains(got.Err.Error(), "not done within") {
			t.Fatalf("%+v", got)
		}
	}
	ends(t, child)
	_ = os.Remove(child)
	r.Limit = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for !exists(child) {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	if got := r.Run(ctx, Fence); !errors.Is(got.Err, context.Canceled) {
		t.Errorf("%+v", got)
	}
	ends(t, child)
}

// ends checks that the process whose number is in the file is ended.
func ends(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("process %d of its group lives", pid)
		}
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// alive reports a process that is more than a zombie.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

// Who leaves something in the background that holds the output is not waited for.
func TestBackgroundHoldsNothingUp(t *testing.T) {
	r := program(t, AfterPromote, "echo started; setsid sleep 30 &")
	got := r.Run(t.Context(), AfterPromote)
	if got.Err != nil || got.Output != "started" || got.Took > 20*time.Second {
		t.Errorf("%+v", got)
	}
}

// A program that others can change, or replace, is not run.
func TestOnlyTrustedProgramsRun(t *testing.T) {
	for what, spoil := range map[string]func(dir, file string) error{
		"chmod go-w": func(_, file string) error { return os.Chmod(file, 0o777) },
		"group":      func(_, file string) error { return os.Chmod(file, 0o775) },
		"chown root": func(_, file string) error { return os.Chown(file, 65534, -1) },
		"folder":     func(dir, _ string) error { return os.Chmod(dir, 0o777) },
		"chmod 755":  func(_, file string) error { return os.Chmod(file, 0o644) },
		"no execu":   func(_, file string) error { return errors.Join(os.Remove(file), os.Mkdir(file, 0o755)) },
		"no such":    func(_, file string) error { return errors.Join(os.Remove(file), os.Symlink("/nowhere", file)) },
	} {
		r := program(t, Fence, "echo it ran")
		if err := spoil(r.Directory, filepath.Join(r.Directory, Fence)); err != nil {
			t.Fatal(err)
		}
		got := r.Run(t.Context(), Fence)
		want := what
		if what == "group" || what == "folder" {
			want = "chmod go-w"
		}
		if got.Err == nil || got.Ran || !strings.Contains(got.Err.Error(), want) {
			t.Errorf("%s: %+v", what, got)
		}
	}
	r := program(t, Fence, "echo it ran")
	link := &Runner{Directory: t.TempDir(), Limit: time.Minute}
	if err := os.Symlink(filepath.Join(r.Directory, Fence), filepath.Join(link.Directory, Fence)); err != nil {
		t.Fatal(err)
	}
	if got := link.Run(t.Context(), Fence); got.Output != "it ran" {
		t.Errorf("by a link: %+v", got)
	}
}
