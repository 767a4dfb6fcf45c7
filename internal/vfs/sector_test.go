package vfs

import (
	"bytes"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSectorsOf4K: on a device with sectors of 4096 bytes, writes and zeroing of any range leave on the disk itself what they say, beside
// what was written a moment before and is still in memory.
func TestSectorsOf4K(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("loop devices need root; run the tests as root to include them")
	}
	const size = 1 << 20
	file := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(file, make([]byte, size), 0o600))
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", "4096", file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device of this kind here: %s", out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "-d", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %s", device, out)
		}
	})
	f := mustOpen(t, OS, device, Lock)
	want := make([]byte, size)
	rng := rand.New(rand.NewSource(1))
	for round := range 60 {
		for range 20 {
			off := rng.Int63n(size)
			n := 1 + rng.Int63n(min(64<<10, size-off))
			if rng.Intn(2) == 0 {
				off, n = off/512*512, (n+511)/512*512
				n = min(n, size-off)
			}
			if rng.Intn(2) == 0 {
				must(t, f.Zero(off, n, rng.Intn(2) == 0))
				clear(want[off : off+n])
				continue
			}
			rng.Read(want[off : off+n])
			_, err := f.WriteAt(want[off:off+n], off)
			must(t, err)
		}
		must(t, f.Datasync())
		got, err := os.ReadFile(file)
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: the disk has something else", round)
		}
	}
	must(t, f.Close())
}
