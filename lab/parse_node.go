package lab

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	yaml "go.yaml.in/yaml/v4"
)

// resolve follows an alias to its anchor.
func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

func at(n *yaml.Node) position { return position{n.Line, n.Column} }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// integer is the value of a whole number, as YAML writes it.
func integer(n *yaml.Node) (int, bool) {
	var i int
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || n.Decode(&i) != nil {
		return 0, false
	}
	return i, true
}

// kindOf names a value in a message.
func kindOf(n *yaml.Node) string {
	switch n = resolve(n); n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if isNull(n) {
			return "nothing"
		}
		return quote(n.Value)
	}
	return "this"
}

// isNamed says that elements of a type stand in the file under their names.
func isNamed(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	f, ok := t.FieldByName("Name")
	return ok && f.Tag.Get("yaml") == "-"
}

// fieldsOf are a struct's keys and the indices of their fields.
func fieldsOf(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if key != "-" {
			fields[key] = i
		}
	}
	return fields
}

func (r *reader) unknownKey(path string, key, value *yaml.Node, t reflect.Type, fields map[string]int) {
	if message, hint, ok := notBuilt(t, key.Value); ok {
		if key.Value == "calico" {
			r.spoil("network") // which it stands in the place of
		}
		if t == reflect.TypeFor[PolicyPeer]() {
			r.spoil(strings.TrimSuffix(path, "."+key.Value))
		}
		r.addAt(at(key), show(path)+": "+message, hint)
		return
	}
	r.spoil(path)
	valid := slices.Sorted(maps.Keys(fields))
	hint := "the keys here are " + strings.Join(valid, ", ")
	if near := Nearest(key.Value, valid); near != "" {
		hint = "did you mean " + near + "?"
	}
	r.addAt(at(key), show(path)+": unknown key", hint)
}

// notBuilt knows the keys that the lab file will have and does not have yet.
func notBuilt(t reflect.Type, key string) (message, hint string, ok bool) {
	switch t {
	case reflect.TypeFor[Spec]():
		switch key {
		case "calico":
			return "not built yet", "use network with one of the backends " + backendTypes(), true
		}
	case reflect.TypeFor[PolicyPeer]():
		switch key {
		case "namespaceSelector":
			return "a lab has no Kubernetes namespaces", "use podSelector with a label for them", true
		}
	}
	return "", "", false
}

// Nearest is the word that was probably meant, "" when none is close.
func Nearest(word string, valid []string) string {
	if len(word) > 40 {
		return ""
	}
	best, bestDistance := "", 3
	for _, v := range valid {
		d := distance(strings.ToLower(word), strings.ToLower(v))
		if d < bestDistance && d < min(len(v), len(word)) {
			best, bestDistance = v, d
		}
	}
	return best
}

// distance is the number of letters to change, add, remove or swap with their
// neighbour (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// join extends a path by a key, of which it takes no more than any key of a
// lab has: looking up a path takes time for each of its dots.
func join(path, key string) string {
	const longest = 64
	if len(key) > longest {
		key = key[:longest] + "..."
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// name is a path as the beginning of a message, "" for the whole file.
func name(path string) string {
	if path == "" {
		return ""
	}
	return show(path) + ": "
}

// show is the author's text in a message: short, and on one line.
func show(text string) string {
	for _, c := range text {
		if c < ' ' || c == 0x7f {
			return quote(text)
		}
	}
	return clipText(text)
}

func quote(text string) string { return fmt.Sprintf("%q", clipText(text)) }

func clipText(text string) string {
	const longest = 80
	runes := []rune(text)
	if len(runes) <= longest {
		return text
	}
	return string(runes[:longest]) + "..."
}
