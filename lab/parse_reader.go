package lab

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"time"

	yaml "go.yaml.in/yaml/v4"
)

// maxValues bounds the values that are read, so that aliases of aliases of
// aliases (the billion laughs) end.
const maxValues = 100_000

// maxDepth bounds nesting, which a file with an alias inside its own anchor
// has without end.
const maxDepth = 50

// reader fills a Spec from YAML nodes. yaml.Load could do it in a line, but
// gives up a mapping's order and the place of each value, and words its errors
// for Go programmers.
type reader struct {
	*report
	budget int
	depth  int
}

// readSpec returns false when the file is nothing like a lab.
func (r *reader) readSpec(n *yaml.Node, s *Spec) bool {
	n = resolve(n)
	r.positions[""] = place{value: at(n)}
	if n.Kind != yaml.MappingNode {
		r.addAt(at(n), "file is "+kindOf(n)+", not a lab", "a lab file begins with keys such as name, segments and nodes")
		return false
	}
	r.structure("", n, reflect.ValueOf(s).Elem())
	return true
}

// value reads n into v, whatever v is. An empty value leaves v alone.
func (r *reader) value(path string, n *yaml.Node, v reflect.Value) {
	n = resolve(n)
	if r.spent(path, n) || isNull(n) {
		return
	}
	r.depth++
	defer func() { r.depth-- }()
	switch target := v.Addr().Interface().(type) {
	case *json.RawMessage:
		*target = r.raw(path, n)
		return
	case *time.Duration:
		r.duration(path, n, target)
		return
	case *Nodes:
		if n.Kind == yaml.ScalarNode {
			r.nodeCount(path, n, target)
			return
		}
	case *Containers:
		r.containers(path, n, target)
		return
	case *PingCheck:
		if n.Kind == yaml.ScalarNode {
			target.All = r.all(path, n)
			return
		}
	case *PolicyCheck:
		if n.Kind == yaml.ScalarNode {
			target.All = r.all(path, n)
			return
		}
	case encoding.TextUnmarshaler:
		r.text(path, n, target)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		r.value(path, n, p.Elem())
		v.Set(p)
	case reflect.Struct:
		if n.Kind != yaml.MappingNode {
			r.wrong(path, n, "a mapping")
			return
		}
		r.structure(path, n, v)
	case reflect.Slice:
		if isNamed(v.Type().Elem()) {
			r.named(path, n, v)
			return
		}
		r.list(path, n, v)
	case reflect.Map:
		r.texts(path, n, v)
	case reflect.String:
		if n.Kind != yaml.ScalarNode {
			r.wrong(path, n, "text")
			return
		}
		v.SetString(n.Value)
	case reflect.Int:
		if i, ok := integer(n); ok {
			v.SetInt(int64(i))
			return
		}
		r.wrong(path, n, "a number")
	case reflect.Float64:
		var f float64
		if n.Kind != yaml.ScalarNode || n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			r.wrong(path, n, "a number")
			return
		}
		v.SetFloat(f)
	case reflect.Bool:
		var b bool
		if n.Kind != yaml.ScalarNode || n.Decode(&b) != nil {
			r.wrong(path, n, "true or false")
			return
		}
		v.SetBool(b)
	default:
		panic("lab: no way to read a " + v.Type().String())
	}
}

// all reads the word all in a check that may have a mapping instead.
func (r *reader) all(path string, n *yaml.Node) bool {
	if n.Value != "all" {
		r.wrong(path, n, "all or a mapping with from and to")
	}
	return n.Value == "all"
}

// structure reads a mapping with known keys.
func (r *reader) structure(path string, n *yaml.Node, v reflect.Value) {
	fields := fieldsOf(v.Type())
	for key, value := range r.pairs(path, n) {
		p := join(path, key.Value)
		i, ok := fields[key.Value]
		if !ok {
			r.unknownKey(p, key, value, v.Type(), fields)
			continue
		}
		r.value(p, value, v.Field(i))
	}
}

// named reads a mapping from names of the author's choice.
func (r *reader) named(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		want := "a mapping from names"
		if v.Type() == reflect.TypeFor[Nodes]() {
			want = "a number, or a mapping from names"
		}
		r.wrong(path, n, want)
		return
	}
	for key, value := range r.pairs(path, n) {
		item := reflect.New(v.Type().Elem()).Elem()
		item.FieldByName("Name").SetString(key.Value)
		r.value(join(path, key.Value), value, item)
		v.Set(reflect.Append(v, item))
	}
}

func (r *reader) list(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		r.wrong(path, n, "a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), 0, 0)) // an empty list is not one left out
	for i, element := range n.Content {
		p := fmt.Sprintf("%s[%d]", path, i)
		r.place(p, nil, element)
		item := reflect.New(v.Type().Elem()).Elem()
		if isNull(resolve(element)) {
			r.wrong(p, element, "a value")
		}
		r.value(p, element, item)
		v.Set(reflect.Append(v, item))
	}
}

// texts reads a mapping from names of the author's choice to text.
func (r *reader) texts(path string, n *yaml.Node, v reflect.Value) {
	if n.Kind != yaml.MappingNode {
		r.wrong(path, n, "a mapping from names to text")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for key, value := range r.pairs(path, n) {
		item := reflect.New(v.Type().Elem()).Elem()
		r.value(join(path, key.Value), value, item)
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	}
}

// pairs goes through a mapping, notes every place, and reports keys that are
// given twice or are no keys.
func (r *reader) pairs(path string, n *yaml.Node) func(func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		seen := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := resolve(n.Content[i]), n.Content[i+1]
			switch p := join(path, key.Value); {
			case key.Kind != yaml.ScalarNode:
				r.spoil(path)
				r.addAt(at(n.Content[i]), name(path)+"key is "+kindOf(key)+", not text", "")
				continue
			case key.ShortTag() == "!!merge":
				r.spoil(path)
				r.addAt(at(key), name(path)+"merge keys (<<) are not read", "write the keys out")
				continue
			case seen[key.Value] > 0:
				r.addAt(at(key), fmt.Sprintf("%s: given twice, first on line %d", show(p), seen[key.Value]), "remove one of them")
				continue
			default:
				seen[key.Value] = key.Line
				r.place(p, key, value)
			}
			if !yield(key, value) {
				return
			}
		}
	}
}

func (r *reader) place(path string, key, value *yaml.Node) {
	p := place{value: at(value), scalar: resolve(value).Kind == yaml.ScalarNode}
	if key != nil {
		p.key = at(key)
		if isNull(resolve(value)) {
			p.value = p.key // a value left out stands nowhere
		}
	}
	r.positions[path] = p
}

// spent says that no more can be read, for depth or for number.
func (r *reader) spent(path string, n *yaml.Node) bool {
	r.budget--
	if r.budget == 0 {
		r.addAt(at(n), fmt.Sprintf("file has more than %d values", maxValues), "do aliases (*name) multiply them?")
	}
	if r.depth > maxDepth {
		r.addAt(at(n), fmt.Sprintf("values are nested more than %d deep", maxDepth), "does an alias (*name) stand inside its own anchor?")
		return true
	}
	return r.budget <= 0
}

// add notes a problem with a value that is then not there for validate.
func (r *reader) add(path, message, hint string) {
	r.spoil(path)
	r.report.add(path, message, hint)
}

// wrong reports a value of the wrong kind.
func (r *reader) wrong(path string, n *yaml.Node, want string) {
	r.unformed[path] = true
	r.add(path, fmt.Sprintf("%s: want %s, not %s", show(path), want, kindOf(n)), "")
}

func (r *reader) text(path string, n *yaml.Node, v encoding.TextUnmarshaler) {
	_, isPrefix := v.(*netip.Prefix)
	_, isAddr := v.(*netip.Addr)
	if n.Kind != yaml.ScalarNode {
		r.wrong(path, n, "text")
		return
	}
	err := v.UnmarshalText([]byte(n.Value))
	switch {
	case n.Value == "" && (isPrefix || isAddr): // netip reads it as the zero value
		r.add(path, show(path)+": empty text", "write an address, or leave the key out")
	case err == nil:
	case isPrefix:
		r.add(path, fmt.Sprintf("%s: %s is not a subnet", show(path), quote(n.Value)), "write it as 192.168.50.0/24")
	case isAddr:
		r.add(path, fmt.Sprintf("%s: %s is not an address", show(path), quote(n.Value)), "write it as 192.168.50.20, without a prefix length")
	default:
		message, hint, _ := strings.Cut(err.Error(), "; ")
		r.add(path, show(path)+": "+clipText(message), hint)
	}
}

func (r *reader) duration(path string, n *yaml.Node, v *time.Duration) {
	if n.Kind != yaml.ScalarNode {
		r.wrong(path, n, "a duration")
		return
	}
	d, err := time.ParseDuration(n.Value)
	if err != nil {
		r.add(path, fmt.Sprintf("%s: %s is not a duration", show(path), quote(n.Value)), "write a number with its unit: 30s, 5m, 24h")
		return
	}
	*v = d
}

// nodeCount reads the short form nodes: 3.
func (r *reader) nodeCount(path string, n *yaml.Node, v *Nodes) {
	count, ok := integer(n)
	if !ok {
		r.wrong(path, n, "a number, or a mapping from names")
		return
	}
	if count < 0 || count > maxNodes {
		r.add(path, fmt.Sprintf("nodes: %d is not a possible number of nodes", count), fmt.Sprintf("write 1 to %d", maxNodes))
		return
	}
	for i := range count {
		*v = append(*v, NodeSpec{Name: fmt.Sprintf("node%d", i+1)})
	}
}

// containers reads a number, or a list of names and objects.
func (r *reader) containers(path string, n *yaml.Node, v *Containers) {
	const want = "a number, or a list of names and objects"
	*v = Containers{}
	if n.Kind == yaml.ScalarNode {
		count, ok := integer(n)
		switch {
		case !ok:
			r.wrong(path, n, want)
		case count < 0 || count > maxContainers:
			r.add(path, fmt.Sprintf("%s: %d is not a possible number of containers", show(path), count), fmt.Sprintf("write 0 to %d", maxContainers))
		default:
			for i := range count {
				*v = append(*v, ContainerSpec{Name: fmt.Sprintf("c%d", i+1)})
			}
		}
		return
	}
	if n.Kind != yaml.SequenceNode {
		r.wrong(path, n, want)
		return
	}
	for i, element := range n.Content {
		p := fmt.Sprintf("%s[%d]", path, i)
		r.place(p, nil, element)
		element = resolve(element)
		var c ContainerSpec
		switch {
		case r.spent(p, element):
			return
		case isNull(element) || element.Kind == yaml.SequenceNode:
			r.wrong(p, element, "a name, or an object with a name")
		case element.Kind == yaml.ScalarNode:
			c.Name = element.Value
		default:
			r.structure(p, element, reflect.ValueOf(&c).Elem())
		}
		*v = append(*v, c)
	}
}

// raw writes a value as JSON, keys in the file's order.
func (r *reader) raw(path string, n *yaml.Node) json.RawMessage {
	n = resolve(n)
	if r.spent(path, n) {
		return json.RawMessage("null")
	}
	r.depth++
	defer func() { r.depth-- }()
	var b strings.Builder
	switch n.Kind {
	case yaml.MappingNode:
		sep := "{"
		for key, value := range r.pairs(path, n) {
			name, _ := json.Marshal(key.Value)
			fmt.Fprintf(&b, "%s%s:%s", sep, name, r.raw(join(path, key.Value), value))
			sep = ","
		}
		if sep == "{" {
			b.WriteString(sep)
		}
		b.WriteString("}")
	case yaml.SequenceNode:
		b.WriteString("[")
		for i, element := range n.Content {
			if i > 0 {
				b.WriteString(",")
			}
			p := fmt.Sprintf("%s[%d]", path, i)
			r.place(p, nil, element)
			b.Write(r.raw(p, element))
		}
		b.WriteString("]")
	default:
		b.Write(rawScalar(n))
	}
	return json.RawMessage(b.String())
}

// rawScalar is a number, a truth value or nothing where YAML and JSON agree on
// that, and text in every other case.
func rawScalar(n *yaml.Node) []byte {
	var v any = n.Value
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool", "!!null":
		var decoded any
		if n.Decode(&decoded) == nil {
			v = decoded
		}
	}
	data, err := json.Marshal(v)
	if err != nil { // .inf and .nan
		data, _ = json.Marshal(n.Value)
	}
	return data
}
