package vfs

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"
)

// TestListAndRemoveAll: both file systems list names in order and remove a directory with all that is in it.
func TestListAndRemoveAll(t *testing.T) {
	for name, at := range map[string]struct {
		fs  FS
		top string
	}{"os": {OS, t.TempDir()}, "mem": {NewMem(1), "/state"}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(at.top, "volumes")
			if _, err := at.fs.List(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("a directory that is not there: %v", err)
			}
			if err := at.fs.MkdirAll(filepath.Join(dir, "b", "undo")); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"a", "b/header", "b/undo/images"} {
				f, err := at.fs.Open(filepath.Join(dir, path), Create)
				if err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := at.fs.List(dir); err != nil || !slices.Equal(got, []string{"a", "b"}) {
				t.Fatalf("listed %v, %v", got, err)
			}
			for range 2 { // what is gone is no error
				if err := at.fs.RemoveAll(filepath.Join(dir, "b")); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := at.fs.List(dir); err != nil || !slices.Equal(got, []string{"a"}) {
				t.Fatalf("afterwards %v, %v", got, err)
			}
			if _, err := at.fs.Stat(filepath.Join(dir, "b", "header")); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("a file of it: %v", err)
			}
		})
	}
}
