package nodestest

import (
	"context"
	"net/netip"

	"labctl/nodes"
)

func apply(ns *nodes.Namespace, s nodes.State) error {
	r, err := nodes.NewReconciler(ns, nodes.Owner{Name: "probe", Protocol: 99})
	if err != nil {
		return err
	}
	defer r.Close()
	r.Set(s)
	_, err = r.Apply(context.Background())
	return err
}

// probeVXLAN makes a device over a bridge, which serves as the underlay.
func probeVXLAN(ns *nodes.Namespace) error {
	return apply(ns, nodes.State{
		Links: []nodes.Link{
			nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "br0"}},
			nodes.VXLAN{LinkAttrs: nodes.LinkAttrs{Name: "v0"}, VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1"), Dev: "br0"},
		},
		Addrs: []nodes.Addr{{Dev: "br0", Prefix: netip.MustParsePrefix("192.0.2.1/24")}},
	})
}
