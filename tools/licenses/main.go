// Command licenses lists what the product is made of besides its own code: every Go module that is linked into the binary, with
// its version and licence, in docs/DEPENDENCIES.md. It fails on a licence that is not permissive. Run it in the project's folder:
//
//	go run ./tools/licenses
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const document = "docs/DEPENDENCIES.md"

// module is one that is linked.
type module struct {
	Path, Version, Dir string
}

// permissive licences, each by a sentence that its text has and no other's of this list before it.
var permissive = []struct{ name, sentence string }{
	{"Apache-2.0", "Apache License Version 2.0"},
	{"CC0-1.0", "CC0 1.0 Universal"},
	{"BSD-3-Clause", "may be used to endorse or promote products derived from this software"},
	{"BSD-2-Clause", "Redistributions in binary form must reproduce the above copyright notice"},
	{"MIT", "Permission is hereby granted, free of charge, to any person obtaining a copy"},
	{"ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose"},
}

func main() {
	text, err := list(".")
	if err == nil {
		err = os.WriteFile(document, []byte(text), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "licenses:", err)
		os.Exit(1)
	}
}

// list makes the document of the project in root.
func list(root string) (string, error) {
	modules, err := linked(root)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	text.WriteString("# What is linked into keelson\n\nWritten by `go run ./tools/licenses`. Every Go module of the binary with its version and licence; the licences are permissive, or the command fails.\n" +
		"Tools and libraries of tests are not in the binary; `go.mod` and `tools/*.mod` list them. `make vuln` asks the Go vulnerability database about all of them, where it can be reached.\n\n" +
		"| module | version | licence |\n| --- | --- | --- |\n")
	for _, m := range modules {
		license, err := licenseOf(m.Dir)
		if err != nil {
			return "", fmt.Errorf("module %s %s: %w", m.Path, m.Version, err)
		}
		fmt.Fprintf(&text, "| %s | %s | %s |\n", m.Path, m.Version, license)
	}
	return text.String(), nil
}

// linked asks the go command which modules the binary for Linux is made of.
func linked(root string) ([]module, error) {
	c := exec.Command("go", "list", "-deps", "-json=Module", "./cmd/keelson")
	c.Dir, c.Stderr = root, os.Stderr
	c.Env = append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	found := map[string]module{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct{ Module *module }
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if p.Module != nil && p.Module.Version != "" {
			found[p.Module.Path] = *p.Module
		}
	}
	modules := make([]module, 0, len(found))
	for _, m := range found {
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b module) int { return strings.Compare(a.Path, b.Path) })
	return modules, nil
}

// licenseOf names the licence of the module in dir.
func licenseOf(dir string) (string, error) {
	var files []string
	for _, pattern := range []string{"LICENSE*", "LICENCE*", "COPYING*", "License*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return "", err
		}
		files = append(files, found...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		words := strings.Join(strings.Fields(strings.ReplaceAll(string(text), "> ", " ")), " ") // some quote it
		for _, l := range permissive {
			if strings.Contains(words, l.sentence) {
				return l.name, nil
			}
		}
	}
	return "", fmt.Errorf("none of %q has the text of a licence that is known to be permissive", files)
}
