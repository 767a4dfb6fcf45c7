package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	switchovers = flag.Int("switchovers", 30, "random switchovers of TestRandomSwitchovers")
	killMinutes = flag.Float64("kill-minutes", 0.3, "how long TestKillsCareful and TestKillsCareless kill agents, and TestAsyncTakeOverIsPrefix for a third of it")
	raceBinary  = flag.Bool("race-binary", false, "build the agents with the race detector")
	update      = flag.Bool("update", false, "write what the commands print into the README's tour")
	keep        = flag.Bool("keep", false, "keep the folders of the clusters")
)

// keelson is the path of the binary under test, built once.
var keelson string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Programs of e2fsprogs and mount are not on everybody's PATH.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	gone, err := takeAwayRemains(func(string) bool { return true })
	if err != nil {
		fmt.Fprintf(os.Stderr, "what an earlier run left could not be taken away: %v\n", err)
		return 1
	}
	if len(gone) > 0 {
		fmt.Printf("an earlier run left, taken away: %s\n", strings.Join(gone, ", "))
	}
	dir, err := os.MkdirTemp("", "ke-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays is in the machine's folder for temporary files
	keelson = filepath.Join(dir, "keelson")
	args := []string{"build", "-o", keelson}
	if *raceBinary {
		args = append(args, "-race")
	}
	build := exec.CommandContext(context.Background(), "go", append(args, "../../cmd/keelson")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build ./cmd/keelson: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}
