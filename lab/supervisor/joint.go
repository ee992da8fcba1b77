package supervisor

import (
	"fmt"
	"net/netip"

	"labctl/backends"
	"labctl/lab"
	"labctl/lab/agent"
	"labctl/nodes"
)

// joint is how containers hang on their node: their links, and how they come
// by addresses.
type joint interface {
	// host adds the node's side.
	host(h *host, st *nodes.State)
	// container is a container's side. What it has no address for yet it leaves out.
	container(h *host, c *container) nodes.State

	// plan gives addresses that need no agent. The caller holds Supervisor.mu.
	plan(h *host) error
	// stale says whether addresses are not as the agent has reported. The
	// caller holds Supervisor.mu.
	stale(h *host, r agent.Report) bool
	// learn reads the addresses that the agent has given. assign, called with
	// Supervisor.mu held, takes them over.
	learn(s *Supervisor, h *host) (assign func() error, err error)
	// complete says whether all containers have what they need. The caller
	// holds Supervisor.mu.
	complete(h *host) bool
	// subnets are what the node answers for. The caller holds Supervisor.mu.
	subnets(h *host) []netip.Prefix
}

func jointOf(w lab.Wiring) joint {
	if w == lab.RoutedWiring {
		return routed{}
	}
	return bridged{}
}

// end is the far end of a container's veth pair, in the container.
func end(h *host, c *container) nodes.State {
	st := nodes.State{Sysctls: forwarding(false)}
	st.Links = append(st.Links, nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0", MTU: h.mtu, NoOffload: !h.plan.NIC.Offload}})
	if c.addr.IsValid() {
		st.Addrs = append(st.Addrs, nodes.Addr{Dev: "eth0", Prefix: c.addr})
	}
	return st
}

// bridged joins containers by a bridge that is their gateway: Docker's way, and
// that of flannel's CNI plugin.
type bridged struct{}

func (bridged) host(h *host, st *nodes.State) {
	p := h.plan
	st.Links = append(st.Links, nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: p.Bridge, MTU: h.mtu}})
	for _, c := range h.containers {
		st.Links = append(st.Links, nodes.Veth{
			LinkAttrs:     nodes.LinkAttrs{Name: c.plan.Port, MTU: h.mtu, Master: p.Bridge, NoOffload: !p.NIC.Offload},
			PeerNamespace: c.ns,
			PeerName:      "eth0",
			PeerMTU:       h.mtu,
		})
	}
	if h.gateway.IsValid() {
		st.Addrs = append(st.Addrs, nodes.Addr{Dev: p.Bridge, Prefix: h.gateway})
	}
}

func (bridged) container(h *host, c *container) nodes.State {
	st := end(h, c)
	if c.addr.IsValid() {
		st.Routes = append(st.Routes, nodes.Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: h.gateway.Addr(), Dev: "eth0"})
	}
	return st
}

func (bridged) plan(h *host) error {
	if h.plan.Agent {
		return nil
	}
	return h.assign(h.plan.Subnet, h.plan.MTU)
}

func (bridged) stale(h *host, r agent.Report) bool {
	return r.Subnet.IsValid() && (!h.wired || h.gateway.Masked() != r.Subnet.Masked() || h.mtu != r.MTU)
}

// learn reads what a container runtime learns from the agent: subnet.env.
func (bridged) learn(s *Supervisor, h *host) (func() error, error) {
	env, err := backends.ReadSubnetEnv(s.dir.SubnetEnv(h.name))
	return func() error { return h.assign(env.Subnet.Masked(), env.MTU) }, err
}

func (bridged) complete(h *host) bool { return h.gateway.IsValid() }

func (bridged) subnets(h *host) []netip.Prefix {
	if !h.gateway.IsValid() {
		return nil
	}
	return []netip.Prefix{h.gateway.Masked()}
}

// assign gives the node's bridge and containers their addresses out of subnet:
// the first to the bridge, those that the lab file fixes, the rest in order.
func (h *host) assign(subnet netip.Prefix, mtu int) error {
	gateway := netip.PrefixFrom(subnet.Masked().Addr().Next(), subnet.Bits())
	taken := map[netip.Addr]bool{gateway.Addr(): true}
	for _, c := range h.containers {
		if a := c.plan.Addr; a.IsValid() {
			if !subnet.Contains(a) || taken[a] {
				return fmt.Errorf("%s: address %s: not free in the node's subnet %s", c.name, a, subnet)
			}
			taken[a] = true
		}
	}
	next := gateway.Addr()
	for _, c := range h.containers {
		a := c.plan.Addr
		for !a.IsValid() {
			next = next.Next()
			// The last address of an IPv4 subnet is its broadcast.
			if !subnet.Contains(next) || next.Is4() && !subnet.Contains(next.Next()) {
				return fmt.Errorf("%s: subnet %s has no address left", c.name, subnet)
			}
			if !taken[next] {
				a = next
				taken[a] = true
			}
		}
		c.addr = netip.PrefixFrom(a, subnet.Bits())
	}
	h.gateway, h.mtu = gateway, mtu
	return nil
}
