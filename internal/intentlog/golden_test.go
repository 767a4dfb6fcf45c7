package intentlog

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson/internal/lineage"
	"keelson/internal/vfs"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenLog is a small log that has something of everything.
func goldenLog(t *testing.T, fsys vfs.FS) string {
	h := testHeader(1300)
	h.Backing.Path = "/srv/data.img"
	o := Options{Random: rand.NewChaCha8([32]byte{'g'})}
	l, err := Create(fsys, "/d/log", h, lineage.ZeroVersion, o)
	must(t, err)
	must(t, session(l, 1))
	g, err := l.GenIndex(gen(9))
	must(t, err)
	must(t, l.Reserve(500))
	for r := int64(512); r < 700; r++ { // more runs than fit: an array
		write(t, l, r, r, lineage.MakeVersion(g, uint64(r)))
	}
	must(t, l.Save(func(h *Header) {
		h.Role = lineage.RoleSource
		h.History = lineage.History{{ID: gen(9), Term: lineage.Term{N: 1, Node: "a"}, Began: 2}}
	}))
	must(t, l.Checkpoint(CheckpointOptions{CoolAll: true}))
	must(t, l.SetFloor(lineage.Position{Gen: gen(9), Number: 700}))
	must(t, l.MarkHot([]int64{3, 324}))
	s := summary(l)
	must(t, l.Close())
	return s
}

// dump is a file as text: the lines of 32 bytes that are not zero.
func dump(b []byte) string {
	var s strings.Builder
	fmt.Fprintf(&s, "%d bytes\n", len(b))
	for at := 0; at < len(b); at += 32 {
		if line := b[at:min(at+32, len(b))]; !allZero(line) {
			fmt.Fprintf(&s, "%08x %x\n", at, line)
		}
	}
	return s.String()
}

func undump(t *testing.T, text string) []byte {
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Scan()
	var size int
	_, err := fmt.Sscanf(lines.Text(), "%d bytes", &size)
	must(t, err)
	b := make([]byte, size)
	for lines.Scan() {
		var at int
		var digits string
		_, err := fmt.Sscanf(lines.Text(), "%x %s", &at, &digits)
		must(t, err)
		line, err := hex.DecodeString(digits)
		must(t, err)
		copy(b[at:], line)
	}
	return b
}

func goldenPath(name string) string { return filepath.Join("testdata", name+".golden") }

// TestGoldenFiles: what is written is what these files have. Whoever changes them changes a format that is in use.
func TestGoldenFiles(t *testing.T) {
	fsys := vfs.NewMem(1)
	goldenLog(t, fsys)
	for _, name := range allFiles {
		got := dump(contents(t, fsys, name))
		if *update {
			must(t, os.WriteFile(goldenPath(name), []byte(got), 0o644))
		}
		want, err := os.ReadFile(goldenPath(name))
		must(t, err)
		if got != string(want) {
			t.Errorf("%s is written otherwise than %s", name, goldenPath(name))
		}
	}
}

// TestGoldenFilesAreRead: a log of this format opens for ever.
func TestGoldenFilesAreRead(t *testing.T) {
	fsys := vfs.NewMem(1)
	must(t, fsys.MkdirAll("/d/log"))
	for _, name := range allFiles {
		text, err := os.ReadFile(goldenPath(name))
		must(t, err)
		f, err := fsys.Open("/d/log/"+name, vfs.Create)
		must(t, err)
		b := undump(t, string(text))
		must(t, f.Truncate(int64(len(b))))
		for at := 0; at < len(b); at += sectorBytes {
			if s := b[at : at+sectorBytes]; !allZero(s) {
				_, err = f.WriteAt(s, int64(at))
				must(t, err)
			}
		}
		must(t, f.Close())
	}
	l := mustOpen(t, fsys)
	if h := l.Header(); h.Name != "data" || h.Role != lineage.RoleSource || h.History.Last().ID != gen(9) || h.Checkpoint != 2 {
		t.Errorf("header %+v", h)
	}
	if l.Floor() != (lineage.Position{Gen: gen(9), Number: 700}) || l.Reserved() != 500 {
		t.Errorf("floor %v, reserved %d", l.Floor(), l.Reserved())
	}
	if got := fmt.Sprint(l.HotExtents(), l.UnknownRegions()); got != "[3 324] 8" {
		t.Errorf("hot extents and unknown regions: %s", got)
	}
	if v := l.Version(600); l.GenByIndex(v.Index()) != gen(9) || v.Number() != 600 || l.Version(1000) != lineage.ZeroVersion {
		t.Errorf("region 600 has version %x", uint64(v))
	}
}
