package arch

import (
	"go/ast"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testName = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9]*`)
	link     = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)
)

// documents returns the text of every Markdown file of the project by its path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	err := walk(func(p string) error {
		if !strings.HasSuffix(p, ".md") {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, p))
		texts[p] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

// A document that names a test names one that exists.
func TestDocumentsNameExistingTests(t *testing.T) {
	exists := map[string]bool{}
	for _, f := range sources(t) {
		if !f.test {
			continue
		}
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				exists[fn.Name.Name] = true
			}
		}
	}
	for doc, text := range documents(t) {
		for _, name := range testName.FindAllString(text, -1) {
			if !exists[name] {
				t.Errorf("%s names %s, which no package has", doc, name)
			}
		}
	}
}

// Each of the ten guarantees has a row, and each row that says "held" names at least one test.
func TestEveryGuaranteeHasATest(t *testing.T) {
	text := documents(t)["docs/GUARANTEES.md"]
	for _, n := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"} {
		row := regexp.MustCompile(`(?m)^\| ` + n + ` \|.*$`).FindString(text)
		switch {
		case row == "":
			t.Errorf("docs/GUARANTEES.md has no row for guarantee %s", n)
		case !testName.MatchString(row) && !strings.Contains(row, "not yet"):
			t.Errorf("docs/GUARANTEES.md: guarantee %s names no test and does not say \"not yet\"", n)
		}
	}
}

// A link to a file of the project leads to one.
func TestDocumentsLinkToExistingFiles(t *testing.T) {
	for doc, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, path.Dir(doc), m[1])); err != nil {
				t.Errorf("%s links to %s, which is not there", doc, m[1])
			}
		}
	}
}

// Each written-down decision has a number of its own and the parts of the template.
func TestDecisionsFollowTheTemplate(t *testing.T) {
	name := regexp.MustCompile(`^docs/adr/(\d{4})-[a-z0-9-]+\.md$`)
	seen := map[string]string{}
	for doc, text := range documents(t) {
		if !strings.HasPrefix(doc, "docs/adr/") {
			continue
		}
		m := name.FindStringSubmatch(doc)
		if m == nil {
			t.Errorf("%s is not called NNNN-some-words.md", doc)
			continue
		}
		if other := seen[m[1]]; other != "" {
			t.Errorf("%s and %s have the same number", doc, other)
		}
		seen[m[1]] = doc
		for _, part := range []string{"## Context", "## Decision", "## Consequences", "## Shown by"} {
			if !strings.Contains(text, part) {
				t.Errorf("%s has no part %q", doc, part)
			}
		}
	}
}
