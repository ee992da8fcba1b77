// Package catalogue lists all backends: one line each, by hand. It is what
// commands and the agent ask for a backend by flannel's type name.
//
// The trap: backends cannot ask it for each other, as it imports them all.
package catalogue

import (
	"fmt"
	"slices"
	"strings"

	"labctl/backends"
	"labctl/backends/hostgw"
	"labctl/backends/udp"
	"labctl/backends/vxlan"
)

// Info is what there is to know about a backend before it is made.
type Info struct {
	Type     string // flannel's Backend.Type
	Summary  string // one line
	Overhead int    // bytes of each packet of an IPv4 underlay that are not the containers'
}

// entry is one backend.
type entry struct {
	Info
	make func(n backends.Network) (backends.Backend, error)
}

// entries is the list. To add a backend: write its folder, run
// backendtest.Run in its test, and add its entry here, in the order of Type.
func entries() []entry {
	return []entry{
		{
			Info{hostgw.Type, "a route to each host, on one layer 2 network; nothing is wrapped", hostgw.Overhead},
			func(n backends.Network) (backends.Backend, error) { return made(hostgw.New(n.Backend)) },
		},
		{
			Info{udp.Type, "layer 3 packets in UDP, wrapped by the agent through a TUN device", udp.Overhead},
			func(n backends.Network) (backends.Backend, error) { return made(udp.New(n.Backend, n.Network)) },
		},
		{
			Info{vxlan.Type, "layer 2 frames in UDP, wrapped by the kernel; no user space on the data path", vxlan.Overhead},
			func(n backends.Network) (backends.Backend, error) { return made(vxlan.New(n.Backend)) },
		},
	}
}

// made keeps a nil *T from becoming a Backend that is not nil.
func made[B backends.Backend](b B, err error) (backends.Backend, error) {
	if err != nil {
		return nil, err
	}
	return b, nil
}

// All is all backends by Type.
func All() []Info {
	var all []Info
	for _, e := range entries() {
		all = append(all, e.Info)
	}
	slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Type, b.Type) })
	return all
}

// New makes the backend that a network config names.
func New(n backends.Network) (backends.Backend, error) {
	var names []string
	for _, e := range entries() {
		if e.Type == n.BackendType {
			return e.make(n)
		}
		names = append(names, e.Type)
	}
	slices.Sort(names)
	return nil, &backends.ConfigError{
		Field: "Backend.Type", Text: fmt.Sprintf("%q is unknown", n.BackendType), Hint: "use one of " + strings.Join(names, ", "),
	}
}
