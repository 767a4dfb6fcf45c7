package config

import (
	"bytes"
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"text/template"
)

//go:embed template.toml
var templateText string

var fileTemplate = template.Must(template.New("keelson.toml").Funcs(template.FuncMap{"quote": quote, "key": key}).Parse(templateText))

// Render writes a configuration as a commented file that Load reads as the same. Limits at their defaults are
// commented out.
func Render(a *Agent) []byte {
	var b bytes.Buffer
	if err := fileTemplate.Execute(&b, a); err != nil {
		panic(fmt.Sprintf("the template of the configuration: %v", err)) // it has no input that could make it fail
	}
	return b.Bytes()
}

// Example is the configuration that docs/keelson.toml shows: the first of three servers.
func Example() *Agent {
	a := Default()
	a.Node, a.Cluster = "a", "5f0c1e0e9b3a4c63"
	a.Listen.Address = "10.0.0.1:7401"
	a.Web.Address = "10.0.0.1:7443"
	a.Peers = []Peer{{"b", "10.0.0.2:7401"}, {"c", "10.0.0.3:7401"}}
	return a
}

// key is a line for a key that is commented out while it has its default.
func key(name string, value any, preset string) string {
	text := fmt.Sprint(value)
	line := name + " = " + text
	if _, ok := value.(int); !ok {
		line = name + " = " + quote(text)
	}
	if text == preset {
		return "# " + line
	}
	return line
}

// quote writes a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			b.WriteString(`\u00` + strconv.FormatInt(int64(r)+0x100, 16)[1:])
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
