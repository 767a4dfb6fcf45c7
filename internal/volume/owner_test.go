package volume

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"keelson/internal/intentlog"
	"keelson/internal/lineage"
	"keelson/internal/mirror"
	"keelson/internal/vfs"
)

// TestSomebodyElsesLogIsLeftAlone: a log that its opener refuses as another server's is not changed by that, nor is the copy.
func TestSomebodyElsesLogIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	o := Options{FS: vfs.OS, Dir: filepath.Join(dir, "log"), Limits: DefaultLimits, Log: slog.New(slog.DiscardHandler), Post: func(mirror.Event) {}}
	header := intentlog.Header{Cluster: "00ff00ff00ff00ff00ff00ff00ff00ff", Volume: "5f0c12ab34cd56ef5f0c12ab34cd56ef", Name: "data", Node: "a", Standing: lineage.Standing{Role: lineage.RoleTarget}}
	if _, err := Create(o, New{Header: header, Path: filepath.Join(dir, "data.img"), SizeBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	v, err := Open(o)
	if err == nil {
		err = v.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	before := files(t, dir)
	foreign := errors.New("it is another server's")
	o.Owner = func(h intentlog.Header) error {
		if h.Node != "a" || h.Cluster != "00ff00ff00ff00ff00ff00ff00ff00ff" {
			t.Errorf("asked about %+v", h)
		}
		return foreign
	}
	if _, err := Open(o); !errors.Is(err, foreign) {
		t.Fatal(err)
	}
	after := files(t, dir)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("%s was changed", name)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, there were %d", len(after), len(before))
	}
	o.Owner = nil
	if v, err = Open(o); err != nil { // it was given up whole: nothing is locked
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// files are those below dir, with what is in them.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		out[path] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
