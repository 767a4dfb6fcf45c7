// Command testreport reads the output of "go test -json", prints what a person wants to see of it (each package's
// result, the whole output of what failed, the name of what was skipped) and adds the counts to a file.
//
// It ends with 1 if anything failed, or was skipped: on a machine with everything installed no test has a reason to be.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

// line is one event of test2json.
type line struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64
}

// result counts tests: functions and their named parts.
type result struct {
	passed, failed, skipped int

	blamed map[string]bool // packages with a failed test of their own
}

func main() {
	counts := flag.String("counts", "", "file to which a line PASSED FAILED SKIPPED is added")
	flag.Parse()
	r, err := read(os.Stdin, os.Stdout)
	if err == nil && *counts != "" {
		err = add(*counts, r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
	if r.failed > 0 || r.skipped > 0 {
		fmt.Printf("%d failed, %d skipped\n", r.failed, r.skipped)
		os.Exit(1)
	}
}

// read turns events into a report on out. Output of a test is kept until the test ends, and printed only if it failed.
func read(in io.Reader, out io.Writer) (result, error) {
	r := result{blamed: map[string]bool{}}
	kept := map[string]*strings.Builder{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var l line
		if json.Unmarshal(lines.Bytes(), &l) != nil {
			fmt.Fprintln(out, lines.Text()) // what the go command itself says
			continue
		}
		key := l.Package + l.ImportPath + "\x00" + l.Test
		switch l.Action {
		case "output", "build-output":
			if kept[key] == nil {
				kept[key] = new(strings.Builder)
			}
			kept[key].WriteString(l.Output)
		case "pass", "fail", "skip", "build-fail":
			r.end(out, l, kept[key])
			delete(kept, key)
		}
	}
	return r, lines.Err()
}

// end counts and prints what ended: a test, or with an empty Test a package or a build.
func (r *result) end(out io.Writer, l line, said *strings.Builder) {
	text := ""
	if said != nil {
		text = said.String()
	}
	switch {
	case l.Action == "build-fail":
		fmt.Fprint(out, text)
	case l.Test == "" && l.Action == "fail":
		if !r.blamed[l.Package] {
			r.failed++ // a build or TestMain that failed, or a panic, has no test of its own to count
		}
		fmt.Fprintf(out, "%sFAIL  %s\n", text, l.Package)
	case l.Test == "" && l.Action == "pass":
		fmt.Fprintf(out, "ok    %s  %.1f s\n", l.Package, l.Elapsed)
	case l.Test == "":
		return // a package without tests
	case l.Action == "pass":
		r.passed++
	case l.Action == "fail":
		r.failed++
		r.blamed[l.Package] = true
		fmt.Fprint(out, text)
	default:
		r.skipped++
		fmt.Fprintf(out, "SKIP  %s %s\n%s", l.Package, l.Test, text)
	}
}

// add appends the counts to the file.
func add(path string, r result) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, r.passed, r.failed, r.skipped); err != nil {
		_ = f.Close() // the write's error says more
		return err
	}
	return f.Close()
}
