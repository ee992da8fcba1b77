package labs_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/invopop/jsonschema"

	"labctl/backends/catalogue"
	"labctl/lab"
)

var update = flag.Bool("update", false, "rewrite lab.schema.json")

// TestSchema makes the lab file's JSON schema from package lab's types and
// their comments, and fails when labs/lab.schema.json is another.
func TestSchema(t *testing.T) {
	const file = "lab.schema.json"
	got := schemaJSON(t)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is out of date; run: go test ./labs -update", file)
	}
}

func schemaJSON(t *testing.T) []byte {
	t.Helper()
	r := &jsonschema.Reflector{
		Anonymous: true, DoNotReference: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true,
	}
	comments := fieldComments(t, "../lab/spec.go", "../lab/check_spec.go", "../lab/policy.go")
	r.LookupComment = func(typ reflect.Type, field string) string { return comments[typ.Name()+"."+field] }
	r.Mapper = func(typ reflect.Type) *jsonschema.Schema { return special(r, typ) }
	s := r.Reflect(lab.Spec{})
	s.ID, s.Title = "lab.schema.json", "labctl lab file"
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(data, '\n')
}

// special are the types that stand in the file in a form of their own.
func special(r *jsonschema.Reflector, typ reflect.Type) *jsonschema.Schema {
	text := func(pattern string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Pattern: pattern}
	}
	number := &jsonschema.Schema{Type: "integer", Minimum: "0", Maximum: "1000"}
	of := func(v any) *jsonschema.Schema {
		s := r.Reflect(v)
		s.Version = ""
		return s
	}
	named := func(v any, pattern string) *jsonschema.Schema {
		element := of(v)
		element.Type = "" // null is an element with nothing said
		element.Extras = map[string]any{"type": []string{"object", "null"}}
		return &jsonschema.Schema{Type: "object", AdditionalProperties: element, PropertyNames: text(pattern)}
	}
	const name = "^[a-z][a-z0-9-]{0,14}$"
	switch typ {
	case reflect.TypeFor[netip.Prefix]():
		return text(`^[0-9.]+/[0-9]+$`)
	case reflect.TypeFor[netip.Addr]():
		return text(`^[0-9.]+$`)
	case reflect.TypeFor[time.Duration]():
		return text(`^[0-9.]+(ms|s|m|h)([0-9.]+(ms|s|m|h))*$`)
	case reflect.TypeFor[lab.PublishSpec]():
		return text(`^[0-9]+:[0-9]+$`)
	case reflect.TypeFor[lab.Switch]():
		return &jsonschema.Schema{Enum: []any{"on", "off", true, false}}
	case reflect.TypeFor[lab.Segments]():
		return named(lab.SegmentSpec{}, name)
	case reflect.TypeFor[lab.Routers]():
		return named(lab.RouterSpec{}, name)
	case reflect.TypeFor[lab.Nodes]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{number, named(lab.NodeSpec{}, name)}}
	case reflect.TypeFor[lab.Policies]():
		return named(lab.PolicySpec{}, "^[a-z][a-z0-9-]{0,30}$")
	case reflect.TypeFor[lab.Containers]():
		element := &jsonschema.Schema{OneOf: []*jsonschema.Schema{text("^[a-z][a-z0-9-]{0,14}$"), of(lab.ContainerSpec{})}}
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{number, {Type: "array", Items: element}}}
	case reflect.TypeFor[lab.PingCheck]():
		return allOr(r, lab.PingCheck{})
	case reflect.TypeFor[lab.PolicyCheck]():
		return allOr(r, lab.PolicyCheck{})
	case reflect.TypeFor[json.RawMessage]():
		return network()
	}
	return nil
}

// allOr is the word all, or a check's mapping.
func allOr(r *jsonschema.Reflector, check any) *jsonschema.Schema {
	if r.Mapper == nil {
		return nil
	}
	plain := *r
	plain.Mapper = nil
	s := plain.Reflect(check)
	s.Version = ""
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Const: "all"}, s}}
}

// network describes flannel's network config. Only the keys that labctl knows
// are there; flannel ignores others.
func network() *jsonschema.Schema {
	var types []any
	var told []string
	for _, info := range catalogue.All() {
		types = append(types, info.Type)
		told = append(told, fmt.Sprintf("%s: %s", info.Type, info.Summary))
	}
	backend := &jsonschema.Schema{
		Type: "object", Required: []string{"Type"}, Properties: jsonschema.NewProperties(),
		Description: "How packets travel between hosts: Type and the options of that type.",
	}
	backend.Properties.Set("Type", &jsonschema.Schema{Enum: types, Description: strings.Join(told, "; ")})
	s := &jsonschema.Schema{Type: "object", Required: []string{"Network"}, Properties: jsonschema.NewProperties()}
	s.Properties.Set("Network", &jsonschema.Schema{Type: "string", Description: "The network of all containers, 10.244.0.0/16."})
	s.Properties.Set("SubnetLen", &jsonschema.Schema{Type: "integer", Description: "Prefix length of each host's subnet, 24 when left out."})
	s.Properties.Set("SubnetMin", &jsonschema.Schema{Type: "string", Description: "First subnet that is given out; the network's second when left out."})
	s.Properties.Set("SubnetMax", &jsonschema.Schema{Type: "string", Description: "Last subnet that is given out; the network's last when left out."})
	s.Properties.Set("Backend", backend)
	return s
}

// fieldComments are the doc comments of struct fields and types, by Type.Field
// and "Type.".
func fieldComments(t *testing.T, files ...string) map[string]string {
	t.Helper()
	comments := map[string]string{}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				for _, field := range s.Fields.List {
					for _, name := range field.Names {
						comments[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
					}
				}
			}
			return true
		})
	}
	return comments
}

// TestEveryFieldHasADescription keeps the schema useful in an editor.
func TestEveryFieldHasADescription(t *testing.T) {
	t.Parallel()
	for name, comment := range fieldComments(t, "../lab/spec.go", "../lab/check_spec.go", "../lab/policy.go") {
		typ, field, _ := strings.Cut(name, ".")
		if comment == "" && field != "Name" && field != "All" && typ != "PublishSpec" {
			t.Errorf("%s has no doc comment", name)
		}
	}
}
