package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"

	yaml "go.yaml.in/yaml/v4"
)

// labFile is a lab file that was read without a mistake, as YAML nodes: what
// is changed in it by command keeps the author's words and comments round it.
type labFile struct {
	doc   yaml.Node
	root  *yaml.Node
	nodes *yaml.Node // the mapping of nodes
}

// openLabFile takes a file apart that Parse has accepted.
func openLabFile(data []byte) (*labFile, error) {
	f := new(labFile)
	if err := yaml.Load(data, &f.doc); err != nil {
		return nil, err
	}
	root := &f.doc
	if root.Kind == yaml.DocumentNode && len(root.Content) == 1 {
		root = root.Content[0]
	}
	value := valueOf(root, "nodes")
	if value == nil {
		return nil, fmt.Errorf("lab file: no nodes")
	}
	*value = *own(value)
	// nodes: 3 cannot tell one from another.
	if n, ok := integer(value); ok {
		*value = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		for i := range n {
			value.Content = append(value.Content, scalar(fmt.Sprintf("node%d", i+1)), flow())
		}
	}
	f.root, f.nodes = root, value
	// Checks and faults speak of the lab as its author wrote it.
	f.drop(root, "checks")
	f.drop(root, "faults")
	return f, nil
}

func (f *labFile) bytes() ([]byte, error) { return yaml.Marshal(&f.doc) }

// setNetwork replaces the network config, unless it says the same already.
func (f *labFile) setNetwork(config json.RawMessage) error {
	value := valueOf(f.root, "network")
	if value == nil || len(config) == 0 {
		return nil
	}
	var want, have any
	var doc yaml.Node
	if err := errors.Join(json.Unmarshal(config, &want), value.Decode(&have), yaml.Load(config, &doc)); err != nil {
		return err
	}
	if b, err := json.Marshal(have); err == nil && json.Unmarshal(b, &have) == nil && reflect.DeepEqual(want, have) {
		return nil // and has its author's comments
	}
	*value = *doc.Content[0]
	plainYAML(value)
	return nil
}

// setPolicies replaces the network policies.
func (f *labFile) setPolicies(ps Policies) error {
	f.drop(f.root, "policies")
	if len(ps) == 0 {
		return nil
	}
	all := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for _, p := range ps {
		// As JSON, which is YAML: an address is text there, and a value without
		// fields, which is lost, to package yaml.
		data, err := json.Marshal(p)
		if err != nil {
			return err
		}
		var doc yaml.Node
		if err := yaml.Load(data, &doc); err != nil {
			return err
		}
		drop(doc.Content[0], "name") // it is the key
		all.Content = append(all.Content, scalar(p.Name), doc.Content[0])
	}
	f.root.Content = append(f.root.Content, scalar("policies"), all)
	return nil
}

// plainYAML takes JSON's quotes and brackets off.
func plainYAML(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plainYAML(c)
	}
}

// add appends a node.
func (f *labFile) add(n NodeSpec) {
	m := flow()
	set := func(key, value string) {
		if value != "" {
			m.Content = append(m.Content, scalar(key), scalar(value))
		}
	}
	set("segment", n.Segment)
	if n.Address.IsValid() {
		set("address", n.Address.String())
	}
	if n.Subnet.IsValid() {
		set("subnet", n.Subnet.String())
	}
	if n.Containers != nil {
		m.Content = append(m.Content, scalar("containers"),
			&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(len(n.Containers))})
	}
	f.nodes.Style = 0
	f.nodes.Content = append(f.nodes.Content, scalar(n.Name), m)
}

// remove takes a node out.
func (f *labFile) remove(node string) { f.drop(f.nodes, node) }

// drop takes a key out of a mapping. Aliases elsewhere of what is in its value
// become copies: their anchors go with it.
func (f *labFile) drop(mapping *yaml.Node, key string) {
	value := valueOf(mapping, key)
	if value == nil {
		return
	}
	drop(mapping, key)
	gone := map[*yaml.Node]bool{}
	var note, copyOut func(n *yaml.Node)
	note = func(n *yaml.Node) {
		gone[n] = true
		for _, c := range n.Content {
			note(c)
		}
	}
	copyOut = func(n *yaml.Node) {
		for n.Kind == yaml.AliasNode && gone[n.Alias] {
			*n = *own(n)
		}
		for _, c := range n.Content {
			copyOut(c)
		}
	}
	note(value)
	copyOut(&f.doc)
}

// pin fixes an address that a node has, under its key: address, management.
func (f *labFile) pin(node, key string, a netip.Addr) {
	value := valueOf(f.nodes, node)
	if value == nil {
		return
	}
	*value = *own(value)
	if value.Kind != yaml.MappingNode {
		*value = *flow()
	}
	drop(value, key)
	value.Content = append(value.Content, scalar(key), scalar(a.String()))
}

// own is what an alias stands for, without the anchor: changing it changes
// nothing elsewhere.
func own(n *yaml.Node) *yaml.Node {
	if n.Kind != yaml.AliasNode {
		return n
	}
	c := *resolve(n)
	c.Anchor = ""
	c.Content = slices.Clone(c.Content)
	for i, child := range c.Content {
		inner := *child
		inner.Anchor = ""
		c.Content[i] = &inner
	}
	return &c
}

func scalar(value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: value}
}

func flow() *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Style: yaml.FlowStyle}
}

// keyOf is where a mapping has a key, -1 when it has not.
func keyOf(mapping *yaml.Node, key string) int {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if resolve(mapping.Content[i]).Value == key {
			return i
		}
	}
	return -1
}

func valueOf(mapping *yaml.Node, key string) *yaml.Node {
	if i := keyOf(mapping, key); i >= 0 {
		return mapping.Content[i+1]
	}
	return nil
}

func drop(mapping *yaml.Node, key string) {
	if i := keyOf(mapping, key); i >= 0 {
		mapping.Content = slices.Delete(mapping.Content, i, i+2)
	}
}
