package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

const root = "../.."

func TestTheReferenceIsUpToDate(t *testing.T) {
	files, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		have, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || !bytes.Equal(have, want) {
			t.Errorf("%s is not what package api says (go run ./tools/apidoc writes it): %v", name, err)
		}
	}
}

// Every reference of the schema leads somewhere.
func TestTheSchemaIsClosed(t *testing.T) {
	files, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	var s struct {
		Calls map[string]any `json:"calls"`
		Defs  map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(files[schema], &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Calls) == 0 || len(s.Defs) == 0 {
		t.Fatal("it is empty")
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				if name := ref[len("#/$defs/"):]; s.Defs[name] == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(s.Calls)
	walk(s.Defs)
}
