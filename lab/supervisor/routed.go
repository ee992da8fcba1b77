package supervisor

import (
	"net"
	"net/netip"
	"slices"

	"labctl/backends/calico"
	"labctl/lab/agent"
	"labctl/nodes"
)

// routed gives each container a link of its own to the node, which routes:
// Calico's way. The container has a /32 and a gateway that nobody has; what
// makes the node answer for it, and the routes to containers, is the agent's.
type routed struct{}

func (routed) host(h *host, st *nodes.State) {
	mac, err := net.ParseMAC(calico.WorkloadMAC)
	if err != nil {
		panic(err) // a constant
	}
	for _, c := range h.containers {
		st.Links = append(st.Links, nodes.Veth{
			LinkAttrs:     nodes.LinkAttrs{Name: c.plan.Port, MTU: h.mtu, MAC: mac, NoOffload: !h.plan.NIC.Offload},
			PeerNamespace: c.ns,
			PeerName:      "eth0",
			PeerMTU:       h.mtu,
		})
	}
}

func (routed) container(h *host, c *container) nodes.State {
	st := end(h, c)
	if c.addr.IsValid() {
		gateway := calico.Gateway()
		st.Routes = append(st.Routes,
			nodes.Route{Dst: netip.PrefixFrom(gateway, gateway.BitLen()), Dev: "eth0"},
			nodes.Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: gateway, Dev: "eth0"})
	}
	return st
}

func (routed) plan(*host) error { return nil }

func (routed) stale(h *host, r agent.Report) bool {
	if r.Phase != agent.Running {
		return false // what it said before holds
	}
	return !h.wired || h.mtu != r.MTU || !slices.Equal(h.blocks, r.Blocks) || slices.ContainsFunc(h.containers, func(c *container) bool {
		return c.addr != addressOf(r, c)
	})
}

// addressOf is a container's by the agent's report, invalid while it has none.
func addressOf(r agent.Report, c *container) netip.Prefix {
	for _, k := range r.Containers {
		if k.Name == c.plan.Name {
			return netip.PrefixFrom(k.Addr, k.Addr.BitLen())
		}
	}
	return netip.Prefix{}
}

func (routed) learn(_ *Supervisor, h *host) (func() error, error) {
	return func() error {
		r := h.agent.report
		h.blocks, h.mtu = r.Blocks, r.MTU
		for _, c := range h.containers {
			c.addr = addressOf(r, c)
		}
		return nil
	}, nil
}

// complete is true for a node that has no containers, too.
func (routed) complete(h *host) bool {
	return !slices.ContainsFunc(h.containers, func(c *container) bool { return !c.addr.IsValid() })
}

func (routed) subnets(h *host) []netip.Prefix { return h.blocks }
