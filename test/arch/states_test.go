package arch

import (
	"flag"
	"fmt"
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	rules "keelson/internal/lineage"
)

var update = flag.Bool("update", false, "write the table of rules into docs/admin/states.md")

const statesPage = "docs/admin/states.md"

// The administrator's page has the table of rules as package lineage has it.
func TestStatesPageHasTheTableOfRules(t *testing.T) {
	want := "| rule | means | what to do |\n| --- | --- | --- |\n"
	for _, r := range rules.Rules {
		next := r.Next
		if next == "" {
			next = "nothing"
		}
		want += fmt.Sprintf("| `%s` | %s | %s |\n", r.Name, r.Meaning, regexp.MustCompile(`keelson [a-z-]+( [a-z-]+)*(?: [A-Z]+| --[a-z-]+(?: [A-Z]+(?::[A-Z]+)?)?)*`).ReplaceAllString(next, "`$0`"))
	}
	file := filepath.Join(root, statesPage)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)(<!-- rules: [^\n]*-->\n)(.*?)(<!-- end of rules -->)`)
	found := table.FindSubmatch(text)
	switch {
	case found == nil:
		t.Fatalf("%s has no place for the table of rules", statesPage)
	case *update:
		if err := os.WriteFile(file, table.ReplaceAll(text, []byte("${1}"+strings.ReplaceAll(want, "$", "$$")+"${3}")), 0o644); err != nil {
			t.Fatal(err)
		}
	case string(found[2]) != want:
		t.Errorf("%s has another table of rules than internal/lineage/rules.go; make golden writes it", statesPage)
	}
}

// Every state of a mirror and of a volume and every rule of another package has a line on that page, and the page names no other.
func TestStatesPageListsWhatThereIs(t *testing.T) {
	text := documents(t)[statesPage]
	listed := map[string]bool{} // in the first column
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(text, -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1) {
			listed[name[1]] = true
		}
	}
	exist := map[string]bool{}
	for _, f := range sources(t) {
		if f.test || !strings.HasPrefix(f.path, "internal/") {
			continue
		}
		for name := range namedRules(f.ast) {
			exist[name] = true
		}
		if f.path == "internal/mirror/view.go" || f.path == "internal/node/status.go" {
			for _, s := range states(f.ast) {
				exist[s] = true
			}
		}
	}
	if len(exist) < 60 {
		t.Errorf("only %d states and rules were found: the test looks in the wrong place", len(exist))
	}
	for name := range exist {
		if prefix, _, _ := strings.Cut(name, "-"); !listed[name] && !listed[prefix+"-*"] {
			t.Errorf("%s does not say what %s is and what to do about it", statesPage, name)
		}
	}
	for name := range listed {
		if !exist[name] && !strings.HasSuffix(name, "-*") {
			t.Errorf("%s explains %s, which does not exist", statesPage, name)
		}
	}
}

// namedRules are the values of constants that are called ruleX or RuleX.
func namedRules(f *ast.File) map[string]bool {
	found := map[string]bool{}
	called := regexp.MustCompile(`^[rR]ule[A-Z]`)
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		for i := 0; ok && i < len(spec.Names) && i < len(spec.Values); i++ {
			if value, isText := text(spec.Values[i]); isText && called.MatchString(spec.Names[i].Name) {
				found[value] = true
			}
		}
		return true
	})
	return found
}

// states are the values of constants of type State, and what a function stateOf returns.
func states(f *ast.File) (found []string) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ValueSpec:
			if id, ok := n.Type.(*ast.Ident); ok && id.Name == "State" && len(n.Values) == 1 {
				if value, isText := text(n.Values[0]); isText {
					found = append(found, value)
				}
			}
		case *ast.FuncDecl:
			if n.Name.Name != "stateOf" {
				return false
			}
		case *ast.ReturnStmt:
			if len(n.Results) == 1 {
				if value, isText := text(n.Results[0]); isText {
					found = append(found, value)
				}
			}
		}
		return true
	})
	slices.Sort(found)
	return slices.Compact(found)
}

func text(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(lit.Value)
	return value, err == nil
}
