package volume

import (
	"bytes"
	"errors"
	"strings"
	"syscall"
	"testing"

	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

// exchange puts an older copy of the backing store in its place, as somebody does who restores a backup: in place, or as another file.
func (s *server) exchange(older []byte, inPlace bool) {
	s.t.Helper()
	if !inPlace {
		if err := s.fs.Remove("/s/data.img"); err != nil {
			s.t.Fatal(err)
		}
	}
	f, err := s.fs.Open("/s/data.img", vfs.Create)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = f.WriteAt(older, 0)
	if err = errors.Join(err, f.Datasync(), f.Close(), s.fs.SyncDir("/s")); err != nil {
		s.t.Fatal(err)
	}
}

// TestSourceOnAnotherStore: what is under a source is not what it left. It says so, until a generation begins on it; what the targets
// have of the generations before is not taken for what this one has, and goes to a salvage.
func TestSourceOnAnotherStore(t *testing.T) {
	for _, inPlace := range []bool{true, false} {
		a, b := newServer(t, "a", 1<<20), newServer(t, "b", 1<<20)
		a.serve(1)
		connect(a, b, lineage.Member{})
		put(t, a.v, 0, random(1, 300<<10))
		older := content(t, a)
		put(t, a.v, 0, random(2, 300<<10))
		flush(t, a.v)
		lost := content(t, b)
		if a.v.Own().Foreign {
			t.Error("it is what it always was")
		}
		a.close()
		a.exchange(older, inPlace)
		for range 2 { // a start that begins nothing changes nothing
			a.open()
			if !a.v.Own().Foreign {
				t.Error("another store was not noticed")
			}
			a.close()
		}
		a.open()
		if err := a.v.BecomeSource(a.v.Header().Standing, true); err != nil {
			t.Fatal(err)
		}
		a.v.OpenDevice()
		connect(a, b, lineage.Member{})
		same(t, a, b)
		if !bytes.Equal(content(t, b), older) {
			t.Error("the target has something else than its source")
		}
		if a.v.Own().Foreign || b.v.Own().Foreign {
			t.Error("it is in a history now")
		}
		kept := b.v.Salvages()
		if len(kept) != 1 {
			t.Fatalf("%d salvages of what the target gave up", len(kept))
		}
		view, err := b.v.OpenSalvage(kept[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 300<<10&^(testRegion-1))
		if _, err := view.ReadAt(got, 0); err != nil || !bytes.Equal(got, lost[:len(got)]) {
			t.Errorf("the salvage has something else (%v)", err)
		}
		view.Close()
		b.close()
	}
}

// TestAnotherStoreAndCrashes: a start that finds another store is cut off at each of its writes; the next one knows it all the same.
func TestAnotherStoreAndCrashes(t *testing.T) {
	for n := 1; ; n++ {
		a := newServer(t, "a", 1<<20)
		a.serve(1)
		put(t, a.v, 0, random(1, 300<<10))
		older := content(t, a)
		put(t, a.v, 0, random(2, 300<<10))
		a.close()
		a.exchange(older, true)
		left := n
		a.fs.Inject(func(op, path string, _ int64, _ int) error {
			if op != "write" && op != "sync" || !strings.HasPrefix(path, "/s/log/") {
				return nil
			}
			if left--; left <= 0 {
				return syscall.EIO
			}
			return nil
		})
		v, err := Open(a.options())
		a.fs.Inject(nil)
		if err == nil {
			if err := v.Close(); err != nil {
				t.Error(err)
			}
			if n < 5 {
				t.Errorf("it made only %d writes", n)
			}
			return
		}
		a.fs.CrashPower()
		a.open()
		if !a.v.Own().Foreign || a.v.log.UnknownRegions() != a.v.regions {
			t.Fatalf("cut off at write %d: foreign %v, %d regions are unknown", n, a.v.Own().Foreign, a.v.log.UnknownRegions())
		}
		a.close()
	}
}

// TestSameStore: numbers of devices change with each start of a machine, the names that disks and file systems have do not.
func TestSameStore(t *testing.T) {
	device := vfs.Identity{Kind: vfs.KindDevice, Dev: 1, Size: 8, Disk: "wwid x"}
	file := vfs.Identity{Kind: vfs.KindFile, Dev: 1, Inode: 2, Size: 8, ChangeTime: 9, Disk: "fs 1"}
	with := func(id vfs.Identity, change func(*vfs.Identity)) vfs.Identity { change(&id); return id }
	for _, c := range []struct {
		what        string
		was, is     vfs.Identity
		clean, kill bool // whether it is the same after a clean stop, and after another one
	}{
		{"the same disk", device, device, true, true},
		{"another number, the same disk", device, with(device, func(i *vfs.Identity) { i.Dev = 7 }), true, true},
		{"the same number, another disk", device, with(device, func(i *vfs.Identity) { i.Disk = "wwid y" }), false, false},
		{"a disk that has no name any more", device, with(device, func(i *vfs.Identity) { i.Disk = "" }), true, true},
		{"another number, and no name", device, with(device, func(i *vfs.Identity) { i.Dev, i.Disk = 7, "" }), false, false},
		{"the same file", file, file, true, true},
		{"another number of the file system's disk", file, with(file, func(i *vfs.Identity) { i.Dev = 7 }), true, true},
		{"another file system of the same number", file, with(file, func(i *vfs.Identity) { i.Disk, i.ChangeTime = "fs 2", 10 }), false, false},
		{"a file that was changed", file, with(file, func(i *vfs.Identity) { i.ChangeTime = 10 }), false, true},
		{"another file", file, with(file, func(i *vfs.Identity) { i.Inode = 3 }), false, false},
		{"a file in place of a device", device, file, false, false},
	} {
		for clean, want := range map[bool]bool{true: c.clean, false: c.kill} {
			h := intentlog.Header{Backing: intentlog.Backing{Identity: c.was}}
			h.Backing.Identity.Disk = "" // as it comes from the log
			if !clean {
				h.Backing.Identity.ChangeTime = 0
			}
			setExtra(&h, extraDisk, c.was.Disk)
			if got := sameStore(h, h.Backing.Identity, clean, c.is); got != want {
				t.Errorf("%s, clean %v: same is %v", c.what, clean, got)
			}
		}
	}
}
