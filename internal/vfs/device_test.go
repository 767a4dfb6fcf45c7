package vfs

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"keelson/internal/block"
)

// loopDevice attaches a loop device of that size for the time of the test.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "disk")
	must(t, err)
	must(t, f.Truncate(size))
	must(t, f.Close())
	return loopOn(t, f.Name())
}

// loopOn is a loop device on that file; it goes with the test.
func loopOn(t *testing.T, file string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loop devices need root; run the tests as root to include them")
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here: %s", out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %s", device, out)
		}
	})
	return device
}

func TestBlockDevice(t *testing.T) {
	const size = 4 << 20
	device := loopDevice(t, size)
	f := mustOpen(t, OS, device, Lock|Create)
	if _, err := OS.Open(device, Lock); !errors.Is(err, ErrInUse) {
		t.Errorf("a second opener: %v", err)
	}
	if got, err := f.Size(); err != nil || got != size {
		t.Errorf("size %d, %v", got, err)
	}
	id, err := f.Identity()
	if err != nil || id.Kind != KindDevice || id.Size != size || id.Dev == 0 || id.ChangeTime != 0 {
		t.Errorf("%+v, %v", id, err)
	}
	if again, err := OS.Stat(device); err != nil || again != id {
		t.Errorf("Stat: %+v, %v", again, err)
	}
	list, err := f.Extents(512, 4096)
	if err != nil || len(list) != 1 || list[0] != (block.Extent{Len: 4096}) {
		t.Errorf("extents %v, %v", list, err)
	}
	zeroReadsAsZero(t, f, size, true)
	must(t, f.Datasync())
	if err := f.Truncate(1); err == nil {
		t.Error("a device can be cut")
	}
	if _, err := f.WriteAt(make([]byte, 1024), size-512); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a write past the end: %v", err)
	}
	must(t, f.Close())
	mustOpen(t, OS, device, Lock)
}

// TestDeviceHeldByAnother: another process that has it open exclusively, as a mount has, excludes this one.
func TestDeviceHeldByAnother(t *testing.T) {
	device := loopDevice(t, 16<<20)
	f := mustOpen(t, OS, device, Lock)
	if out, err := exec.Command("mkfs.ext4", "-q", device).CombinedOutput(); err == nil || !strings.Contains(string(out), "in use") {
		t.Errorf("mkfs on an open device: %v %s", err, out)
	}
	must(t, f.Close())
}
