package calico

import (
	"log/slog"

	"labctl/backends/internal/datapath"
	"labctl/backends/internal/ipip"
	"labctl/nodes"
)

// IPIPDevice is the IPIP device of each host.
const IPIPDevice = ipip.Device

// Who wraps packets where that is by IPIP, as status calls it.
const (
	KernelIPIP    = "ipip (kernel)"
	UserspaceIPIP = "ipip (userspace)"
)

// IPIPInKernel says whether the namespace with these devices has the kernel's
// IPIP device. In one that has not, an IPIPPath carries the packets.
func IPIPInKernel(devices []nodes.Device) bool { return ipip.InKernel(devices) }

// tunl adds the IPIP device, which is there before: the kernel's, or that of an
// IPIPPath. Which host a packet goes to the kernel's reads off the route, the
// IPIPPath knows it.
//
//	10.244.9.0/26 via 192.168.52.1 dev tunl0 onlink       which way, to which host
func (h Host) tunl(s *nodes.State) {
	s.Links = append(s.Links, nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: IPIPDevice, MTU: h.MTU(h.Underlay)}})
	s.Tables = append(s.Tables, h.guard("ipip", nodes.Rule{Protocol: "ipip"}, ByIPIP))
}

// IPIPPath carries packets in user space, with the same on the wire as the
// kernel's ipip: what the kernel routes to tunl0, a TUN device, goes out of a
// raw socket of protocol 4, and the reverse.
type IPIPPath struct{ *datapath.Path }

// OpenIPIP opens the device and the socket, in the network namespace of the
// calling thread; the path may be run from any other. It knows no hosts. What
// the machine does not allow is told with its cure.
func OpenIPIP(c Config, u nodes.Underlay, log *slog.Logger) (*IPIPPath, error) {
	p, err := ipip.Open(ipip.Config{Device: IPIPDevice, MTU: c.MTU(u), Local: u.Addr, Level: datapath.Auto}, log)
	if err != nil {
		return nil, err
	}
	return &IPIPPath{p}, nil
}

// Set replaces the hosts that packets are carried to and taken from: those that
// Desired makes routes by IPIP to.
func (p *IPIPPath) Set(h Host) {
	var peers []datapath.Peer
	for _, r := range h.by(ByIPIP) {
		peers = append(peers, ipip.Peer(r.NextHop, r.Dst))
	}
	p.Path.Set(ipip.Self(h.Tunnel), peers)
}
