// Command apidoc writes the reference of the control interface from its one contract, package api: docs/API.md for
// people and docs/api.schema.json (JSON Schema) for programs. Run it in the project's folder:
//
//	go run ./tools/apidoc
//
// The calls come from the table api.Calls, the fields from the Go types by reflection, what they mean from the
// comments in the source.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"keelson/internal/api"
)

// Files, below the project's folder.
const (
	source   = "internal/api"
	markdown = "docs/API.md"
	schema   = "docs/api.schema.json"
)

func main() {
	if err := write("."); err != nil {
		fmt.Fprintln(os.Stderr, "apidoc:", err)
		os.Exit(1)
	}
}

// write writes both files below root.
func write(root string) error {
	files, err := generate(root)
	if err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(root, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the files by their name.
func generate(root string) (map[string][]byte, error) {
	comments, err := read(filepath.Join(root, source))
	if err != nil {
		return nil, err
	}
	types := newTypes(comments)
	calls := map[string]any{}
	var text strings.Builder
	text.WriteString(head)
	for _, c := range api.Calls() {
		request, item, result := types.of(c.Request), types.of(c.Item), types.of(c.Result)
		fmt.Fprintf(&text, "| `%s` | %s | %s | %s | %s | %s |\n", c.Name, c.Doc, link(request), link(item), link(result), yes(c.Changes))
		call := map[string]any{"description": c.Doc, "request": reference(request), "changes": c.Changes}
		if c.Item != nil {
			call["item"] = reference(item)
		}
		if c.Result != nil {
			call["result"] = reference(result)
		}
		calls[c.Name] = call
	}
	text.WriteString(examples)
	text.WriteString("## Types\n")
	for _, name := range types.names() {
		types.describe(&text, name)
	}
	data, err := json.MarshalIndent(map[string]any{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Keelson control interface, version 1",
		"calls": calls, "$defs": types.schemas(),
	}, "", " ")
	if err != nil {
		return nil, err
	}
	return map[string][]byte{markdown: []byte(text.String()), schema: append(data, '\n')}, nil
}

func link(name string) string {
	if name == "" || name == "Nothing" {
		return ""
	}
	return fmt.Sprintf("[%s](#%s)", name, strings.ToLower(name))
}

func reference(name string) any { return map[string]any{"$ref": "#/$defs/" + name} }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

const head = `# The control interface

Written by ` + "`go run ./tools/apidoc`" + ` from package ` + "`internal/api`" + `, the one contract of command line, page and other agents. [api.schema.json](api.schema.json) has the same as JSON Schema.

A call is ` + "`POST /v1/CALL`" + ` over HTTP, with the request as JSON (` + "`Content-Type: application/json`" + `), on the agent's local socket or, between servers, on their TLS port. Unknown fields are refused; a field that
is missing has its zero value. An answer may get more fields with time, never fewer: version 1 only grows.

* A plain call is answered by its result. A call with *items* is answered by lines of JSON: ` + "`{\"item\": ...}`" + ` for each item, at last ` + "`{\"result\": ...}`" + ` or ` + "`{\"error\": ...}`" + `; lines that end without that were cut off.
* An error is ` + "`{\"error\": ...}`" + ` ([Error](#error)); its code is the exit code of the command line, and the HTTP status follows it: 400 usage, 409 refused by a rule, 504 not finished in time, 502 not reachable, else 500.
* ` + "`Keelson-Timeout-Ms`" + ` limits a call, 15 minutes unless said. What was begun goes on when the caller goes away.
* A request has at most 1 MiB, a plain answer or a line at most 16 MiB; 256 plain calls and 64 with items may be under way at once.

| call | | request | items | result | changes |
| --- | --- | --- | --- | --- | --- |
`

// examples are run by a test as they stand, against a demo's agent.
const examples = `
## Examples

` + "```sh" + `
curl -sf --unix-socket /run/keelson/agent.sock -H 'Content-Type: application/json' -d '{}' http://keelson/v1/Status
curl -sf --unix-socket /run/keelson/agent.sock -H 'Content-Type: application/json' -d '{"limit": 5, "after": 0, "follow": false}' http://keelson/v1/Events
curl -sf --unix-socket /run/keelson/agent.sock -H 'Content-Type: application/json' -d '{"volume": "data", "to": "b", "plan": true}' http://keelson/v1/Switchover
curl -sf --unix-socket /run/keelson/agent.sock -H 'Content-Type: application/json' -d '{"volume": "data", "action": "pause", "target": "c"}' http://keelson/v1/ChangeMirror
curl -sf --unix-socket /run/keelson/agent.sock -H 'Content-Type: application/json' -d '{"volume": "data", "action": "continue", "target": "c"}' http://keelson/v1/ChangeMirror
` + "```" + `

`
