package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"keelson/internal/api"
)

// comments are what the source says of types ("Status") and of fields ("Status.Node").
type comments map[string]string

// read collects the comments of a package's exported types.
func read(dir string) (comments, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	c := comments{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		for _, decl := range file.Decls {
			d, ok := decl.(*ast.GenDecl)
			if !ok || d.Tok != token.TYPE {
				continue
			}
			for _, spec := range d.Specs {
				c.add(d, spec.(*ast.TypeSpec))
			}
		}
	}
	return c, nil
}

func (c comments) add(d *ast.GenDecl, t *ast.TypeSpec) {
	doc := t.Doc.Text()
	if doc == "" {
		doc = d.Doc.Text()
	}
	c[t.Name.Name] = line(doc)
	s, ok := t.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range s.Fields.List {
		for _, name := range f.Names {
			text := line(f.Comment.Text())
			if text == "" {
				text = line(f.Doc.Text())
			}
			c[t.Name.Name+"."+name.Name] = text
		}
	}
}

func line(text string) string { return strings.Join(strings.Fields(text), " ") }

// types are those that the calls need, by name.
type types struct {
	comments comments
	found    map[string]reflect.Type
}

// newTypes begins with what every answer may be.
func newTypes(c comments) *types {
	t := &types{c, map[string]reflect.Type{}}
	t.of(reflect.TypeFor[api.Error]())
	return t
}

var (
	timeType = reflect.TypeFor[time.Time]()
	rawType  = reflect.TypeFor[json.RawMessage]()
)

// of notes a type and all that it needs, and returns its name; "" for nil and for what has no name of its own.
func (t *types) of(r reflect.Type) string {
	for r != nil && (r.Kind() == reflect.Pointer || r.Kind() == reflect.Slice || r.Kind() == reflect.Map) && r != rawType {
		r = r.Elem()
	}
	if r == nil || r.Kind() != reflect.Struct || r == timeType || r.Name() == "" {
		return ""
	}
	if t.found[r.Name()] == nil {
		t.found[r.Name()] = r
		for _, f := range fields(r) {
			t.of(f.Type)
		}
	}
	return r.Name()
}

// fields are those that travel, embedded structs taken apart.
func fields(r reflect.Type) (out []reflect.StructField) {
	for i := range r.NumField() {
		f := r.Field(i)
		switch {
		case f.Anonymous && f.Tag.Get("json") == "" && f.Type.Kind() == reflect.Struct:
			out = append(out, fields(f.Type)...)
		case f.IsExported() && jsonName(f) != "-":
			out = append(out, f)
		}
	}
	return out
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "" {
		return f.Name
	}
	return name
}

func (t *types) names() []string {
	out := make([]string, 0, len(t.found))
	for name := range t.found {
		if name != "Nothing" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// describe writes one type for people.
func (t *types) describe(text *strings.Builder, name string) {
	fmt.Fprintf(text, "\n### %s\n\n%s\n\n| field | type | |\n| --- | --- | --- |\n", name, t.comments[name])
	for _, f := range fields(t.found[name]) {
		fmt.Fprintf(text, "| `%s` | %s | %s |\n", jsonName(f), t.kind(f.Type), strings.ReplaceAll(t.comments[name+"."+f.Name], "|", `\|`))
	}
}

// kind is a type in the words of JSON.
func (t *types) kind(r reflect.Type) string {
	switch {
	case r == timeType:
		return "time (RFC 3339)"
	case r == rawType:
		return "anything"
	}
	switch r.Kind() {
	case reflect.Pointer:
		return t.kind(r.Elem()) + " or null"
	case reflect.Slice:
		return "list of " + t.kind(r.Elem())
	case reflect.Map:
		return "object of " + t.kind(r.Elem())
	case reflect.Struct:
		return link(t.of(r))
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "number"
	}
	return "whole number"
}

// schemas are all types as JSON Schema.
func (t *types) schemas() map[string]any {
	out := map[string]any{}
	for name, r := range t.found {
		properties := map[string]any{}
		for _, f := range fields(r) {
			s := t.schema(f.Type)
			if text := t.comments[name+"."+f.Name]; text != "" {
				s["description"] = text
			}
			properties[jsonName(f)] = s
		}
		out[name] = map[string]any{"type": "object", "description": t.comments[name], "properties": properties}
	}
	return out
}

func (t *types) schema(r reflect.Type) map[string]any {
	switch {
	case r == timeType:
		return map[string]any{"type": "string", "format": "date-time"}
	case r == rawType:
		return map[string]any{}
	}
	switch r.Kind() {
	case reflect.Pointer:
		return map[string]any{"anyOf": []any{t.schema(r.Elem()), map[string]any{"type": "null"}}}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": t.schema(r.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": t.schema(r.Elem())}
	case reflect.Struct:
		return map[string]any{"$ref": "#/$defs/" + t.of(r)}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float32, reflect.Float64:
		return map[string]any{"type": "number"}
	}
	return map[string]any{"type": "integer"}
}
