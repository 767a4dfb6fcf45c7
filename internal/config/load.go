package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// FileBytesMax is the longest configuration that is read.
const FileBytesMax = 1 << 20

// Problem is one thing that is wrong in a configuration.
type Problem struct {
	Line    int    // from 1; 0: of the file as a whole
	Key     string // as in "limits.sync-timeout"; "" if it is not about a key
	Message string // what is wrong and what would be right
}

// Error are all problems of one configuration file.
type Error struct {
	File     string
	Problems []Problem
}

// Error has one line for each problem: FILE:LINE: key: message.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		where := e.File
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d", e.File, p.Line)
		}
		if p.Key != "" {
			where += ": " + p.Key
		}
		lines[i] = where + ": " + p.Message
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a configuration file. Relative paths in it are meant relative to its directory. Errors about
// its content are *Error; others are those of reading the file.
func Load(path string) (*Agent, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, FileBytesMax+1))
	if err != nil {
		return nil, err
	}
	a, err := Parse(path, data)
	if err != nil {
		return nil, err
	}
	if err := a.checkFiles(path, data); err != nil {
		return nil, err
	}
	return a, nil
}

// Parse is Load without reading: the content of the file at an absolute path. It does not look whether the files named
// in it exist.
func Parse(path string, data []byte) (*Agent, error) {
	if len(data) > FileBytesMax {
		return nil, &Error{path, []Problem{{Message: fmt.Sprintf("longer than %d bytes", FileBytesMax)}}}
	}
	a := Default()
	d := toml.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(a); err != nil {
		return nil, &Error{path, decodeProblems(err)}
	}
	a.resolve(filepath.Dir(path))
	if problems := a.check(); len(problems) > 0 {
		return nil, &Error{path, locate(problems, data)}
	}
	return a, nil
}

// decodeProblems translates the decoder's errors.
func decodeProblems(err error) []Problem {
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var problems []Problem
		for _, e := range strict.Errors {
			line, _ := e.Position()
			problems = append(problems, Problem{line, strings.Join(e.Key(), "."), "unknown key: docs/keelson.toml lists all keys"})
		}
		return problems
	}
	var decode *toml.DecodeError
	if errors.As(err, &decode) {
		line, _ := decode.Position()
		return []Problem{{line, strings.Join(decode.Key(), "."), strings.TrimPrefix(decode.Error(), "toml: ")}}
	}
	return []Problem{{Message: strings.TrimPrefix(err.Error(), "toml: ")}}
}

// resolve makes the paths absolute.
func (a *Agent) resolve(dir string) {
	for _, p := range a.paths() {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for i := range a.Volumes {
		if v := &a.Volumes[i]; v.Mount != "" {
			v.Mount = filepath.Clean(v.Mount)
		}
	}
}

func (a *Agent) paths() []*string {
	paths := []*string{
		&a.State, &a.API.Socket, &a.NBD.Socket, &a.Device.Directory, &a.TLS.CA, &a.TLS.Cert, &a.TLS.Key, &a.TLS.CAKey, &a.Web.Cert, &a.Web.Key, &a.Notify.Command, &a.Hooks.Directory,
	}
	for i := range a.Volumes {
		paths = append(paths, &a.Volumes[i].Mount)
	}
	return paths
}

// locate adds the lines of the keys to problems that were found after decoding.
func locate(problems []Problem, data []byte) []Problem {
	for i := range problems {
		problems[i].Line = lineOf(data, problems[i].Key)
	}
	return problems
}

// lineOf finds the line of a key such as "limits.queue-bytes" or "peer[1].address"; 0 if the file does not have it.
// It only serves messages, so it knows tables, arrays of tables and plain keys, and not every form that TOML has.
func lineOf(data []byte, key string) int {
	table, count, seen := "", map[string]int{}, 0
	for number, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "[["); ok {
			name, _, _ = strings.Cut(name, "]]")
			name = strings.TrimSpace(name)
			table = fmt.Sprintf("%s[%d].", name, count[name])
			count[name]++
		} else if name, ok := strings.CutPrefix(line, "["); ok {
			name, _, _ = strings.Cut(name, "]")
			table = strings.TrimSpace(name) + "."
		} else if name, _, ok := strings.Cut(line, "="); ok && table+strings.TrimSpace(name) == key {
			return number + 1
		}
		if seen == 0 && table != "" && strings.HasPrefix(key, table) {
			seen = number + 1
		}
	}
	return seen
}
