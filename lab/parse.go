package lab

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v4"

	"labctl/labs"
)

// maxFile bounds a lab file, which may come from anywhere.
const maxFile = 1 << 20

// Parse reads a lab file. file is its path, for messages and for the name of a
// lab that gives none. The error is a *FileError with every mistake that the
// file has, from syntax to meaning; a Spec that is returned can be planned.
func Parse(file string, data []byte) (*Spec, error) {
	r := newReport()
	root := parseYAML(r, data)
	if root == nil {
		return nil, r.err(file, data)
	}
	s := new(Spec)
	rd := &reader{report: r, budget: maxValues}
	if !rd.readSpec(root, s) {
		return nil, r.err(file, data)
	}
	if s.Name == "" && !r.bad("name") {
		base := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
		if labName().MatchString(base) {
			s.Name = base
		}
	}
	validate(s, r)
	if err := r.err(file, data); err != nil {
		return nil, err
	}
	return s, nil
}

// ParsePolicies reads the policies of a file that has nothing else, or of a
// whole lab file. The error is a *FileError.
func ParsePolicies(file string, data []byte) (Policies, error) {
	r := newReport()
	s := new(Spec)
	if root := parseYAML(r, data); root != nil {
		rd := &reader{report: r, budget: maxValues}
		if rd.readSpec(root, s) {
			if _, ok := r.positions["policies"]; !ok {
				r.addAt(r.positions[""].value, "file has no policies", "write policies: {} to have none")
			}
			(&validator{report: r, layout: newLayout(s), names: map[string]string{}}).policyRules()
		}
	}
	if err := r.err(file, data); err != nil {
		return nil, err
	}
	return s.Policies, nil
}

// parseYAML checks the syntax and returns the file's one document, nil after a
// problem: beyond a syntax error nothing can be trusted.
func parseYAML(r *report, data []byte) *yaml.Node {
	if len(data) > maxFile {
		r.addAt(position{1, 1}, fmt.Sprintf("file has %d bytes, more than the %d that a lab file may have", len(data), maxFile), "is this a lab file?")
		return nil
	}
	if !utf8.Valid(data) {
		r.addAt(offsetPosition(data, invalidUTF8(data)), "file is not UTF-8 text", "save it as UTF-8")
		return nil
	}
	var doc yaml.Node
	if err := yaml.Load(data, &doc); err != nil {
		for _, e := range loadErrors(err) {
			at := position{e.Mark.Line, e.Mark.Column}
			if at.line == 0 {
				at = offsetPosition(data, e.Mark.Index)
			}
			if strings.Contains(e.Message, "found multiple") { // which has no mark
				at = offsetPosition(data, bytes.LastIndex(data, []byte("\n---"))+1)
			}
			syntaxProblem(r, at, e)
		}
		if len(r.problems) == 0 {
			r.addAt(position{1, 1}, "file is not YAML: "+err.Error(), "")
		}
		return nil
	}
	root := &doc
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	return root
}

// loadErrors takes apart what the YAML library returns. LoadErrors comes
// first: its As gives away only one of its errors.
func loadErrors(err error) []*yaml.LoadError {
	if all, ok := errors.AsType[*yaml.LoadErrors](err); ok {
		return all.Errors
	}
	if one, ok := errors.AsType[*yaml.LoadError](err); ok {
		return []*yaml.LoadError{one}
	}
	return nil
}

func syntaxProblem(r *report, at position, e *yaml.LoadError) {
	message, hint := strings.TrimPrefix(e.Message, "yaml: "), ""
	switch {
	case strings.Contains(message, "no documents in stream"):
		message, hint = "file is empty", "labctl show flannel-vxlan prints a lab file to begin with"
	case strings.Contains(message, "found multiple"):
		message, hint = "file has more than one document", "a lab file is one lab: remove what follows the second ---"
	case strings.Contains(message, "cannot start any token"):
		hint = "indent with spaces, not tabs, and put text with special characters in quotes"
	case strings.Contains(message, "mapping values are not allowed"):
		hint = "put text that has a colon in quotes, and check the indentation"
	case strings.Contains(message, "expected ',' or"):
		hint = "a bracket or brace is not closed"
	}
	if e.ContextMsg != "" && e.ContextMark.Line > 0 && hint != "" {
		message = fmt.Sprintf("%s, %s from line %d", message, e.ContextMsg, e.ContextMark.Line)
	}
	r.addAt(at, "syntax: "+message, hint)
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		c, size := utf8.DecodeRune(data[i:])
		if c == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(data)
}

// offsetPosition is the place of a byte.
func offsetPosition(data []byte, offset int) position {
	before := data[:min(max(offset, 0), len(data))]
	line := bytes.LastIndexByte(before, '\n') + 1
	return position{bytes.Count(before, []byte("\n")) + 1, utf8.RuneCount(before[line:]) + 1}
}

// BuiltIn reads the built-in lab called name.
func BuiltIn(name string) (*Spec, error) {
	data, err := labs.Read(name)
	if err != nil {
		return nil, err
	}
	return Parse(name+".yaml", data)
}
