package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"labctl/backends/calico"
	"labctl/nodes"
)

// noNetwork says that the lab is meant to have neither store nor agents, and
// not that their configuration could not be read.
func (v *validator) noNetwork() bool {
	return !v.hasNetwork() && !v.bad("network") && !v.bad("calico")
}

// checkCalico validates the Calico network.
func (v *validator) checkCalico() {
	if v.calico == nil {
		return
	}
	if len(v.Network) > 0 || v.bad("network") {
		v.add("calico", "calico: the lab has network, too, and a lab is either flannel's or Calico's", "remove one of them")
		return
	}
	c, ok := errors.AsType[*calico.ConfigError](v.calico.Check())
	path := "calico"
	if ok {
		path = join("calico", c.Field)
	}
	switch {
	case v.bad("calico"):
	case ok:
		v.add(path, "calico: "+c.Field+": "+c.Text, c.Hint)
	case special(v.calico.Pool):
		v.add("calico.pool", fmt.Sprintf("calico: pool: %s is not for hosts", v.calico.Pool), "use one such as 10.244.0.0/16")
	}
	v.checkBGP()
	v.calicoMTU()
	v.blocks()
}

// calicoMTU checks what encapsulation leaves containers of each segment's MTU.
func (v *validator) calicoMTU() {
	for _, n := range v.Nodes {
		segment := v.segmentOf(n)
		path := join("segments", segment) + ".mtu"
		mtu := v.mtuOf(segment) - v.calicoOverhead()
		if segment == "" || v.bad(path) || mtu >= minMTU {
			continue
		}
		v.add(path, fmt.Sprintf("segment %s: mtu %d less %d for %s leaves containers %d, fewer than IPv4's %d",
			segment, v.mtuOf(segment), v.calicoOverhead(), v.calico.Backend(), mtu, minMTU),
			fmt.Sprintf("use %d or more", minMTU+v.calicoOverhead()))
	}
}

func (v *validator) calicoOverhead() int { return 65535 - v.calico.MTU(nodes.Underlay{MTU: 65535}) }

// blocks checks that no two nodes are given one block, and that there are
// addresses enough.
func (v *validator) blocks() {
	owner := map[netip.Prefix]string{}
	addresses := map[netip.Addr]string{}
	total, and := 0, ""
	if v.calico.Encapsulation.Device() != "" {
		and = " and tunnel devices"
	}
	for _, n := range v.Nodes {
		path := join("nodes", n.Name)
		if by := owner[n.Subnet]; n.Subnet.IsValid() && by != "" {
			v.add(path+".subnet", fmt.Sprintf("%s: block %s is already %s's", n.Name, n.Subnet, by), "each node has blocks of its own")
		}
		owner[n.Subnet] = n.Name
		if v.calico.Encapsulation.Device() != "" {
			total++ // its tunnel device
		}
		for i, c := range containersOf(n) {
			total++
			if !c.Address.IsValid() {
				continue
			}
			if by := addresses[c.Address]; by != "" {
				v.add(fmt.Sprintf("%s.containers[%d].address", path, i), fmt.Sprintf("%s.%s: address %s is already %s's", n.Name, c.Name, c.Address, by), "take another")
			}
			addresses[c.Address] = n.Name + "." + c.Name
		}
	}
	if p := v.calico.Pool; p.IsValid() && p.Addr().Is4() && p.Bits() >= 8 && total > 1<<(32-p.Bits()) {
		v.add("calico.pool", fmt.Sprintf("calico: pool: %d containers%s need an address each, %s has %d", total, and, p, 1<<(32-p.Bits())), "use a bigger pool or fewer containers")
	}
}

// block checks a node's first block.
func (v *validator) block(path string, n NodeSpec) {
	c, p := v.calico, n.Subnet
	switch {
	case c.Check() != nil: // which is reported
	case !p.Addr().Is4() || p != p.Masked():
		v.add(path, fmt.Sprintf("%s: subnet %s is not a block", n.Name, p), "write "+p.Masked().String())
	case p.Bits() != c.BlockSize:
		v.add(path, fmt.Sprintf("%s: subnet %s is not of the network's blockSize", n.Name, p), fmt.Sprintf("write %s/%d", p.Addr(), c.BlockSize))
	case !c.Pool.Contains(p.Addr()):
		v.add(path, fmt.Sprintf("%s: subnet %s is outside the pool %s", n.Name, p, c.Pool), "take a block of the pool's")
	}
}

func (v *validator) calicoAddress(path, object string, a netip.Addr) {
	if v.calico.Check() == nil && !v.calico.Pool.Contains(a) {
		v.add(path, fmt.Sprintf("%s: address %s is outside the pool %s", object, a, v.calico.Pool), "take one of the pool's")
	}
}

// wiring checks how a node's containers are joined to it.
func (v *validator) wiring(path string, n NodeSpec) {
	switch w := Wiring(n.Wiring); {
	case w == "":
	case w != BridgeWiring && w != RoutedWiring:
		v.add(path, fmt.Sprintf("%s: wiring %s is unknown", n.Name, quote(n.Wiring)), "use "+strings.Join([]string{string(BridgeWiring), string(RoutedWiring)}, " or "))
	case w == RoutedWiring && v.calico == nil && !v.bad("calico"):
		v.add(path, fmt.Sprintf("%s: wiring routed in a lab without calico: nobody makes the routes to containers", n.Name), "add calico, or use bridge")
	case w == BridgeWiring && v.calico != nil:
		v.add(path, fmt.Sprintf("%s: wiring bridge in a Calico lab, whose containers have no subnet in common", n.Name), "use routed, or leave it out")
	}
}
