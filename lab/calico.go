package lab

import (
	"cmp"
	"net/netip"
	"slices"

	"labctl/backends/calico"
)

// config is the file's Calico network with Calico's defaults filled in.
func (c *CalicoSpec) config() calico.Config {
	return calico.Config{
		Pool:           c.Pool,
		BlockSize:      cmp.Or(c.BlockSize, calico.DefaultBlockSize),
		Encapsulation:  cmp.Or(calico.Encapsulation(c.Encapsulation), calico.None),
		Routes:         cmp.Or(calico.Source(c.Routes), calico.FromStore),
		NATOutgoing:    c.NATOutgoing == On,
		StrictAffinity: c.StrictAffinity == On,
		MaxBlocks:      cmp.Or(c.MaxBlocksPerHost, calico.DefaultMaxBlocks),
	}
}

// gatewayRoute is a route that covers containers' gateway on a host without a
// default route: the kernel answers ARP on behalf of others only for addresses
// that it has a way to, by another interface. The address is no interface's all the same.
func (b *planner) gatewayRoute(p NodePlan) []RoutePlan {
	if p.AnswersGateway() || b.Calico.GatewayRoute == Off {
		return nil
	}
	gateway := calico.Gateway()
	return []RoutePlan{{Dst: netip.PrefixFrom(gateway, gateway.BitLen()), Dev: "lo"}}
}

// AnswersGateway says whether containers of the node find their gateway: where
// it is 169.254.1.1, the node needs a route that covers it.
func (n *NodePlan) AnswersGateway() bool {
	return n.Wiring != RoutedWiring || slices.ContainsFunc(n.Routes, func(r RoutePlan) bool { return r.Dst.Contains(calico.Gateway()) })
}
