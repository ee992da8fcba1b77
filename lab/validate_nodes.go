package lab

import (
	"fmt"
	"net/netip"
	"strings"
)

func (v *validator) node(n NodeSpec) {
	path := join("nodes", n.Name)
	switch {
	case n.Segment != "":
		v.segmentRef(path+".segment", n.Name, n.Segment)
	case len(v.fabric()) > 1 && !v.bad(path+".segment"):
		v.add(path, fmt.Sprintf("%s: segment missing, there are several", n.Name), "add segment: "+strings.Join(v.fabric()[:2], " or "))
	}
	v.ipv4(path+".address", n.Name+": address", n.Address)
	v.ipv4(path+".management", n.Name+": management", n.Management)
	v.wiring(path+".wiring", n)
	v.agent(path+".agent", n)
	v.bridge(path, n)
	v.nodeSubnet(path, n)
	v.nodeMTU(path, n)
	v.containersOf(path, n)
}

// ipv4 checks an address that may be left out.
func (v *validator) ipv4(path, object string, a netip.Addr) {
	if a.IsValid() && !a.Is4() {
		v.add(path, fmt.Sprintf("%s %s is not IPv4, the only family built yet", object, a), "")
	}
}

func (v *validator) bridge(path string, n NodeSpec) {
	name := n.Bridge
	switch {
	case name == "":
	case v.wiringOf(n) != BridgeWiring:
		v.add(path+".bridge", fmt.Sprintf("%s: bridge %s, but the node's containers are not joined by one", n.Name, quote(name)), "remove it")
	case !deviceName().MatchString(name):
		v.add(path+".bridge", fmt.Sprintf("%s: bridge %s is not a possible device name", n.Name, quote(name)), "use at most 15 letters, digits and dashes: cni0, docker0")
	case name == "lo" || name == "eth0" || name == managementDevice || name == "all" || name == "default" || strings.HasPrefix(name, "flannel") || strings.HasPrefix(name, "veth"):
		v.add(path+".bridge", fmt.Sprintf("%s: bridge %s: the name belongs to another device of the node", n.Name, name), "use cni0 or docker0")
	}
}

// nodeSubnet checks what can be said of a node's subnet alone; subnets checks
// it against the network.
func (v *validator) nodeSubnet(path string, n NodeSpec) {
	p := path + ".subnet"
	switch {
	case v.bad(p):
	case !n.Subnet.IsValid():
		if v.noNetwork() {
			v.add(path, fmt.Sprintf("%s: subnet missing, which nobody gives out in a lab without network", n.Name), "add subnet: 172.17.0.0/16, or add network")
		}
		return
	case v.calico != nil:
		v.block(p, n)
		return
	case !v.subnet(p, n.Name, n.Subnet) || v.hasNetwork():
		return
	}
	for _, s := range v.Segments {
		if s.Subnet.IsValid() && s.Subnet.Overlaps(n.Subnet) {
			v.add(p, fmt.Sprintf("%s: subnet %s overlaps %s of segment %s", n.Name, n.Subnet, s.Subnet, s.Name), "take another range")
		}
	}
	if v.Internet != nil && v.Internet.Subnet.IsValid() && v.Internet.Subnet.Overlaps(n.Subnet) {
		v.add(p, fmt.Sprintf("%s: subnet %s overlaps %s of internet", n.Name, n.Subnet, v.Internet.Subnet), "take another range")
	}
}

// minMTU is what IPv4 hosts must be able to take (RFC 791).
const minMTU = 576

func (v *validator) nodeMTU(path string, n NodeSpec) {
	segment := v.segmentOf(n)
	mtuPath := join("segments", segment) + ".mtu"
	if v.network == nil || segment == "" || v.bad(mtuPath) {
		return
	}
	mtu, err := containerMTU(v.network, v.mtuOf(segment))
	if err != nil || mtu >= minMTU {
		return // the error is checkNetwork's to tell
	}
	if most, _ := containerMTU(v.network, 65535); most < minMTU { // not the segment's fault
		v.add(v.networkPath("Backend.MTU"), fmt.Sprintf("network: Backend: MTU leaves containers %d, fewer than IPv4's %d", mtu, minMTU), "leave MTU out")
		return
	}
	overhead := v.mtuOf(segment) - mtu
	v.add(mtuPath, fmt.Sprintf("segment %s: mtu %d less %d for %s leaves containers %d, fewer than IPv4's %d",
		segment, v.mtuOf(segment), overhead, v.network.BackendType, mtu, minMTU),
		fmt.Sprintf("use %d or more", minMTU+overhead))
}

func (v *validator) containersOf(path string, n NodeSpec) {
	containers := containersOf(n)
	if len(containers) > maxContainers {
		v.add(path+".containers", fmt.Sprintf("%s: %d containers, more than the %d that a node may have", n.Name, len(containers), maxContainers), "")
		return
	}
	if v.calico == nil {
		v.containerRoom(path, n, len(containers))
	}
	names := map[string]bool{}
	publishers := map[uint16]string{}
	owners := map[netip.Addr]string{}
	for i, c := range containers {
		p := fmt.Sprintf("%s.containers[%d]", path, i)
		switch {
		case c.Name == "":
			if !v.bad(p) {
				v.add(p, fmt.Sprintf("%s: container without a name", n.Name), "add name: c1")
			}
		case !endpointName().MatchString(c.Name):
			v.add(p, fmt.Sprintf("%s: container %s: not a possible name", n.Name, quote(c.Name)),
				"use a lower case letter, then at most 14 lower case letters, digits and dashes")
		case names[c.Name]:
			v.add(p, fmt.Sprintf("%s: container %s is there twice", n.Name, c.Name), "rename one")
		}
		names[c.Name] = true
		v.containerAddress(p+".address", n, c, owners)
		v.containerPorts(p, n, c, publishers)
		v.labels(p+".labels", n.Name+"."+c.Name, c.Labels)
	}
}

func (v *validator) containerRoom(path string, n NodeSpec, count int) {
	bits := n.Subnet.Bits()
	if !n.Subnet.IsValid() {
		if v.network == nil {
			return
		}
		bits = v.network.SubnetLen
	}
	if bits < 1 || bits > 30 {
		return
	}
	if room := 1<<(32-bits) - 3; count > room { // less network, broadcast and the bridge
		v.add(path+".containers", fmt.Sprintf("%s: %d containers need an address each, a /%d has %d beside the bridge's", n.Name, count, bits, room),
			"use fewer containers or bigger subnets")
	}
}

func (v *validator) containerAddress(path string, n NodeSpec, c ContainerSpec, owners map[netip.Addr]string) {
	a, object := c.Address, n.Name+"."+c.Name
	if !a.IsValid() || v.bad(path) || v.bad(join("nodes", n.Name)+".subnet") {
		return
	}
	if v.calico != nil {
		v.calicoAddress(path, object, a)
		return
	}
	subnet := n.Subnet
	if !subnet.IsValid() {
		v.add(path, fmt.Sprintf("%s: address %s needs a node whose subnet is pinned too", object, a), fmt.Sprintf("add subnet to %s, or leave the address out", n.Name))
		return
	}
	if !subnet.Addr().Is4() {
		return
	}
	hint := fmt.Sprintf("take one from %s to %s", host(subnet, 2), host(subnet, hosts(subnet)))
	if !subnet.Contains(a) {
		v.add(path, fmt.Sprintf("%s: address %s is outside %s's subnet %s", object, a, n.Name, subnet), hint)
		return
	}
	switch number := hostNumber(subnet, a); {
	case number == 0:
		v.add(path, fmt.Sprintf("%s: address %s is the network address of %s", object, a, subnet), hint)
	case number == 1:
		v.add(path, fmt.Sprintf("%s: address %s is the bridge's", object, a), hint)
	case number > hosts(subnet):
		v.add(path, fmt.Sprintf("%s: address %s is the broadcast address of %s", object, a, subnet), hint)
	case owners[a] != "":
		v.add(path, fmt.Sprintf("%s: address %s is already %s's", object, a, owners[a]), hint)
	default:
		owners[a] = c.Name
	}
}

func (v *validator) containerPorts(path string, n NodeSpec, c ContainerSpec, publishers map[uint16]string) {
	object := n.Name + "." + c.Name
	served := map[int]bool{}
	for i, port := range c.Serve {
		p := fmt.Sprintf("%s.serve[%d]", path, i)
		switch {
		case v.bad(p):
		case port < 1 || port > 65535:
			v.add(p, fmt.Sprintf("%s: serve: %d is not a port", object, port), "ports are 1 to 65535")
		case served[port]:
			v.add(p, fmt.Sprintf("%s: serve: port %d is there twice", object, port), "remove one")
		case i == maxServe:
			v.add(p, fmt.Sprintf("%s: serve: more than %d ports", object, maxServe), "")
		}
		served[port] = true
	}
	for i, pub := range c.Publish {
		p := fmt.Sprintf("%s.publish[%d]", path, i)
		if pub.HostPort == 0 {
			continue // could not be read, which is reported
		}
		if by := publishers[pub.HostPort]; by != "" {
			who := fmt.Sprintf("container %s", by)
			if by == c.Name {
				who = "the same container"
			}
			v.add(p, fmt.Sprintf("%s: publish: port %d of %s is already published by %s; a host has each port once", object, pub.HostPort, n.Name, who),
				fmt.Sprintf(`publish it elsewhere: "%d:%d"`, pub.HostPort%65535+1, pub.ContainerPort))
			continue
		}
		publishers[pub.HostPort] = c.Name
	}
}
