package undo

import (
	"bufio"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"keelson/internal/vfs"
)

var update = flag.Bool("update", false, "write the golden files anew")

const testStore = "/salvage"

var goldenFiles = map[string]string{"anchor": testDir + "/anchor", "images": testDir + "/images", "salvage": testStore + "/0000.salvage"}

// golden makes a log and a salvage that have something of everything.
func golden(t *testing.T, fsys vfs.FS) {
	l := openLog(t, fsys, 0)
	must(t, l.Begin(anchorOf(anchorID(1))))
	must(t, l.Save(batch(1, 5, 2, 3)))
	must(t, l.Save([]Image{{Region: 23, Number: 9, Data: imageOf(4, 4).Data[:512]}}))
	must(t, l.BeginRollback())
	s, err := OpenStore(fsys, testStore, StoreOptions{})
	must(t, err)
	meta := salvageOf(anchorID(7))
	meta.SizeBytes -= 512
	_, err = s.Keep(meta, func(yield func(Image) error) error { return l.Each(yield) })
	must(t, err)
	must(t, l.Close())
	must(t, s.Close())
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
	golden(t, fsys)
	for name, path := range goldenFiles {
		got := dump(contents(t, fsys, path))
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

// TestGoldenFilesAreRead: what has this format opens for ever.
func TestGoldenFilesAreRead(t *testing.T) {
	fsys := vfs.NewMem(1)
	for name, path := range goldenFiles {
		text, err := os.ReadFile(goldenPath(name))
		must(t, err)
		put(t, fsys, path, undump(t, string(text)))
	}
	l := openLog(t, fsys, 0)
	if !l.Rolling() || l.Anchor().Reason != "resync from b" {
		t.Errorf("anchor %+v", l.Anchor())
	}
	want := append(batch(1, 5, 2, 3), Image{Region: 23, Number: 9, Data: imageOf(4, 4).Data[:512]})
	wantImages(t, l, want)
	s, err := OpenStore(fsys, testStore, StoreOptions{})
	must(t, err)
	if list := s.List(); len(list) != 1 || list[0].Regions != 4 || list[0].Damaged != "" {
		t.Errorf("salvages %+v", list)
	}
	must(t, s.Export(anchorID(7), newFiles().create))
}

// TestNewerFormatsAreRefused: they say so, and not that something is damaged.
func TestNewerFormatsAreRefused(t *testing.T) {
	for name, path := range goldenFiles {
		fsys := vfs.NewMem(1)
		golden(t, fsys)
		b := contents(t, fsys, path)
		switch name {
		case "anchor":
			b[8] = 9
			putSum(b[508:], checksum(b[:508]))
		case "images":
			b[4] = 9
			putSum(b[508:], checksum(b[:508]))
		case "salvage":
			foot := b[len(b)-sectorBytes:]
			foot[8] = 9
			putSum(foot[508:], checksum(foot[:508]))
		}
		put(t, fsys, path, b)
		_, err := Open(fsys, testDir, Options{RegionBytes: worldRegion})
		if name == "salvage" {
			s, serr := OpenStore(fsys, testStore, StoreOptions{})
			must(t, serr)
			err = fmt.Errorf("%s", s.List()[0].Damaged)
		}
		if err == nil || !strings.Contains(err.Error(), "newer Keelson") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
