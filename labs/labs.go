// Package labs has the built-in labs: one commented YAML file each, written
// for people who learn, and the JSON schema that editors complete lab files
// with. Commands read them by name; package lab parses them.
//
// The files are data, not code: a test parses every one of them, and the
// schema (lab.schema.json) is made from package lab's types by
//
//	go test ./labs -update
package labs

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// files has no wildcard for everything: what is not a lab stays out.
//
//go:embed *.yaml
var files embed.FS

// ErrUnknown is the error of Read for a name that no built-in lab has.
var ErrUnknown = errors.New("no such built-in lab")

// Lab is a built-in lab's line in a list.
type Lab struct {
	Name  string `json:"name"`
	About string `json:"about"`
}

// Names are the names of the built-in labs, sorted.
func Names() []string {
	entries, err := fs.Glob(files, "*.yaml")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for i, e := range entries {
		entries[i] = strings.TrimSuffix(e, path.Ext(e))
	}
	return entries
}

// Read returns the file of a built-in lab. For an unknown name the error wraps
// ErrUnknown and tells the names that there are.
func Read(name string) ([]byte, error) {
	data, err := files.ReadFile(name + ".yaml")
	if err == nil {
		return data, nil
	}
	hint := "the built-in labs are " + strings.Join(Names(), ", ")
	for _, n := range Names() {
		if len(name) > 2 && (strings.Contains(n, name) || strings.Contains(name, n)) {
			hint = "did you mean " + n + "? " + hint
			break
		}
	}
	return nil, fmt.Errorf("lab %q: %w; %s", name, ErrUnknown, hint)
}

// All lists the built-in labs, sorted by name.
func All() []Lab {
	var labs []Lab
	for _, name := range Names() {
		data, err := Read(name)
		if err != nil {
			panic(err) // embedded
		}
		labs = append(labs, Lab{Name: name, About: about(string(data))})
	}
	return labs
}

// about finds a lab's summary without parsing the file: this package knows
// nothing of package lab, which may come to use it.
func about(data string) string {
	for line := range strings.Lines(data) {
		if text, ok := strings.CutPrefix(line, "about:"); ok {
			return strings.TrimSpace(text)
		}
	}
	return ""
}
