package backends

import (
	"net/netip"

	"labctl/nodes"
)

// noMasquerade is the mark that Kubernetes and flannel agree on: packets that
// carry it have been dealt with by somebody else.
const noMasquerade = 0x4000

// TrafficRules is what flannel does to packets of containers beside carrying
// them: source NAT on the way out of the network (with ipMasq), and leave to
// be forwarded. C is the network, P this host's subnet:
//
//	marked 0x4000      as it is
//	P -> C             as it is: the receiver sees the container's address
//	C -> P             as it is
//	other -> P         as it is: whoever reaches in is seen by its own address
//	C -> not multicast masquerade: to the outside as the host
//	other -> C         masquerade: from the host to remote containers, so that answers come back to it
//
// It is the meaning of flannel's iptables rules. Its nftables rules differ
// (the fourth is "not P -> C"), by which its sixth can never match.
//
// An accept here does not undo a drop of another table, such as Docker's
// FORWARD policy: in netfilter each base chain has its say.
func TrafficRules(network, subnet netip.Prefix, ipMasq bool) nodes.Table {
	t := nodes.Table{Name: "labctl-flannel"}
	if ipMasq {
		t.Chains = append(t.Chains, nodes.Chain{
			Name: "postrouting", Hook: nodes.PostroutingNAT,
			Rules: []nodes.Rule{
				{Mark: noMasquerade, MarkMask: noMasquerade, Verdict: nodes.Return, Comment: "flannel masq: already decided"},
				{Src: subnet, Dst: network, Verdict: nodes.Return, Comment: "flannel masq: own containers to containers"},
				{Src: network, Dst: subnet, Verdict: nodes.Return, Comment: "flannel masq: containers to own containers"},
				{NotSrc: network, Dst: subnet, Verdict: nodes.Return, Comment: "flannel masq: outside to own containers"},
				{Src: network, NotDst: multicast(network), Verdict: nodes.Masquerade, Comment: "flannel masq: containers to outside"},
				{NotSrc: network, Dst: network, Verdict: nodes.Masquerade, Comment: "flannel masq: host to remote containers"},
			},
		})
	}
	t.Chains = append(t.Chains, nodes.Chain{
		Name: "forward", Hook: nodes.Forward,
		Rules: []nodes.Rule{
			{Src: network, Verdict: nodes.Accept, Comment: "flannel forward: from containers"},
			{Dst: network, Verdict: nodes.Accept, Comment: "flannel forward: to containers"},
		},
	})
	return t
}

func multicast(like netip.Prefix) netip.Prefix {
	if like.Addr().Is4() {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{224}), 4)
	}
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xff}), 8)
}
