package webtest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

var shots = flag.String("shots", "", "a folder for pictures of each view")

// keelson is the path of the binary under test, built once.
var keelson string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kw-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays is in the machine's folder for temporary files
	keelson = filepath.Join(dir, "keelson")
	if out, err := exec.CommandContext(context.Background(), "go", "build", "-o", keelson, "../../cmd/keelson").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build ./cmd/keelson: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
