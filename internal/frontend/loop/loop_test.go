package loop_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"keelson/internal/block"
	"keelson/internal/block/blocktest"
	"keelson/internal/blockdev"
	"keelson/internal/frontend/loop"
)

// remote is the served file as a block.Device: kernel, protocol and server have to pass what any device has to.
type remote struct {
	f    *os.File
	size int64
	end  func()
}

func (d remote) Size() int64 { return d.size }

func (d remote) Close() error {
	err := d.f.Close()
	d.end()
	return err
}

func (d remote) Submit(batch []*block.Request) {
	for _, r := range batch {
		r.Err = d.do(r)
		r.By.Complete(r)
	}
}

func (d remote) do(r *block.Request) (err error) {
	fd := int(d.f.Fd())
	switch r.Op {
	case block.Read:
		_, err = d.f.ReadAt(r.Buf.Bytes, r.Off)
	case block.Write:
		_, err = d.f.WriteAt(r.Buf.Bytes, r.Off)
	case block.Trim:
		err = unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, r.Off, r.Len)
	case block.Zero:
		err = unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, r.Off, r.Len)
	}
	if err == nil && (r.Op == block.Flush || r.Flags&block.FUA != 0 && r.Op != block.Read) {
		err = unix.Fdatasync(fd)
	}
	return err
}

func (d remote) Extents(_, length int64) ([]block.Extent, error) {
	return []block.Extent{{Len: length}}, nil
}

func TestServedFileIsADevice(t *testing.T) {
	blocktest.Run(t, func() block.Device {
		s := start(t, 512)
		f, err := os.OpenFile(s.file(), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		return remote{f, 64 << 20, func() { s.end() }}
	})
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) []byte {
	raw := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&raw[0]))%4096)
	return raw[skip : skip+n]
}

func openDirect(t *testing.T, device string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT|flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func sysfs(t *testing.T, device, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(device), file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// What applications do to the loop device reaches the volume as what it is: flush as flush, every time; FUA as a flush after
// the write; discard as trim; zeroing as zeroing.
func TestLoopDevicePassesOperations(t *testing.T) {
	for _, size := range []int{512, 4096} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := start(t, size)
			for file, want := range map[string]string{
				"loop/dio": "1", "queue/logical_block_size": fmt.Sprint(size), "size": fmt.Sprint(64 << 20 / 512), "queue/write_cache": "write back",
			} {
				if got := sysfs(t, s.device, file); got != want {
					t.Errorf("%s is %q, not %q", file, got, want)
				}
			}
			f := openDirect(t, s.device, 0)
			defer f.Close()
			data := aligned(64 << 10)
			for i := range data {
				data[i] = byte(i * 7)
			}
			before := s.tell("")
			changed := func(what string, do func() error) map[string]int64 {
				t.Helper()
				if err := do(); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				after := s.tell("")
				diff := map[string]int64{}
				for op := range after {
					diff[op] = after[op] - before[op]
				}
				before = after
				return diff
			}
			if d := changed("write", func() error { _, err := f.WriteAt(data, 1<<20); return err }); d["write"] == 0 || d["flush"] != 0 {
				t.Errorf("a write: %v", d)
			}
			for range 3 { // not only the first one
				if d := changed("fsync", f.Sync); d["flush"] != 1 {
					t.Errorf("an fsync: %v", d)
				}
			}
			sync := openDirect(t, s.device, unix.O_DSYNC)
			defer sync.Close()
			if d := changed("FUA", func() error { _, err := sync.WriteAt(data[:4096], 2<<20); return err }); d["write"] != 1 || d["flush"] == 0 {
				t.Errorf("a write with FUA: %v", d)
			}
			span := [2]uint64{1 << 20, 32 << 10}
			if d := changed("discard", func() error { return ioctl(f, unix.BLKDISCARD, &span) }); d["trim"] == 0 || d["write"] != 0 {
				t.Errorf("a discard: %v", d)
			}
			span = [2]uint64{1<<20 + 32<<10, 16 << 10}
			if d := changed("zeroes", func() error { return ioctl(f, unix.BLKZEROOUT, &span) }); d["write-zeroes"] == 0 || d["write"] != 0 {
				t.Errorf("zeroing: %v", d)
			}
			got := aligned(64 << 10)
			if _, err := f.ReadAt(got, 1<<20); err != nil {
				t.Fatal(err)
			}
			clear(data[:48<<10])
			if !bytes.Equal(got, data) {
				t.Error("the device has not what was written, trimmed and zeroed")
			}
		})
	}
}

func ioctl(f *os.File, request uintptr, span *[2]uint64) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(span))); e != 0 {
		return e
	}
	return nil
}

// Errors of the volume are errors to applications, and no room is no room.
func TestLoopDeviceErrors(t *testing.T) {
	s := start(t, 512)
	f := openDirect(t, s.device, 0)
	defer f.Close()
	data := aligned(4096)
	for order, want := range map[string]error{"fail disk": syscall.EIO, "fail shutdown": syscall.EIO, "fail space": syscall.ENOSPC} {
		s.tell(order)
		if _, err := f.WriteAt(data, 0); !errors.Is(err, want) {
			t.Errorf("%s: a write: %v", order, err)
		}
		if err := f.Sync(); err == nil {
			t.Errorf("%s: a flush succeeds", order)
		}
	}
	s.tell("fail disk")
	if _, err := f.ReadAt(data, 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("a read: %v", err)
	}
	s.tell("fail")
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if err := f.Sync(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// The serving process holds neither its own file nor its device, and no child of it inherits the connection.
func TestServerHoldsNothing(t *testing.T) {
	s := start(t, 512)
	pid := s.cmd.Process.Pid
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	connections := 0
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
		if strings.HasPrefix(to, s.mount) || strings.HasPrefix(to, "/dev/loop") {
			t.Errorf("the server has %s open", to)
		}
		if to != "/dev/fuse" {
			continue
		}
		connections++
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd.Name()))
		if err != nil {
			t.Fatal(err)
		}
		var flags uint64
		for _, line := range strings.Split(string(info), "\n") {
			if rest, ok := strings.CutPrefix(line, "flags:"); ok {
				if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%o", &flags); err != nil {
					t.Fatal(err)
				}
			}
		}
		if flags&unix.O_CLOEXEC == 0 {
			t.Error("/dev/fuse is inherited by children of the server")
		}
	}
	if connections != 1 {
		t.Errorf("%d connections", connections)
	}
}

// A server that is killed with requests under way dies at once, and whoever uses the device gets errors at once. The next one
// finds what it left and serves the same volume.
func TestServerKilledUnderIO(t *testing.T) {
	s := start(t, 512)
	f := openDirect(t, s.device, 0)
	defer f.Close()
	kept := aligned(4096)
	copy(kept, "written before")
	if _, err := f.WriteAt(kept, 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	s.tell("hold")
	const writers = 16
	failed := make(chan error, writers+1)
	for i := range writers {
		go func() {
			_, err := f.WriteAt(aligned(4096), int64(i)*4096)
			failed <- err
		}()
	}
	waitUntil(t, "the writes reach the device", func() bool { return s.tell("")["write"] >= writers })
	go func() { failed <- f.Sync() }()
	s.kill()
	for range writers + 1 {
		if err := soon(t, "a request of a dead server", 20*time.Second, func() error { return <-failed }); err == nil {
			t.Error("a request succeeded")
		}
	}
	soon(t, "losetup", 10*time.Second, func() error { return exec.Command("losetup", "-a").Run() })
	f.Close()
	again := startAt(t, s.image, s.mount, 512)
	g := openDirect(t, again.device, 0)
	defer g.Close()
	got := aligned(4096)
	if _, err := g.ReadAt(got, 8<<20); err != nil || !bytes.Equal(got, kept) {
		t.Errorf("after the restart: %v", err)
	}
}

// A server that hangs is cut off from outside: by Abort, which waits for nobody.
func TestAbortOfAHangingServer(t *testing.T) {
	s := start(t, 512)
	f := openDirect(t, s.device, 0)
	defer f.Close()
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 2)
	go func() { _, err := f.WriteAt(aligned(4096), 0); failed <- err }()
	go func() { failed <- f.Sync() }()
	err := soon(t, "abort", 10*time.Second, func() error { return loop.Abort(s.mount) })
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := soon(t, "a request after the abort", 20*time.Second, func() error { return <-failed }); err == nil {
			t.Error("a request succeeded")
		}
	}
	if _, err := f.ReadAt(aligned(4096), 0); err == nil {
		t.Error("a read after the abort succeeded")
	}
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if said := s.end(); said != "closed 0" {
		t.Errorf("the server says %q", said)
	}
	if err := loop.Abort(s.mount); err == nil {
		t.Error("there was something to abort")
	}
}

// A file system that is mounted when its server dies holds the loop device: that is said, nothing hangs, a new server works
// beside it, and when it is unmounted the old device goes.
func TestMountedWhenTheServerDies(t *testing.T) {
	s := start(t, 4096)
	run(t, "mkfs.ext4", "-q", s.device)
	dir := t.TempDir()
	run(t, "mount", s.device, dir)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			_ = exec.Command("umount", "--lazy", dir).Run()
		}
	})
	if err := os.WriteFile(dir+"/file", bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "sync", "-f", dir)
	holders, err := blockdev.Holders(s.device)
	if err != nil || len(holders) != 1 || holders[0].Kind != "mount" || holders[0].Mount != dir || holders[0].Type != "ext4" {
		t.Errorf("holders: %+v, %v", holders, err)
	}
	s.kill()
	again := startAt(t, s.image, s.mount, 4096)
	if again.left != 1 || again.device == s.device {
		t.Errorf("the new server has %s and found %d devices that are still held", again.device, again.left)
	}
	stale, err := loop.Stale(cleanOptions(t, s.mount), again.device)
	if err != nil || len(stale) != 1 || stale[0].Path != s.device || len(stale[0].Holders) != 1 || stale[0].Holders[0].Mount != dir {
		t.Errorf("stale: %+v, %v", stale, err)
	}
	if err := soon(t, "umount", 30*time.Second, func() error { return exec.Command("umount", dir).Run() }); err != nil {
		t.Fatalf("umount: %v", err)
	}
	mounted = false
	waitUntil(t, "the old loop device goes", func() bool {
		stale, err := loop.Stale(cleanOptions(t, s.mount), again.device)
		return err == nil && len(stale) == 0
	})
	run(t, "mount", again.device, dir)
	mounted = true
	got, err := os.ReadFile(dir + "/file")
	if err != nil || !bytes.Equal(got, bytes.Repeat([]byte("x"), 1<<20)) {
		t.Errorf("the file after the restart: %d bytes, %v", len(got), err)
	}
	run(t, "umount", dir)
	mounted = false
	run(t, "e2fsck", "-fn", again.device)
}

// A clean end leaves nothing: no mount, no loop device, no folder.
func TestCleanEnd(t *testing.T) {
	s := start(t, 512)
	if said := s.end(); said != "closed 0" {
		t.Errorf("the server says %q", said)
	}
	if _, err := os.Stat(s.mount); !os.IsNotExist(err) {
		t.Errorf("the folder: %v", err)
	}
	if _, err := os.Stat(filepath.Join("/sys/block", filepath.Base(s.device), "loop")); !os.IsNotExist(err) {
		if text, _ := os.ReadFile(filepath.Join("/sys/block", filepath.Base(s.device), "loop/backing_file")); strings.HasPrefix(string(text), s.mount) {
			t.Errorf("the loop device is still there: %s", text)
		}
	}
}
