package calico

import (
	"crypto/sha1"
	"fmt"
	"net"
	"net/netip"

	"labctl/nodes"
)

// VXLANDevice is the VXLAN device of each host.
const VXLANDevice = "vxlan.calico"

// Calico's own numbers; flannel has 1 and the kernel's port, 8472.
const (
	vxlanVNI  = 4096
	vxlanPort = 4789 // IANA's
)

// VTEPMAC is the MAC of a host's VXLAN device: f (0x66) and the beginning of
// the SHA-1 of the host's name, so that every host knows every other's.
func VTEPMAC(host string) net.HardwareAddr {
	sum := sha1.Sum([]byte(host))
	return append(net.HardwareAddr{'f'}, sum[:5]...)
}

// vtep adds the VXLAN device, and for each host that is reached by it one
// neighbour and one FDB entry, however many blocks it has.
//
//	10.244.9.0/26 via 10.244.9.0 dev vxlan.calico onlink      which way
//	10.244.9.0 lladdr 66:..:.. dev vxlan.calico permanent     which VTEP; its address is of its first block
//	66:..:.. dev vxlan.calico dst 192.168.52.1 permanent      which host
func (h Host) vtep(s *nodes.State) (problems []error) {
	mac := VTEPMAC(h.Name)
	s.Links = append(s.Links, nodes.VXLAN{
		LinkAttrs: nodes.LinkAttrs{Name: VXLANDevice, MTU: h.MTU(h.Underlay), MAC: mac},
		VNI:       vxlanVNI, Port: vxlanPort, Local: h.Underlay.Addr, Dev: h.Underlay.Dev,
	})
	s.Tables = append(s.Tables, h.guard("vxlan", nodes.Rule{Protocol: "udp", DstPort: vxlanPort}, ByVXLAN))
	seen := map[netip.Addr]bool{}
	for _, r := range h.by(ByVXLAN) {
		if seen[r.NextHop] {
			continue
		}
		seen[r.NextHop] = true
		if !r.Tunnel.IsValid() {
			problems = append(problems, fmt.Errorf("%s of %s: the node has no tunnel address in the store, %s none to send to; see what its agent says", r.Dst, r.Host, VXLANDevice))
			continue
		}
		mac := VTEPMAC(r.Host)
		s.Neighbours = append(s.Neighbours, nodes.Neighbour{Dev: VXLANDevice, Addr: r.Tunnel, MAC: mac})
		s.FDB = append(s.FDB, nodes.FDBEntry{Dev: VXLANDevice, MAC: mac, Dst: r.NextHop})
	}
	return problems
}
