package undo

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"keelson/internal/block"
	"keelson/internal/block/blocktest"
	"keelson/internal/vfs"
)

func openStore(t testing.TB, fsys vfs.FS, o StoreOptions) *Store {
	t.Helper()
	s, err := OpenStore(fsys, testStore, o)
	must(t, err)
	return s
}

// these yields images.
func these(images ...Image) func(func(Image) error) error {
	return func(yield func(Image) error) error {
		for _, i := range images {
			if err := yield(i); err != nil {
				return err
			}
		}
		return nil
	}
}

// files collects an export.
type files struct{ content map[string]*bytes.Buffer }

func newFiles() *files { return &files{map[string]*bytes.Buffer{}} }

type oneFile struct{ *bytes.Buffer }

func (oneFile) Close() error { return nil }

func (f *files) create(name string) (io.WriteCloser, error) {
	f.content[name] = &bytes.Buffer{}
	return oneFile{f.content[name]}, nil
}

func TestTheLifeOfASalvage(t *testing.T) {
	for _, fsys := range []struct {
		name string
		fs   vfs.FS
		dir  string
	}{{"in memory", vfs.NewMem(1), testStore}, {"on the machine", vfs.OS, filepath.Join(t.TempDir(), "salvage")}} {
		t.Run(fsys.name, func(t *testing.T) {
			s, err := OpenStore(fsys.fs, fsys.dir, StoreOptions{Retention: time.Hour})
			must(t, err)
			if _, err := OpenStore(fsys.fs, fsys.dir, StoreOptions{}); !errors.Is(err, vfs.ErrInUse) {
				t.Errorf("opened twice: %v", err)
			}
			if m, err := s.Keep(salvageOf(""), these()); err != nil || m.ID != "" || len(s.List()) != 0 || s.Bytes() != 0 {
				t.Errorf("nothing to keep: %+v, %v", m, err)
			}
			m, err := s.Keep(salvageOf(""), these(batch(1, 9, 2, 3)...))
			must(t, err)
			if m.Regions != 3 || m.Bytes != 3*worldRegion || !m.Expires.Equal(m.Time.Add(time.Hour)) {
				t.Errorf("kept %+v", m)
			}
			bytes := s.Bytes()
			must(t, s.Close())
			s, err = OpenStore(fsys.fs, fsys.dir, StoreOptions{})
			must(t, err)
			if list := s.List(); len(list) != 1 || fmt.Sprint(list[0]) != fmt.Sprint(m) || s.Bytes() != bytes {
				t.Errorf("opened again: %+v, %d bytes", list, s.Bytes())
			}
			if n := len(s.Expired(m.Expires.Add(-1))); n != 0 {
				t.Error("it expires too early")
			}
			if n := len(s.Expired(m.Expires)); n != 1 {
				t.Error("it does not expire")
			}
			if _, err := s.Keep(m, these(batch(1, 1)...)); err == nil {
				t.Error("two of one id")
			}
			v, err := s.Open(m.ID)
			must(t, err)
			if got := slices.Collect(v.Regions()); !slices.Equal(got, []int64{2, 3, 9}) {
				t.Errorf("regions %v", got)
			}
			if err := s.Delete(m.ID); !errors.Is(err, ErrInUse) {
				t.Errorf("deleted while a view is open: %v", err)
			}
			must(t, v.Close())
			must(t, v.Close())
			must(t, s.Delete(m.ID))
			if _, err := s.Open(m.ID); !errors.Is(err, ErrUnknown) || s.Bytes() != 0 {
				t.Errorf("after it was deleted: %v, %d bytes", err, s.Bytes())
			}
			must(t, s.Close())
		})
	}
}

func TestRegionsThatASalvageRefuses(t *testing.T) {
	meta := salvageOf("")
	meta.SizeBytes -= 512
	short := imageOf(23, 4)
	for name, i := range map[string]Image{
		"outside": {Region: worldRegions, Zero: true}, "too long": short, "negative": {Region: -1, Zero: true}, "twice": imageOf(1, 1),
	} {
		s := openStore(t, vfs.NewMem(1), StoreOptions{})
		w, err := s.Writer(meta)
		must(t, err)
		must(t, w.Add(imageOf(1, 1)))
		if err := w.Add(i); err == nil {
			t.Errorf("%s: added", name)
		}
		if err := w.Add(imageOf(5, 1)); err == nil {
			t.Errorf("%s: more was added", name)
		}
		if _, err := w.Commit(); err == nil || len(s.List()) != 0 || s.Bytes() != 0 {
			t.Errorf("%s: committed", name)
		}
		must(t, w.Abort())
	}
	s := openStore(t, vfs.NewMem(1), StoreOptions{})
	short.Data = short.Data[:512]
	_, err := s.Keep(meta, these(short))
	must(t, err)
}

func TestRoom(t *testing.T) {
	s := openStore(t, vfs.NewMem(1), StoreOptions{})
	if left, low := s.Room(); left != math.MaxInt64 || low {
		t.Errorf("without a limit: %d, %v", left, low)
	}
	s = openStore(t, vfs.NewMem(1), StoreOptions{BytesMax: 19 << 10})
	_, err := s.Keep(salvageOf(anchorID(1)), these(batch(4, 1, 3, 4)...))
	must(t, err)
	left, low := s.Room()
	if left != 19<<10-s.Bytes() || low {
		t.Errorf("%d left, low %v", left, low)
	}
	var many []Image
	for r := range int64(worldRegions) {
		many = append(many, imageOf(r, 1))
	}
	if _, err := s.Keep(salvageOf(anchorID(2)), these(many...)); !errors.Is(err, ErrFull) {
		t.Errorf("above the limit: %v", err)
	}
	if now, _ := s.Room(); now != left || len(s.List()) != 1 {
		t.Error("something of what had no room is there")
	}
	w, err := s.Writer(salvageOf(anchorID(3)))
	must(t, err)
	must(t, w.Abort())
	_, err = s.Keep(salvageOf(anchorID(4)), these(batch(4, 1, 3, 4, 5)...))
	must(t, err)
	if _, low := s.Room(); !low {
		t.Error("the room is not low")
	}
}

// TestSalvageDiskErrors: whichever call fails, Keep says so and nothing is kept, and the next one works.
func TestSalvageDiskErrors(t *testing.T) {
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		for at := 1; ; at++ {
			fsys := vfs.NewMem(1)
			s := openStore(t, fsys, StoreOptions{})
			f := &faulty{at: at, err: fault}
			fsys.Inject(f.hook)
			_, err := s.Keep(salvageOf(anchorID(1)), these(batch(1, 1, 2, 3)...))
			fsys.Inject(nil)
			if f.calls < at {
				must(t, err)
				break
			}
			if !errors.Is(err, fault) || errors.Is(err, ErrFull) != (fault == syscall.ENOSPC) || len(s.List()) != 0 || s.Bytes() != 0 {
				t.Fatalf("call %d fails: %v; %d salvages", at, err, len(s.List()))
			}
			_, err = s.Keep(salvageOf(anchorID(2)), these(batch(1, 1, 2, 3)...))
			must(t, err)
			must(t, s.Close())
			if list := openStore(t, fsys, StoreOptions{}).List(); len(list) != 1 || list[0].ID != anchorID(2) {
				t.Fatalf("call %d failed, and later there is %+v", at, list)
			}
		}
	}
}

func TestExport(t *testing.T) {
	s := openStore(t, vfs.NewMem(1), StoreOptions{})
	meta := salvageOf(anchorID(1))
	meta.SizeBytes -= 512
	last := Image{Region: 23, Number: 9, Data: imageOf(4, 4).Data[:512]}
	images := append(batch(1, 22, 3, 10, 4), last)
	_, err := s.Keep(meta, these(images...))
	must(t, err)
	out := newFiles()
	must(t, s.Export(meta.ID, out.create))
	var m Manifest
	must(t, json.Unmarshal(out.content[ManifestFile].Bytes(), &m))
	if m.Salvage.ID != meta.ID || len(m.Runs) != 3 || len(out.content) != 4 {
		t.Fatalf("%d files: %+v", len(out.content), m)
	}
	volume := make([]byte, meta.SizeBytes)
	regions := int64(0)
	for _, run := range m.Runs {
		raw := out.content[run.File].Bytes()
		sum := sha256.Sum256(raw)
		if int64(len(raw)) != run.Length || hex.EncodeToString(sum[:]) != run.SHA256 {
			t.Errorf("%+v", run)
		}
		copy(volume[run.Offset:], raw)
		at := run.Offset
		for _, v := range run.Versions {
			if v.Offset != at {
				t.Errorf("versions have a gap at %d", at)
			}
			at += v.Length
			for ; v.Length > 0; v.Length -= worldRegion {
				k := slices.IndexFunc(images, func(i Image) bool { return i.Region == v.Offset/worldRegion })
				if i := images[k]; i.Unknown != (v.Generation == "") || i.Number != v.Number || !i.Unknown && v.Generation != i.Gen.String() {
					t.Errorf("region %d has version %+v", i.Region, v)
				}
				v.Offset += worldRegion
				regions++
			}
		}
	}
	if regions != int64(len(images)) {
		t.Errorf("%d regions", regions)
	}
	for _, i := range images {
		got := volume[i.Region*worldRegion:][:meta.lengthOf(i.Region)]
		if i.Zero != allZero(got) || !i.Zero && !bytes.Equal(got, i.Data) {
			t.Errorf("region %d is not what was kept", i.Region)
		}
	}
	broken := errors.New("broken")
	if err := s.Export(meta.ID, func(string) (io.WriteCloser, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}

// answers counts completions.
type answers struct{ n int }

func (a *answers) Complete(*block.Request) { a.n++ }
func (a *answers) Flush()                  {}

func ask(t *testing.T, dev block.Device, op block.Op, off, n int64) (*block.Buffer, error) {
	t.Helper()
	a := &answers{}
	r := &block.Request{Op: op, Off: off, Len: n, Buf: block.NewBuffer(int(n)), By: a}
	if dev.Submit([]*block.Request{r}); a.n != 1 {
		t.Fatalf("completed %d times", a.n)
	}
	return r.Buf, r.Err
}

const testExtents = "2053+1019 saved false zero false; 3072+1024 saved true zero true; 4096+1024 saved true zero false; 5120+5120 saved false zero false; "

// TestDevice: what was kept lies over the base, and over zeroes where there is none.
func TestDevice(t *testing.T) {
	s := openStore(t, vfs.NewMem(1), StoreOptions{})
	meta := salvageOf(anchorID(1))
	images := batch(1, 3, 4, 10, 22)
	_, err := s.Keep(meta, these(images...))
	must(t, err)
	v, err := s.Open(meta.ID)
	must(t, err)
	defer v.Close()
	for _, baseBytes := range []int64{0, 5 * worldRegion, 2 * worldRegions * worldRegion} {
		var base block.Device
		want := make([]byte, meta.SizeBytes)
		if baseBytes > 0 {
			base = blocktest.NewMem(baseBytes)
			buf, r := block.NewBuffer(int(baseBytes)), bytes.Repeat([]byte{0xbb}, int(baseBytes))
			copy(buf.Bytes, r)
			base.Submit([]*block.Request{{Op: block.Write, Len: baseBytes, Buf: buf, By: &answers{}}})
			copy(want, r)
		}
		for _, i := range images {
			clear(want[i.Region*worldRegion:][:worldRegion])
			copy(want[i.Region*worldRegion:], i.Data)
		}
		dev := v.Device(base)
		if dev.Size() != meta.SizeBytes {
			t.Fatalf("%d bytes", dev.Size())
		}
		for off := int64(0); off < dev.Size(); off += 397 {
			n := min(dev.Size()-off, 1+off*7%(3*worldRegion))
			buf, err := ask(t, dev, block.Read, off, n)
			must(t, err)
			if !bytes.Equal(buf.Bytes, want[off:off+n]) {
				t.Fatalf("base of %d bytes: %d bytes at %d are not as they were", baseBytes, n, off)
			}
		}
		for off := int64(0); off < dev.Size(); {
			list, err := dev.Extents(off, dev.Size()-off)
			must(t, err)
			for _, e := range list {
				if e.Zero && !allZero(want[off:off+e.Len]) {
					t.Fatalf("%d bytes at %d are said to be zero", e.Len, off)
				}
				off += e.Len
			}
		}
		for _, op := range []block.Op{block.Write, block.Zero, block.Trim} {
			if _, err := ask(t, dev, op, 0, 512); err != block.ErrReadOnly {
				t.Errorf("%s: %v", op, err)
			}
		}
		_, err := ask(t, dev, block.Flush, 0, 0)
		must(t, err)
	}
	if _, err := v.ReadAt(make([]byte, 3*worldRegion), 3*worldRegion); !errors.Is(err, ErrNotSaved) {
		t.Errorf("read what was not saved: %v", err)
	}
	var text string
	for _, e := range v.Extents(2*worldRegion+5, 10*worldRegion, 4) {
		text += fmt.Sprint(e.Off, "+", e.Len, " saved ", e.Saved, " zero ", e.Zero, "; ")
	}
	if text != testExtents {
		t.Error(text)
	}
}

// TestSalvageDamage changes one bit everywhere: it is noticed before anything wrong is given out.
func TestSalvageDamage(t *testing.T) {
	fsys := vfs.NewMem(1)
	s := openStore(t, fsys, StoreOptions{})
	meta := salvageOf(anchorID(1))
	_, err := s.Keep(meta, these(batch(1, 3, 4, 10, 22)...))
	must(t, err)
	must(t, s.Close())
	path := testStore + "/0000.salvage"
	clean := contents(t, fsys, path)
	for at := 0; at < len(clean); at += 41 {
		bad := append([]byte{}, clean...)
		bad[at] ^= 1 << (at % 8)
		put(t, fsys, path, bad)
		s := openStore(t, fsys, StoreOptions{})
		list := s.List()
		if len(list) != 1 {
			t.Fatalf("byte %d changed: %d salvages", at, len(list))
		}
		if err := s.Export(list[0].ID, newFiles().create); err == nil && !inPadding(clean, at) {
			t.Fatalf("byte %d changed, and nobody notices", at)
		}
		must(t, s.Delete(list[0].ID))
		must(t, s.Close())
	}
}

// inPadding: between the description and the footer are zeroes that mean nothing.
func inPadding(b []byte, at int) bool {
	f, err := decodeFooter("x", b[len(b)-sectorBytes:], int64(len(b)))
	return err == nil && int64(at) >= f.metaAt()+f.metaBytes && int64(at) < f.footerAt()
}

func TestTooManySalvages(t *testing.T) {
	s := openStore(t, vfs.NewMem(1), StoreOptions{})
	for n := range salvagesMax {
		_, err := s.Keep(salvageOf(anchorID(n)), these(Image{Region: 1, Zero: true}))
		must(t, err)
	}
	if _, err := s.Keep(salvageOf(""), these(Image{Region: 1, Zero: true})); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	must(t, s.Delete(anchorID(5)))
	_, err := s.Keep(salvageOf(""), these(Image{Region: 1, Zero: true}))
	must(t, err)
}
