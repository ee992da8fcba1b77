package nodes_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"labctl/nodes"
)

// A bridge with an address, in a network namespace of its own.
func Example() {
	ns, err := nodes.NewNamespace("node1")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ns.Close()
	r, err := nodes.NewReconciler(ns, nodes.Owner{Name: "example", Protocol: 90})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	r.Set(nodes.State{
		Links: []nodes.Link{nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "cni0", MTU: 1450}}},
		Addrs: []nodes.Addr{{Dev: "cni0", Prefix: netip.MustParsePrefix("10.244.1.1/24")}},
	})
	diff, err := r.Apply(context.Background())
	fmt.Println(diff.Changes, err)

	p, err := nodes.Start(ns, nodes.Command{Path: "/bin/ip", Args: []string{"ip", "-br", "addr"}, Stdout: os.Stdout})
	if err != nil {
		fmt.Println(err)
		return
	}
	p.Wait()
}
