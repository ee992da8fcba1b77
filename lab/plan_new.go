package lab

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"labctl/nodes"
)

// planVersion is the version of the plan's JSON.
const planVersion = 1

// etcdPort is where agents find the store.
const etcdPort = "2379"

// managementDevice is a node's interface on the segment for management.
const managementDevice = "mgmt0"

// defaultLeaseTTL is short, so that the lease of a node that is gone does not
// stand in a lab for a day as flannel's would.
const defaultLeaseTTL = 30 * time.Second

// NewPlan decides everything that the spec leaves open. It is a pure function:
// the same spec on the same machine gives the same plan. A spec that did not
// come from Parse is checked first; the error is then a *FileError without
// positions.
func NewPlan(s *Spec, m Machine) (*Plan, error) {
	r := newReport()
	validate(s, r)
	if err := r.err("", nil); err != nil {
		return nil, err
	}
	b := &planner{layout: newLayout(s), addrs: map[string]netip.Addr{}}
	b.address()
	p := &Plan{
		SchemaVersion: planVersion,
		Name:          s.Name,
		About:         strings.TrimSpace(s.About),
		Segments:      b.segments(),
		Routers:       b.planRouters(),
		Internet:      b.planInternet(),
		Policies:      s.Policies,
	}
	if n := b.network; n != nil {
		p.Backend, p.Network, p.Pool = n.BackendType, slices.Clone(s.Network), n.Pool.Network
		p.LeaseTTL = Duration(s.LeaseTTL)
		if p.LeaseTTL == 0 {
			p.LeaseTTL = Duration(defaultLeaseTTL)
		}
	}
	if c := b.calico; c != nil {
		p.Backend, p.Calico, p.Pool = c.Backend(), c, c.Pool
		p.BGP = b.bgpTimers()
	}
	for _, n := range s.Nodes {
		node, err := b.node(n)
		if err != nil {
			return nil, err
		}
		p.Nodes = append(p.Nodes, node)
	}
	if b.hasNetwork() {
		p.Etcd = b.planEtcd(p.Nodes)
	}
	p.Neighbours = countNeighbours(p, m)
	return p, nil
}

// Endpoints are the plan's endpoints in the order in which a person expects
// them: etcd, routers, the internet, then each node with its containers.
func (p *Plan) Endpoints() []string {
	var names []string
	if p.Etcd != nil {
		names = append(names, "etcd")
	}
	for _, r := range p.Routers {
		names = append(names, r.Name)
	}
	if p.Internet != nil {
		names = append(names, "internet")
	}
	for _, n := range p.Nodes {
		names = append(names, n.Name)
		for _, c := range n.Containers {
			names = append(names, n.Name+"."+c.Name)
		}
	}
	return names
}

// Node finds a node by name, nil when there is none.
func (p *Plan) Node(name string) *NodePlan {
	for i := range p.Nodes {
		if p.Nodes[i].Name == name {
			return &p.Nodes[i]
		}
	}
	return nil
}

// Container finds a container by name, nil when there is none.
func (n *NodePlan) Container(name string) *ContainerPlan {
	for i := range n.Containers {
		if n.Containers[i].Name == name {
			return &n.Containers[i]
		}
	}
	return nil
}

// planner gives out addresses and makes the parts of a plan.
type planner struct {
	*layout
	addrs map[string]netip.Addr // segment/endpoint -> address
}

// address gives every host its address on its segments: etcd and the routers
// from the top, pinned nodes as they say, the others from the bottom in the
// file's order.
func (b *planner) address() {
	for _, s := range b.Segments {
		taken := map[netip.Addr]bool{}
		give := func(name string, a netip.Addr) {
			b.addrs[s.Name+"/"+name] = a
			taken[a] = true
		}
		for name, a := range b.infrastructure(s.Name) {
			give(name, a)
		}
		for _, n := range b.Nodes {
			if a, _ := b.pinnedOn(n, s.Name); b.on(n, s.Name) && a.IsValid() {
				give(n.Name, a)
			}
		}
		next := 1
		for _, n := range b.Nodes {
			if a, _ := b.pinnedOn(n, s.Name); !b.on(n, s.Name) || a.IsValid() {
				continue
			}
			for taken[host(s.Subnet, next)] {
				next++
			}
			give(n.Name, host(s.Subnet, next))
		}
	}
}

func (b *planner) netns(endpoint string) string { return b.Name + "." + endpoint }

func (b *planner) segments() []SegmentPlan {
	var plans []SegmentPlan
	for _, s := range b.Segments {
		plans = append(plans, SegmentPlan{
			Name: s.Name, Netns: b.netns(s.Name), Subnet: s.Subnet, MTU: b.mtuOf(s.Name), Offload: s.Offload != Off,
			Management: s.Management == On,
		})
	}
	return plans
}

// nic joins an endpoint to a segment.
func (b *planner) nic(device, endpoint, segment string) NICPlan {
	s := b.segmentSpec[segment]
	addr := b.addrs[segment+"/"+endpoint]
	index := slices.IndexFunc(b.Segments, func(s SegmentSpec) bool { return s.Name == segment })
	return NICPlan{
		Name: device, Segment: segment, Port: endpoint,
		Addr: netip.PrefixFrom(addr, s.Subnet.Bits()),
		MAC:  hostMAC(index, addr), MTU: b.mtuOf(segment), Offload: s.Offload != Off,
	}
}

// hostMAC is 02 (locally administered), the segment's number and the address:
// unique in the lab, the same at every start, and readable in a capture.
func hostMAC(segment int, addr netip.Addr) string {
	a := addr.As4()
	return net.HardwareAddr{0x02, byte(segment + 1), a[0], a[1], a[2], a[3]}.String()
}

func (b *planner) node(n NodeSpec) (NodePlan, error) {
	segment := b.segmentOf(n)
	p := NodePlan{
		Name: n.Name, Netns: b.netns(n.Name), NIC: b.nic("eth0", n.Name, segment),
		Routes: b.defaultRoute(segment), MTU: b.mtuOf(segment), Subnet: n.Subnet,
		Agent: b.hasNetwork(), Masquerade: !b.hasNetwork(),
		Containers: []ContainerPlan{},
	}
	if b.management != "" {
		nic := b.nic(managementDevice, n.Name, b.management)
		p.Management = &nic
	}
	if w := b.wiringOf(n); w == BridgeWiring {
		p.Bridge = b.bridgeOf(n)
	} else {
		p.Wiring = w
	}
	p.Speaker = b.nodeSpeaker(n)
	if n.Agent != nil {
		p.Command = &CommandPlan{Argv: n.Agent.Command, Env: n.Agent.Env}
	}
	if b.network != nil {
		mtu, err := containerMTU(b.network, p.NIC.MTU)
		if err != nil {
			return NodePlan{}, fmt.Errorf("%s: %w", n.Name, err)
		}
		p.MTU = mtu
	}
	if b.calico != nil {
		p.Routes = append(p.Routes, b.gatewayRoute(p)...)
		p.MTU = b.calico.MTU(nodes.Underlay{MTU: p.NIC.MTU})
	}
	for i, c := range containersOf(n) {
		plan := ContainerPlan{
			Name: c.Name, Netns: b.netns(n.Name + "." + c.Name), Port: fmt.Sprintf("veth%d", i+1), Addr: c.Address, Labels: c.Labels,
		}
		for _, port := range c.Serve {
			plan.Serve = append(plan.Serve, uint16(port))
		}
		for _, pub := range c.Publish {
			plan.Publish = append(plan.Publish, PublishPlan(pub))
		}
		p.Containers = append(p.Containers, plan)
	}
	return p, nil
}

func (b *planner) planEtcd(hosts []NodePlan) *EtcdPlan {
	p := &EtcdPlan{Netns: b.netns("etcd"), NIC: b.nic("eth0", "etcd", b.layout.etcd), Routes: b.defaultRoute(b.layout.etcd)}
	p.Endpoints = []string{"http://" + net.JoinHostPort(p.NIC.Addr.Addr().String(), etcdPort)}
	for _, n := range hosts {
		if n.Subnet.IsValid() {
			r := ReservationPlan{Subnet: n.Subnet, PublicIP: n.NIC.Addr.Addr()}
			if b.calico != nil {
				r.Node = n.Name
			}
			p.Reservations = append(p.Reservations, r)
		}
	}
	return p
}

// planInternet is the outside server, at the first address of its subnet, and
// the link to its router, which has the second.
func (b *planner) planInternet() *InternetPlan {
	if b.Internet == nil {
		return nil
	}
	subnet := b.Internet.Subnet
	p := &InternetPlan{
		Netns: b.netns("internet"), Subnet: subnet, Router: b.layout.internet,
		Addr:       netip.PrefixFrom(host(subnet, 1), subnet.Bits()),
		RouterAddr: netip.PrefixFrom(host(subnet, 2), subnet.Bits()),
		Routes:     []RoutePlan{},
	}
	for _, s := range b.Segments {
		if b.islands()[s.Name] == b.islands()[b.segmentsOf(b.layout.internet)[0]] {
			p.Routes = append(p.Routes, RoutePlan{Dst: s.Subnet, Via: p.RouterAddr.Addr(), Dev: "eth0"})
		}
	}
	return p
}

// countNeighbours is the most neighbour entries that the lab can come to hold:
// on a segment everybody knows everybody, routers and etcd too, and so they do
// on a node's bridge.
func countNeighbours(p *Plan, m Machine) NeighbourPlan {
	on := map[string]int{}
	for _, r := range p.Routers {
		for _, nic := range r.NICs {
			on[nic.Segment]++
		}
	}
	if p.Etcd != nil {
		on[p.Etcd.NIC.Segment]++
	}
	expected := 0
	for _, n := range p.Nodes {
		for _, nic := range n.NICs() {
			on[nic.Segment]++
		}
		if n.Wiring == RoutedWiring {
			expected += len(n.Containers) * pairs(2)
		} else {
			expected += pairs(len(n.Containers) + 1)
		}
	}
	for _, n := range on {
		expected += pairs(n)
	}
	if p.Internet != nil {
		expected += pairs(2)
	}
	return NeighbourPlan{Expected: expected, Limit: m.GCThresh3, Static: m.GCThresh3 > 0 && expected > m.GCThresh3/2}
}

func pairs(n int) int { return n * (n - 1) }
