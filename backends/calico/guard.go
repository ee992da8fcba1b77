package calico

import (
	"net/netip"
	"slices"

	"labctl/nodes"
)

// guard lets nobody but the network's hosts into the tunnel, as Felix does.
// wrapped matches what is on the wire, way is whom it comes from.
//
// What a container wraps itself, and natOutgoing would make its host's, gets no
// further: another host would unwrap it, whatever a policy says. The kernel's
// devices take packets from anybody, so they have to be told who is a host; an
// IPIPPath looks by itself.
func (h Host) guard(what string, wrapped nodes.Rule, way Way) nodes.Table {
	rule := func(v nodes.Verdict, comment string) nodes.Rule {
		r := wrapped
		r.Verdict, r.Comment = v, what+" of "+comment
		return r
	}
	container := rule(nodes.Drop, "a container")
	container.Src = h.Pool
	t := nodes.Table{Name: "labctl-" + what, Chains: []nodes.Chain{{Name: "forward", Hook: nodes.Forward, Rules: []nodes.Rule{container}}}}
	if h.Path {
		return t
	}
	host := rule(nodes.Accept, "the network's hosts")
	host.SrcSet = "hosts"
	t.Sets = []nodes.Set{{Name: host.SrcSet, Addrs: h.nextHops(way)}}
	t.Chains = append(t.Chains, nodes.Chain{Name: "input", Hook: nodes.Input, Rules: []nodes.Rule{host, rule(nodes.Drop, "anybody else")}})
	return t
}

// nextHops are the hosts that are reached in a way, each once.
func (h Host) nextHops(way Way) []netip.Addr {
	var all []netip.Addr
	for _, r := range h.by(way) {
		if !slices.Contains(all, r.NextHop) {
			all = append(all, r.NextHop)
		}
	}
	return all
}
