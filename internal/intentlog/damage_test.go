package intentlog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

var allFiles = []string{headerFile, mapFile, hotFile, floorFile}

// summary is all that a log says.
func summary(l *Log) string {
	h := l.Header()
	var b strings.Builder
	fmt.Fprintf(&b, "%+v %v %d %v", h, l.Floor(), l.Reserved(), l.HotExtents())
	var out []lineage.Version
	for p := range l.Pages() {
		out = l.PageVersions(p, out)
		fmt.Fprint(&b, out)
	}
	return b.String()
}

func poke(t *testing.T, fsys vfs.FS, name string, at int64, change func(byte) byte) {
	t.Helper()
	f, err := fsys.Open("/d/log/"+name, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	must(t, err)
	b[0] = change(b[0])
	_, err = f.WriteAt(b, at)
	must(t, err)
}

// TestDamageIsNeverBelieved changes bytes all over the files: Open either says that a file is damaged, where, and what to
// do, or the byte did not matter and the log says exactly what it said before.
func TestDamageIsNeverBelieved(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
	for round := range uint64(5) {
		must(t, session(l, round+1))
	}
	must(t, l.MarkHot([]int64{17}))
	must(t, l.Close())
	l = mustOpen(t, fsys)
	want := summary(l)
	must(t, l.Close())
	refused := 0
	for _, name := range allFiles {
		f, err := fsys.Open("/d/log/"+name, 0)
		must(t, err)
		size, err := f.Size()
		must(t, err)
		extents, err := f.Extents(0, size)
		must(t, err)
		must(t, f.Close())
		off := int64(0)
		for _, x := range extents {
			for at := off; !x.Hole && at < off+x.Len; at += 37 {
				flip := func(b byte) byte { return b ^ 1<<(at%8) }
				poke(t, fsys, name, at, flip)
				l, err := Open(fsys, "/d/log", Options{})
				var corrupt *CorruptError
				switch {
				case errors.As(err, &corrupt):
					refused++
					if !strings.HasSuffix(corrupt.File, name) || !strings.Contains(err.Error(), "damaged at byte") {
						t.Errorf("%s, byte %d: %v", name, at, err)
					}
				case err != nil:
					t.Errorf("%s, byte %d: %v", name, at, err)
				default:
					if got := summary(l); got != want {
						t.Errorf("%s, byte %d: it opens, and says something else:\n%s\n%s", name, at, got, want)
					}
					must(t, l.Close())
				}
				poke(t, fsys, name, at, flip)
			}
			off += x.Len
		}
	}
	if refused < 50 {
		t.Errorf("only %d changed bytes were refused", refused)
	}
}

func wantCorrupt(t *testing.T, fsys vfs.FS, about string) {
	t.Helper()
	l, err := Open(fsys, "/d/log", Options{})
	var corrupt *CorruptError
	if err == nil {
		l.Close()
	}
	if !errors.As(err, &corrupt) || !strings.Contains(err.Error(), about) {
		t.Errorf("want an error about %q, not: %v", about, err)
	}
}

func TestFilesThatAreCutOrMissingOrFromElsewhere(t *testing.T) {
	for _, name := range allFiles {
		fsys := vfs.NewMem(1)
		l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
		must(t, session(l, 1))
		must(t, l.Close())
		f, err := fsys.Open("/d/log/"+name, 0)
		must(t, err)
		size, err := f.Size()
		must(t, err)
		must(t, f.Truncate(size-sectorBytes))
		wantCorrupt(t, fsys, "bytes, not")
		must(t, f.Truncate(100))
		wantCorrupt(t, fsys, "")
		must(t, f.Close())
		other, err := Create(fsys, "/e", testHeader(1300), lineage.ZeroVersion, Options{})
		must(t, err)
		must(t, other.Close())
		must(t, fsys.Rename("/e/"+name, "/d/log/"+name))
		wantCorrupt(t, fsys, "belongs to another log")
		must(t, fsys.Remove("/d/log/"+name))
		if name != headerFile {
			wantCorrupt(t, fsys, "missing")
		}
	}
}

func TestANewerFormatIsRefused(t *testing.T) {
	for _, name := range allFiles {
		fsys := vfs.NewMem(1)
		l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
		f := map[string]vfs.File{headerFile: l.header.file, mapFile: l.mapFile, hotFile: l.hot.file, floorFile: l.floor.file}[name]
		b := encodePreamble(name, l.geometry)
		b[8] = formatVersion + 1
		resumPreamble(b)
		_, err := f.WriteAt(b, 0)
		must(t, err)
		must(t, l.Close())
		wantCorrupt(t, fsys, "was made by a newer Keelson (format 2; this one knows formats up to 1)")
	}
}

// TestAnOlderCopyOfOneFile: a file that was put back from an earlier copy is noticed.
func TestAnOlderCopyOfOneFile(t *testing.T) {
	for _, name := range []string{headerFile, mapFile} {
		fsys := vfs.NewMem(1)
		l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
		must(t, session(l, 1))
		must(t, l.Close())
		old := contents(t, fsys, name)
		l = mustOpen(t, fsys)
		must(t, session(l, 2))
		must(t, session(l, 3))
		must(t, l.Close())
		f, err := fsys.Open("/d/log/"+name, 0)
		must(t, err)
		_, err = f.WriteAt(old, 0)
		must(t, err)
		must(t, f.Close())
		wantCorrupt(t, fsys, "")
	}
}

func contents(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.Open("/d/log/"+name, vfs.ReadOnly)
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	_, err = f.ReadAt(b, 0)
	must(t, err)
	return b
}

// TestALeftoverOfACheckpointNeverBecomesTrue: a page slot of a checkpoint that was not committed has the number that the
// next one takes. That one must overwrite it.
func TestALeftoverOfACheckpointNeverBecomesTrue(t *testing.T) {
	fsys := vfs.NewMem(1)
	l := mustCreate(t, fsys, 1300, lineage.ZeroVersion)
	must(t, session(l, 1))
	before := summary(l)
	stale := slices.Repeat([]lineage.Version{lineage.MakeVersion(2, 99)}, pageRegions)
	for page := range int64(2) {
		b := encodePage(nil, stale, page, l.checkpointNumber()+1, 12345, &l.geometry.id)
		_, err := l.mapFile.WriteAt(b, pageSlotAt(page, l.freeSlot(page)))
		must(t, err)
	}
	must(t, l.Close())
	l = mustOpen(t, fsys)
	if got := summary(l); got != before {
		t.Fatalf("a leftover is believed:\n%s\n%s", got, before)
	}
	must(t, l.Checkpoint(CheckpointOptions{}))
	must(t, l.Close())
	l = mustOpen(t, fsys)
	for r := range l.Regions() {
		if l.Version(r).Number() == 99 {
			t.Fatalf("region %d has a version that no checkpoint committed", r)
		}
	}
}
