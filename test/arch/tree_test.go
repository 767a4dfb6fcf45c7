package arch

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// module is the path in go.mod.
const module = "keelson"

// root is the checkout, seen from this package's folder, where tests run.
const root = "../.."

// file is one Go file of the project.
type file struct {
	path    string // from the root, with slashes
	pkg     string // its folder from the root
	test    bool
	lines   int
	ast     *ast.File
	imports []string
}

var goFiles = sync.OnceValues(func() ([]file, error) {
	var files []file
	set := token.NewFileSet()
	err := walk(func(path string) error {
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(set, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		f := file{path: path, pkg: filepath.ToSlash(filepath.Dir(path)), test: strings.HasSuffix(path, "_test.go"), lines: bytes.Count(src, []byte("\n")), ast: tree}
		for _, i := range tree.Imports {
			f.imports = append(f.imports, strings.Trim(i.Path.Value, `"`))
		}
		files = append(files, f)
		return nil
	})
	return files, err
})

// walk calls fn for every regular file of the project, by its path from the root.
func walk(fn func(path string) error) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "bin", "tmp", "testdata", "node_modules"}, d.Name()) && rel != "." {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return fn(filepath.ToSlash(rel))
	})
}

// sources returns every Go file of the project.
func sources(t *testing.T) []file {
	t.Helper()
	files, err := goFiles()
	if err != nil {
		t.Fatal(err)
	}
	return files
}
