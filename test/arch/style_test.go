package arch

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// linesMax is the most lines of a file that is no test.
const linesMax = 500

func TestEveryPackageHasOneComment(t *testing.T) {
	comments := map[string]int{}
	for _, f := range sources(t) {
		if f.test {
			continue
		}
		comments[f.pkg] += 0
		if f.ast.Doc != nil {
			comments[f.pkg]++
		}
	}
	for pkg, n := range comments {
		if n != 1 {
			t.Errorf("%s has %d package comments, not one", pkg, n)
		}
	}
}

func TestNoVaguePackages(t *testing.T) {
	for _, f := range sources(t) {
		name := strings.TrimSuffix(f.ast.Name.Name, "_test")
		if slices.Contains(vague, name) || slices.Contains(vague, path.Base(f.pkg)) {
			t.Errorf("%s: a package called %s says nothing about what it is for", f.path, name)
		}
	}
}

func TestSmallFiles(t *testing.T) {
	for _, f := range sources(t) {
		if !f.test && f.lines > linesMax {
			t.Errorf("%s has %d lines; at most %d: does it own both state and I/O?", f.path, f.lines, linesMax)
		}
	}
}

// Unfinished work is written down as an issue, not as a mark in the code.
func TestNoUnfinishedMarks(t *testing.T) {
	mark := regexp.MustCompile(`\b(` + strings.Join([]string{"TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"}, "|") + `)\b`)
	for _, f := range sources(t) {
		for _, group := range f.ast.Comments {
			if m := mark.FindString(group.Text()); m != "" {
				t.Errorf("%s: a comment says %s", f.path, m)
			}
		}
	}
}

// No file names the host of a package registry: where modules and packages come from is each machine's own setting.
func TestNoRegistryHosts(t *testing.T) {
	hosts := []string{"proxy." + "golang.org", "sum." + "golang.org", "deb." + "debian.org", "registry." + "npmjs", "files." + "pythonhosted", "pypi" + ".org", "gop" + "roxy.io", "security." + "debian.org"}
	err := walk(func(path string) error {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		for _, host := range hosts {
			if strings.Contains(string(text), host) {
				t.Errorf("%s names %s", path, host)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
