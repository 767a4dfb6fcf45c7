package nbd_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson/internal/block/blocktest"
	"keelson/internal/frontend/nbd"
)

const mib = 1 << 20

func TestNbdinfo(t *testing.T) {
	r := start(t, blocktest.NewMem(8*mib), nbd.Options{})
	if err := r.AddExport("other", blocktest.NewMem(mib), nbd.ExportOptions{ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	var info struct {
		TLS        bool
		Structured bool
		Exports    []map[string]any
	}
	text := output(t, "nbdinfo", "--json", r.unix())
	if err := json.Unmarshal([]byte(text), &info); err != nil || len(info.Exports) != 1 {
		t.Fatalf("%v: %s", err, text)
	}
	for key, want := range map[string]any{
		"export-name": "data", "description": "a volume for tests", "export-size": float64(8 * mib), "is_read_only": false,
		"can_flush": true, "can_fua": true, "can_trim": true, "can_zero": true, "can_fast_zero": false, "can_df": true,
		"can_multi_conn": true, "can_cache": false, "is_rotational": false,
		"block_size_minimum": 1.0, "block_size_preferred": 4096.0, "block_size_maximum": float64(32 * mib),
	} {
		if got := info.Exports[0][key]; got != want {
			t.Errorf("%s is %v, not %v", key, got, want)
		}
	}
	if !info.Structured || info.TLS {
		t.Errorf("structured replies or TLS: %s", text)
	}
	contains(t, text, "base:allocation")
	contains(t, output(t, "nbdinfo", "--list", "nbd://"+r.tcp), `export="data"`, `export="other"`, "is_read_only: true", "can_trim: false")
	contains(t, failing(t, "nbdinfo", r.export("nowhere")), "No such file or directory for export: nowhere")
	contains(t, failing(t, "nbdinfo", r.export("")), "No such file or directory for the default export")
	contains(t, failing(t, "qemu-img", "info", r.export("nowhere")),
		`no export "nowhere" is served here: list the exports, or look for its source`)
	if err := r.RemoveExport("other"); err != nil {
		t.Fatal(err)
	}
	if got := output(t, "nbdinfo", "--size", r.export("")); got != "8388608\n" {
		t.Errorf("the empty name means the only export: %q", got)
	}
	c := r.dial(t)
	if _, err := c.WriteAt(make([]byte, 100), mib); err != nil {
		t.Fatal(err)
	}
	if got := output(t, "nbdinfo", "--map", r.unix()); got != ""+
		"         0     1048576    3  hole,zero\n"+
		"   1048576       65536    0  data\n"+
		"   1114112     7274496    3  hole,zero\n" {
		t.Errorf("the map is\n%s", got)
	}
}

func TestNbdcopy(t *testing.T) {
	r := start(t, blocktest.NewMem(24*mib), nbd.Options{})
	path, content := image(t, 24*mib)
	back := filepath.Join(t.TempDir(), "back")
	output(t, "nbdcopy", "--connections=8", "--requests=64", "--flush", path, r.unix())
	output(t, "nbdcopy", "--connections=8", "--requests=64", r.unix(), back)
	sameFile(t, back, content)
	output(t, "nbdcopy", "--synchronous", "--request-size=4194304", "nbd://"+r.tcp+"/data", back)
	sameFile(t, back, content)
}

func TestNbdfuse(t *testing.T) {
	r := start(t, blocktest.NewMem(8*mib), nbd.Options{})
	path, content := image(t, 8*mib)
	mount := t.TempDir()
	pid := filepath.Join(t.TempDir(), "pid")
	fuse := tool(t, "nbdfuse", "--connections=4", "--pidfile="+pid, mount+"/disk", r.unix())
	if err := fuse.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := tool(t, "fusermount3", "-u", mount).CombinedOutput(); err != nil {
			t.Errorf("unmount: %v\n%s", err, out)
			tool(t, "fusermount3", "-u", "-z", mount).Run()
		}
		if err := fuse.Wait(); err != nil {
			t.Errorf("nbdfuse: %v", err)
		}
	})
	waitFor(t, "nbdfuse's pid file", func() bool { _, err := os.Stat(pid); return err == nil })
	f, err := os.OpenFile(mount+"/disk", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	sameFile(t, mount+"/disk", content)
	output(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, r.unix())
}

func TestQemuImg(t *testing.T) {
	r := start(t, blocktest.NewMem(24*mib), nbd.Options{})
	path, content := image(t, 24*mib)
	back := filepath.Join(t.TempDir(), "back")
	contains(t, output(t, "qemu-img", "info", "-f", "raw", r.unix()), "virtual size: 24 MiB (25165824 bytes)")
	output(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "16", path, r.unix())
	contains(t, output(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", path, r.unix()), "Images are identical.")
	contains(t, output(t, "qemu-img", "map", "-f", "raw", "--output=json", r.unix()),
		`{ "start": 65536, "length": 65536, "depth": 0, "present": true, "zero": true, "data": false`)
	output(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", r.unix(), back)
	sameFile(t, back, content)
}

func TestQemuIO(t *testing.T) {
	dev := blocktest.NewMem(64 * mib)
	r := start(t, dev, nbd.Options{})
	before := dev.Flushes()
	text := output(t, "qemu-io", "-f", "raw", "-t", "writeback",
		"-c", "write -P 0x11 0 33M", "-c", "write -P 0x22 1M 511", "-c", "write -f -P 0x33 2M 64k", "-c", "flush",
		"-c", "write -z 4M 1M", "-c", "write -z -u 6M 1M", "-c", "discard 8M 3M", "-c", "write -z -f 12M 4k",
		"-c", "aio_write -P 0x44 16M 1M", "-c", "aio_write -P 0x55 17M 1M", "-c", "aio_flush",
		"-c", "read -P 0x11 0 1M", "-c", "read -P 0x22 1M 511", "-c", "read -P 0x11 1049087 257", "-c", "read -P 0x33 2M 64k",
		"-c", "read -P 0 4M 1M", "-c", "read -P 0 6M 1M", "-c", "read -P 0 8M 3M", "-c", "read -P 0 12M 4k",
		"-c", "read -P 0x44 16M 1M", "-c", "read -P 0x55 17M 1M", "-c", "read -P 0x11 18M 15M", r.unix())
	contains(t, text, "discard 3145728/3145728 bytes", "read 15728640/15728640 bytes")
	for _, bad := range []string{"failed", "rror", "verification"} {
		if strings.Contains(text, bad) {
			t.Errorf("qemu-io says %q:\n%s", bad, text)
		}
	}
	if dev.Flushes() == before {
		t.Error("no flush arrived at the device")
	}
}

func TestFio(t *testing.T) {
	r := start(t, blocktest.NewMem(32*mib), nbd.Options{})
	common := []string{"--ioengine=nbd", "--uri=" + r.unix(), "--verify=crc32c", "--verify_fatal=1", "--verify_dump=0",
		"--verify_state_save=0"}
	output(t, "fio", append(common, "--name=j", "--rw=randwrite", "--bs=4k", "--size=16m", "--iodepth=32", "--fsync=16")...)
	output(t, "fio", append(common, "--name=j", "--rw=randwrite", "--bsrange=512-128k", "--bs_unaligned", "--numjobs=4", "--thread",
		"--size=4m", "--offset_increment=8m", "--iodepth=16", "--fsync=32", "--verify_backlog=64")...)
	output(t, "fio", append(common, "--name=j", "--rw=randrw", "--bs=64k", "--size=16m", "--iodepth=8", "--do_verify=1")...)
}
