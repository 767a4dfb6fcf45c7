package probe

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"keelson/internal/preflight"
	"keelson/internal/vfs"
)

func run(t *testing.T, command ...string) string {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func file(t *testing.T, path string, size int64) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	f := Folder(vfs.OS, dir, false)
	if f.Err != "" || f.FreeBytes <= 0 || f.Sync.Err != "" || f.Sync.Times < 1 || f.Sync.Times > syncsMax || f.Sync.Median <= 0 || f.Sync.Worst < f.Sync.Median {
		t.Errorf("%+v", f)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if quick := Folder(vfs.OS, dir, true); quick.Sync.Times != 0 || quick.FreeBytes <= 0 {
		t.Errorf("%+v", quick)
	}
	gone := Folder(vfs.OS, filepath.Join(dir, "gone"), false)
	if gone.Err == "" || gone.Sync.Err == "" {
		t.Errorf("a directory that is not there: %+v", gone)
	}
}

func TestPaths(t *testing.T) {
	dir := t.TempDir()
	path := file(t, filepath.Join(dir, "disk"), 1<<20)
	if d := Disk(path, dir, "", false, false); d.Err != "" || d.Kind != preflight.KindFile || d.SizeBytes != 1<<20 || d.InUse != "" || len(d.Holders) > 0 || d.StateOnIt || d.Flush.Times == 0 || d.Flush.Err != "" {
		t.Errorf("a file: %+v", d)
	}
	f, err := vfs.OS.Open(path, vfs.Lock)
	if err != nil {
		t.Fatal(err)
	}
	if d := Disk(path, dir, "", false, true); d.InUse == "" || d.Flush.Times != 0 {
		t.Errorf("a file that somebody has: %+v", d)
	}
	if d := Disk(path, dir, "", true, true); d.InUse != "" {
		t.Errorf("a file that this agent has: %+v", d)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if d := Disk(filepath.Join(dir, "new"), dir, "", false, false); d.Err != "" || d.Kind != preflight.KindNone || d.RoomBytes <= 0 {
		t.Errorf("a file that is not there: %+v", d)
	}
	if d := Disk(filepath.Join(dir, "none/new"), dir, "", false, false); !strings.Contains(d.Err, "none does not exist") {
		t.Errorf("a folder that is not there: %+v", d)
	}
	if d := Disk(dir, dir, "", false, false); d.Kind != preflight.KindOther {
		t.Errorf("a folder: %+v", d)
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("looking made a file")
	}
	if Files() == 0 {
		t.Error("no limit of open files")
	}
}

// A block device, a file system on it, and a file behind it: who uses what, and what a state directory there stands on.
func TestBlockDevices(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("loop devices need root; run the tests as root to include them")
	}
	dir := t.TempDir()
	path := file(t, filepath.Join(dir, "disk"), 16<<20)
	out, err := exec.Command("losetup", "--find", "--show", path).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device here: %s", out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { run(t, "losetup", "-d", device) })
	if d := Disk(device, dir, "", false, false); d.Err != "" || d.Kind != preflight.KindDevice || d.SizeBytes != 16<<20 || d.BlockBytes != 512 || d.InUse != "" || len(d.Holders) > 0 || d.StateOnIt || d.Flush.Times == 0 {
		t.Errorf("a device: %+v", d)
	}
	if d := Disk(path, dir, "", false, true); len(d.Holders) != 1 || d.Holders[0] != "behind "+device {
		t.Errorf("a file behind a device: %+v", d)
	}
	run(t, "mkfs.ext4", "-q", "-F", device)
	point := filepath.Join(dir, "mnt")
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", device, point)
	t.Cleanup(func() { run(t, "umount", point) })
	state := filepath.Join(point, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if d := Disk(device, state, "", false, true); d.InUse == "" || len(d.Holders) == 0 || !strings.Contains(d.Holders[0], "mounted at "+point) || !d.StateOnIt {
		t.Errorf("a device with a state directory on it: %+v", d)
	}
	if d := Disk(path, state, "", true, true); !d.StateOnIt {
		t.Errorf("a file behind the file system of the state directory: %+v", d)
	}
	other := file(t, filepath.Join(dir, "other"), 1<<20)
	if d := Disk(other, state, device, true, true); !d.StateOnIt {
		t.Errorf("a state directory on the volume's own device: %+v", d)
	}
	if d := Disk(other, dir, device, true, true); d.StateOnIt {
		t.Errorf("a state directory elsewhere: %+v", d)
	}
}
