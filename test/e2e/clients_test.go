package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// Clients that others wrote use a volume with two mirrors; afterwards all copies are the same.
func TestClients(t *testing.T) {
	c := demo(t, "128MiB")
	uri, err := c.address("a")
	if err != nil {
		t.Fatal(err)
	}
	whole := filepath.Join(c.dir, "whole.img")

	t.Run("nbdinfo", func(t *testing.T) {
		var info struct {
			Exports []struct {
				Size     int64 `json:"export-size"`
				ReadOnly bool  `json:"is_read_only"`
				Flush    bool  `json:"can_flush"`
				FUA      bool  `json:"can_fua"`
				Trim     bool  `json:"can_trim"`
				Zero     bool  `json:"can_zero"`
				Multi    bool  `json:"can_multi_conn"`
				Contexts []string
			} `json:"exports"`
		}
		if err := json.Unmarshal([]byte(sh(t, "nbdinfo", "--json", uri)), &info); err != nil {
			t.Fatal(err)
		}
		if len(info.Exports) != 1 {
			t.Fatalf("%d exports", len(info.Exports))
		}
		e := info.Exports[0]
		if e.Size != 128*mib || e.ReadOnly || !e.Flush || !e.FUA || !e.Trim || !e.Zero || !e.Multi {
			t.Errorf("%+v", e)
		}
		if !strings.Contains(sh(t, "nbdinfo", "--list", uri), "data") {
			t.Error("the list of exports lacks data")
		}
		sh(t, "nbdinfo", "--map", uri)
	})
	t.Run("nbdcopy with many connections", func(t *testing.T) {
		sh(t, "mkfs.ext4", "-q", "-F", "-d", "../../internal", whole, "128M")
		sh(t, "nbdcopy", "--connections=8", "--requests=64", "--flush", whole, uri)
		back := filepath.Join(c.dir, "back.img")
		sh(t, "nbdcopy", "--connections=8", uri, back)
		sh(t, "cmp", whole, back)
	})
	t.Run("nbdfuse", func(t *testing.T) {
		file, end := c.fuse("a")
		defer end()
		sh(t, "e2fsck", "-fn", file)
	})
	t.Run("qemu-img", func(t *testing.T) {
		sh(t, "qemu-img", "info", uri)
		sh(t, "qemu-img", "map", "--output=json", uri)
		sh(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", whole, uri)
		sh(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-m", "8", "-W", whole, uri)
		sh(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", whole, uri)
	})
	t.Run("qemu-io", func(t *testing.T) {
		out := sh(t, "qemu-io", "-f", "raw", "-c", "write -P 0x5a 64M 1M", "-c", "write -f -P 0xa5 65M 64k", "-c", "write -z 66M 1M",
			"-c", "write -z -u 67M 1M", "-c", "discard 68M 1M", "-c", "flush", "-c", "read -P 0x5a 64M 1M", "-c", "read -P 0xa5 65M 64k",
			"-c", "read -P 0 66M 3M", "-c", "aio_write -P 1 70M 1M", "-c", "aio_write -P 2 71M 1M", "-c", "aio_flush", "-c", "read -P 2 71M 1M", uri)
		if strings.Contains(out, "verification failed") || strings.Contains(out, "rror") {
			t.Error(out)
		}
	})
	t.Run("fio", func(t *testing.T) {
		c.fio("a", "--rw=randwrite", "--bs=4k", "--size=16m", "--iodepth=32", "--verify=crc32c")
		c.fio("a", "--rw=randwrite", "--bs=512-256k", "--blockalign=512", "--offset=32m", "--size=32m", "--iodepth=16", "--verify=crc32c", "--fsync=32", "--serialize_overlap=1")
	})
	t.Run("many requests, each of 32 MiB", func(t *testing.T) {
		d, err := dial(uri)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		data := bytes.Repeat([]byte("0123456789abcdef"), 32*mib/16)
		if _, err := d.WriteAt(data, 64*mib); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(data))
		if _, err := d.ReadAt(got, 64*mib); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read back: %v", err)
		}
	})
	t.Run("a target exports nothing", func(t *testing.T) {
		socket := strings.Replace(uri, "/a/", "/b/", 1)
		if d, err := dial(socket); err == nil {
			_ = d.Close()
			t.Error("a target let a client in")
		}
	})
	t.Run("a client that speaks something else", func(t *testing.T) {
		conn, err := net.Dial("unix", uri[strings.Index(uri, "socket=")+len("socket="):])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write([]byte(strings.Repeat("GET / HTTP/1.1\r\n", 64))) // the server may have hung up already
		if err := readsOneBlock(uri); err != nil {
			t.Errorf("another client is not served any more: %v", err)
		}
	})
	c.waitMirroring("a", "b", "c")
	c.same()
}

// readsOneBlock connects, reads and leaves.
func readsOneBlock(uri string) error {
	d, err := dial(uri)
	if err != nil {
		return err
	}
	_, err = d.ReadAt(make([]byte, blockBytes), 0)
	return errors.Join(err, d.Close())
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
