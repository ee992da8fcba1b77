package lab

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Problem is one mistake in a lab file.
type Problem struct {
	Line, Column int    // from 1, columns count characters; 0 for a Spec that came from no file
	Message      string // object first: node1: address 10.0.0.1 is outside segment lan
	Hint         string // how to mend it, "" when the message says it all
}

// String is the message with its hint.
func (p Problem) String() string {
	if p.Hint == "" {
		return p.Message
	}
	return p.Message + "; " + p.Hint
}

// FileError is everything that is wrong with a lab file, in the file's order.
type FileError struct {
	File     string // as it was given to Parse; "" for a Spec that came from no file
	Problems []Problem

	source []byte
}

// maxProblems bounds what is reported of a file that is wrong throughout.
const maxProblems = 100

// Error prints each problem on a line of its own, file:line:column: what, and
// how to mend it.
func (e *FileError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(e.where(p))
		b.WriteString(p.String())
	}
	return b.String()
}

// Excerpt is Error with the line of the file and a caret under each problem.
func (e *FileError) Excerpt() string {
	lines := sourceLines(e.source)
	var b strings.Builder
	for _, p := range e.Problems {
		fmt.Fprintf(&b, "%s%s\n", e.where(p), p)
		if p.Line < 1 || p.Line > len(lines) {
			continue
		}
		line, column := clip(lines[p.Line-1], p.Column)
		number := fmt.Sprintf("%5d", p.Line)
		fmt.Fprintf(&b, "%s | %s\n%s | %s^\n", number, line, strings.Repeat(" ", len(number)), strings.Repeat(" ", column-1))
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func (e *FileError) where(p Problem) string {
	switch {
	case p.Line > 0:
		return fmt.Sprintf("%s:%d:%d: ", e.File, p.Line, p.Column)
	case e.File != "":
		return e.File + ": "
	}
	return ""
}

// clip makes a line fit a terminal: characters that do not show (tabs too, so
// that the caret stands right) become spaces, and a long line is cut round the column.
func clip(line string, column int) (string, int) {
	const width = 100
	runes := []rune(strings.ToValidUTF8(line, "?"))
	for i, r := range runes {
		if !unicode.IsGraphic(r) {
			runes[i] = ' '
		}
	}
	column = min(max(column, 1), len(runes)+1)
	if start := column - 1 - width*3/4; start > 0 {
		runes, column = runes[start:], column-start
	}
	return string(runes[:min(len(runes), width)]), column
}

// sourceLines splits as a YAML reader counts lines: at \n, \r\n and \r.
func sourceLines(source []byte) []string {
	text := strings.ReplaceAll(string(source), "\r\n", "\n")
	return strings.Split(strings.ReplaceAll(text, "\r", "\n"), "\n")
}

// position is a place in a file. The zero position is unknown.
type position struct{ line, column int }

// place is where a value stands in the file, and its key if it has one.
type place struct {
	key, value position
	scalar     bool
}

// positions are the places of a file's values by path: nodes.node1.containers[0].address.
type positions map[string]place

// find is where a problem with the value at path is shown: at a scalar itself,
// at the key of anything bigger, and for a value that the file does not have
// at the nearest one around it.
func (ps positions) find(path string) position {
	for {
		if p, ok := ps[path]; ok {
			if p.scalar || p.key == (position{}) {
				return p.value
			}
			return p.key
		}
		if path == "" {
			return position{}
		}
		path = parent(path)
	}
}

// report collects problems by path.
type report struct {
	positions positions
	unread    map[string]bool // paths of values that could not be read, and of all that they are part of
	unformed  map[string]bool // paths of values of the wrong kind, whose parts are unknown
	problems  []Problem
	dropped   int
}

func newReport() *report {
	return &report{positions: positions{}, unread: map[string]bool{}, unformed: map[string]bool{}}
}

// bad says whether the value at path, or a part of it, could not be read, so
// that it is not reported as missing too.
func (r *report) bad(path string) bool {
	if r.unread[path] {
		return true
	}
	for p := path; p != ""; p = parent(p) {
		if r.unformed[p] {
			return true
		}
	}
	return false
}

// spoil notes that the value at path could not be read.
func (r *report) spoil(path string) {
	for p := path; p != ""; p = parent(p) {
		r.unread[p] = true
	}
}

// parent is the path of what a value is part of, "" for the file's keys.
func parent(path string) string { return path[:max(strings.LastIndexAny(path, ".["), 0)] }

// add notes a problem with the value at path.
func (r *report) add(path, message, hint string) {
	r.addAt(r.positions.find(path), message, hint)
}

func (r *report) addAt(at position, message, hint string) {
	if len(r.problems) >= maxProblems {
		r.dropped++
		return
	}
	p := Problem{Line: at.line, Column: at.column, Message: oneLine(message), Hint: oneLine(hint)}
	if !slices.Contains(r.problems, p) {
		r.problems = append(r.problems, p)
	}
}

// oneLine makes text that may have anything from a hostile file fit a line of
// a terminal.
func oneLine(text string) string {
	const longest = 400
	var b strings.Builder
	for i, r := range text {
		switch {
		case i >= longest:
			return b.String() + "..."
		case unicode.IsGraphic(r):
			b.WriteRune(r)
		default:
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// err is the collected problems as an error, nil when there are none.
func (r *report) err(file string, source []byte) error {
	if len(r.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	problems := r.problems
	if source != nil {
		lines := sourceLines(source)
		for i := range problems {
			p := &problems[i]
			p.Line = min(max(p.Line, 1), len(lines))
			p.Column = min(max(p.Column, 1), utf8.RuneCountInString(lines[p.Line-1])+1)
		}
	}
	if r.dropped > 0 {
		last := problems[len(problems)-1]
		last.Message, last.Hint = fmt.Sprintf("%d more problems are not shown", r.dropped), "mend these first"
		problems = append(problems, last)
	}
	return &FileError{File: file, Problems: problems, source: source}
}
