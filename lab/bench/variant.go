package bench

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"labctl/backends/calico"
	"labctl/backends/catalogue"
	"labctl/lab"
)

// File is a lab file that was read.
type File struct {
	Name string // as the user calls it
	Spec *lab.Spec
	Data []byte
}

// Entry is a variant before it is measured: what lab to bring up, and between
// which endpoints.
type Entry struct {
	Variant
	File File
	// Share names the entry before it in whose lab it is measured; "": in one of
	// its own.
	Share string
	// Loopback is true for packets that do not leave From.
	Loopback bool
}

// Topology is what is compared where no lab is named: as little as there can be
// between two containers on two hosts.
const Topology = `name: bench
about: Two hosts on one switch, with one container each.
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.50.0/24}}
internet: {subnet: 203.0.113.0/24}   # a default route for the hosts, as real ones have
nodes:
  node1: {subnet: 10.244.1.0/24}
  node2: {subnet: 10.244.2.0/24}
`

// others are backends that are not flannel's, which lab.Spec.UseBackend knows.
var others = map[string]string{
	calico.Routed:  "hosts that route; containers have a /32 and no bridge, nothing is wrapped",
	"calico-vxlan": "the same, wrapped by a kernel VXLAN device",
	"calico-ipip":  "the same, wrapped in another IP header, by the kernel where it can",
}

// baselines show what the machine can do: without any container network.
const baselines = `name: baseline
about: Two hosts with a router between them, no container network.
segments:
  lan1: {subnet: 192.168.51.0/24}
  lan2: {subnet: 192.168.52.0/24}
routers: {r1: {segments: [lan1, lan2]}}
nodes:
  node1: {segment: lan1, subnet: 172.17.1.0/24, containers: 2}
  node2: {segment: lan2, subnet: 172.17.2.0/24}
`

// Choice is what is to be compared.
type Choice struct {
	Topologies []File   // none: Topology
	Backends   []string // what UseBackend knows, or Read; none: all, or with topologies their own
	Offload    []bool   // none: as the files have it
	From, To   string   // endpoints of each lab; "": the first containers of the first two hosts that have one
	Null       string   // the contestant of which a second lab runs along; "": the first
	Baselines  bool
	Slow       map[string]float64 // by variant, the part by which it is held back
	// Read reads a lab file or a built-in lab.
	Read func(name string) (File, error)
}

// Entries makes the list. Names of variants are the backends', or the labs',
// with what tells them from others behind.
func (c Choice) Entries() ([]Entry, error) {
	all, err := c.contestants()
	if err != nil {
		return nil, err
	}
	if len(c.Offload) > 0 {
		var each []Entry
		for _, on := range c.Offload {
			for _, e := range all {
				each = append(each, e.offload(on, len(c.Offload) > 1))
			}
		}
		all = each
	}
	seen := map[string]int{}
	for i := range all {
		name := all[i].Name
		if seen[name]++; seen[name] > 1 {
			all[i].Name = fmt.Sprintf("%s-%d", name, seen[name])
		}
		if err := all[i].endpoints(c.From, c.To); err != nil {
			return nil, err
		}
	}
	null := 0
	if c.Null != "" {
		if null = slices.IndexFunc(all, func(e Entry) bool { return e.Name == c.Null }); null < 0 {
			return nil, fmt.Errorf("%s: is not compared; there are %s", c.Null, names(all))
		}
	}
	again := all[null]
	again.Kind, again.Of, again.Name = Null, again.Name, again.Name+"-again"
	again.About = "a second lab of " + again.Of + "'s: it should not differ"
	all = append(all, again)
	if c.Baselines {
		base, err := baselineEntries()
		if err != nil {
			return nil, err
		}
		all = append(all, base...)
	}
	for name, part := range c.Slow {
		i := slices.IndexFunc(all, func(e Entry) bool { return e.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%s: is not measured; there are %s", name, names(all))
		}
		all[i].Slow = part
	}
	return all, nil
}

func names(all []Entry) string {
	var names []string
	for _, e := range all {
		names = append(names, e.Name)
	}
	return strings.Join(names, ", ")
}

// contestants crosses topologies and backends.
func (c Choice) contestants() ([]Entry, error) {
	topologies := c.Topologies
	if len(topologies) == 0 {
		spec, err := lab.Parse("bench.yaml", []byte(Topology))
		if err != nil {
			return nil, err
		}
		topologies = []File{{Name: twoHosts, Spec: spec, Data: []byte(Topology)}}
	}
	backends := c.Backends
	if len(backends) == 0 {
		if len(c.Topologies) > 0 {
			var own []Entry
			for _, f := range topologies {
				own = append(own, entry(f.Spec.Name, f))
			}
			return own, nil
		}
		for _, i := range catalogue.All() {
			backends = append(backends, i.Type)
		}
		backends = append(backends, calico.Routed)
	}
	var all []Entry
	for _, b := range backends {
		for _, f := range topologies {
			e, err := c.under(f, b)
			if err != nil {
				return nil, err
			}
			if len(topologies) > 1 && e.Backend != "" {
				e.Name = strings.TrimPrefix(f.Spec.Name, "flannel-") + "-" + b
			}
			all = append(all, e)
			if e.Backend == "" {
				break // it has a topology of its own
			}
		}
	}
	return all, nil
}

// twoHosts is what the topology is called where no lab is named.
const twoHosts = "two hosts on one switch"

// under is the topology with the backend; or the lab that is called so, when
// there is no such backend.
func (c Choice) under(f File, backend string) (Entry, error) {
	spec := *f.Spec
	spec.Nodes = slices.Clone(spec.Nodes)
	if err := spec.UseBackend(backend); err != nil {
		if c.Read == nil {
			return Entry{}, err
		}
		other, rerr := c.Read(backend)
		if _, broken := errors.AsType[*lab.FileError](rerr); broken {
			return Entry{}, rerr
		}
		if rerr != nil {
			return Entry{}, fmt.Errorf("%s: %w; nor is there such a lab", f.Name, err)
		}
		return entry(other.Spec.Name, other), nil
	}
	f.Spec = &spec
	e := entry(backend, f)
	e.Backend, e.About = backend, aboutBackend(backend)
	return e, nil
}

func aboutBackend(name string) string {
	for _, i := range catalogue.All() {
		if i.Type == name {
			return i.Summary
		}
	}
	return others[name]
}

func entry(name string, f File) Entry {
	e := Entry{Variant: Variant{Name: name, Kind: Contestant, Lab: f.Name, About: f.Spec.About, Offload: true}, File: f}
	for _, s := range f.Spec.Segments {
		if s.Offload == lab.Off {
			e.Offload = false
		}
	}
	return e
}

// offload switches the offloads of all the lab's links.
func (e Entry) offload(on, named bool) Entry {
	spec := *e.File.Spec
	spec.Segments = slices.Clone(spec.Segments)
	for i := range spec.Segments {
		spec.Segments[i].Offload = lab.On
		if !on {
			spec.Segments[i].Offload = lab.Off
		}
	}
	e.File.Spec, e.Offload = &spec, on
	if named && !on {
		e.Name += "-no-offload"
	}
	return e
}

// endpoints settles between whom is measured.
func (e *Entry) endpoints(from, to string) error {
	var first []string // container of each host
	for _, n := range e.File.Spec.Nodes {
		switch {
		case n.Containers == nil:
			first = append(first, n.Name+".c1") // as the plan has it
		case len(n.Containers) > 0:
			first = append(first, n.Name+"."+n.Containers[0].Name)
		}
	}
	for i, p := range []*string{&from, &to} {
		if *p != "" {
			continue
		}
		if i >= len(first) {
			return fmt.Errorf("%s: has no two hosts with containers; name endpoints with --from and --to", e.File.Name)
		}
		*p = first[i]
	}
	e.From, e.To = from, to
	return nil
}

// baselineEntries are three paths through one lab.
func baselineEntries() ([]Entry, error) {
	spec, err := lab.Parse("baseline.yaml", []byte(baselines))
	if err != nil {
		return nil, err
	}
	f := File{Name: "baseline", Spec: spec, Data: []byte(baselines)}
	base := func(name, from, to, about string) Entry {
		e := entry(name, f)
		e.Kind, e.From, e.To, e.About = Baseline, from, to, about
		return e
	}
	veth := base("veth", "node1.c1", "node1.c2", "two containers of one host: a veth pair each, and a bridge between them")
	routed := base("routed", "node1", "node2", "two hosts with a router between them; nothing is wrapped, no containers")
	loopback := base("loopback", "node1.c1", "node1.c1", "one container to itself, at 127.0.0.1")
	routed.Share, loopback.Share, loopback.Loopback = veth.Name, veth.Name, true
	return []Entry{veth, routed, loopback}, nil
}
