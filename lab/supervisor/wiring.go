package supervisor

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"labctl/lab"
	"labctl/nodes"
)

// protocol marks the routes that the supervisor makes (rtnetlink's rtm_protocol);
// agents have a number of their own, so neither takes the other's for stale.
const protocol = 96

// segmentBridge is the switch in a segment's namespace.
const segmentBridge = "br0"

// quiet are the settings that every namespace starts from. They are written
// even where they are the kernel's defaults: a new namespace begins with a
// copy of what the machine's owner has set for new devices.
func quiet() []nodes.Sysctl {
	return []nodes.Sysctl{
		{Key: "net/ipv6/conf/all/disable_ipv6", Value: "1"},
		{Key: "net/ipv6/conf/default/disable_ipv6", Value: "1"},
		{Key: "net/ipv4/conf/all/rp_filter", Value: "0"},
		{Key: "net/ipv4/conf/default/rp_filter", Value: "0"},
		{Key: "net/ipv4/conf/all/accept_redirects", Value: "0"},
		{Key: "net/ipv4/conf/default/accept_redirects", Value: "0"},
		{Key: "net/ipv4/conf/all/send_redirects", Value: "0"},
		{Key: "net/ipv4/conf/default/send_redirects", Value: "0"},
		{Key: "net/ipv4/conf/all/arp_ignore", Value: "0"},
		{Key: "net/ipv4/conf/all/arp_announce", Value: "0"},
	}
}

// forwarding is the setting that makes a host route between its interfaces. It
// resets others when it is written, so it goes first.
func forwarding(on bool) []nodes.Sysctl {
	v := "0"
	if on {
		v = "1"
	}
	return append([]nodes.Sysctl{{Key: "net/ipv4/ip_forward", Value: v}}, quiet()...)
}

// nic adds one underlay interface to an endpoint's state: its own end of the
// veth pair, whose far end is born in the segment.
func (s *Supervisor) nic(st *nodes.State, n lab.NICPlan) error {
	mac, err := net.ParseMAC(n.MAC)
	if err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	st.Links = append(st.Links, nodes.Veth{
		LinkAttrs:     nodes.LinkAttrs{Name: n.Name, MTU: n.MTU, MAC: mac, NoOffload: !n.Offload},
		PeerNamespace: s.at(n.Segment).ns,
		PeerName:      n.Port,
		PeerMTU:       n.MTU,
	})
	st.Addrs = append(st.Addrs, nodes.Addr{Dev: n.Name, Prefix: n.Addr})
	return nil
}

func routes(st *nodes.State, rs []lab.RoutePlan) {
	for _, r := range rs {
		st.Routes = append(st.Routes, nodes.Route{Dst: r.Dst, Via: r.Via, Dev: r.Dev})
	}
}

// nics are all underlay interfaces of the plan with the endpoint they are in.
func nics(p *lab.Plan) map[string][]lab.NICPlan {
	m := map[string][]lab.NICPlan{}
	for _, r := range p.Routers {
		m[r.Name] = r.NICs
	}
	if p.Etcd != nil {
		m[etcdName] = []lab.NICPlan{p.Etcd.NIC}
	}
	for _, n := range p.Nodes {
		m[n.Name] = n.NICs()
	}
	return m
}

// underlayNeighbour is an interface of the plan as others on its segment know it.
type underlayNeighbour struct {
	endpoint  string
	neighbour nodes.Neighbour // but for the device
}

// underlay are all interfaces of the plan by segment. They are made once for a
// plan: in a lab of hundreds of hosts each has hundreds of them, and is looked
// at several times.
func (s *Supervisor) underlay() (map[string][]underlayNeighbour, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underlayOf == s.plan {
		return s.neighbours, nil
	}
	all := nics(s.plan)
	by := map[string][]underlayNeighbour{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for _, n := range all[name] {
			mac, err := net.ParseMAC(n.MAC)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			by[n.Segment] = append(by[n.Segment], underlayNeighbour{name, nodes.Neighbour{Addr: n.Addr.Addr(), MAC: mac, ExternLearned: true}})
		}
	}
	s.underlayOf, s.neighbours = s.plan, by
	return by, nil
}

// staticNeighbours are the underlay neighbours of an endpoint with these
// interfaces, where the plan wants them set beforehand.
func (s *Supervisor) staticNeighbours(st *nodes.State, self string, own ...lab.NICPlan) error {
	if !s.current().Neighbours.Static {
		return nil
	}
	all, err := s.underlay()
	if err != nil {
		return err
	}
	for _, mine := range own {
		for _, theirs := range all[mine.Segment] {
			if theirs.endpoint != self {
				n := theirs.neighbour
				n.Dev = mine.Name
				st.Neighbours = append(st.Neighbours, n)
			}
		}
	}
	return nil
}

// segmentState is a switch with a port for every interface on the segment that
// has power.
func (s *Supervisor) segmentState(p lab.SegmentPlan) nodes.State {
	st := nodes.State{Sysctls: forwarding(false)}
	// Frames that a bridge switches must not pass a firewall (bridge-nf is 1
	// by default where br_netfilter is loaded).
	for _, f := range []string{"arptables", "ip6tables", "iptables"} {
		key := "net/bridge/bridge-nf-call-" + f
		if s.at(p.Name).ns.Do(func() error { _, err := os.Stat("/proc/sys/" + key); return err }) == nil {
			st.Sysctls = append(st.Sysctls, nodes.Sysctl{Key: key, Value: "0"})
		}
	}
	st.Links = append(st.Links, nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: segmentBridge, MTU: p.MTU}})
	dead := s.dead()
	for name, ns := range nics(s.current()) {
		if dead[name] {
			continue
		}
		for _, n := range ns {
			if n.Segment == p.Name {
				st.Links = append(st.Links, nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: n.Port, MTU: n.MTU, Master: segmentBridge, NoOffload: !n.Offload}})
			}
		}
	}
	return st
}

func (s *Supervisor) routerState(p lab.RouterPlan) (nodes.State, error) {
	st := nodes.State{Sysctls: forwarding(true)}
	for _, n := range p.NICs {
		if err := s.nic(&st, n); err != nil {
			return st, err
		}
	}
	if i := s.current().Internet; i != nil && i.Router == p.Name {
		st.Links = append(st.Links, nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: internetPort}})
		st.Addrs = append(st.Addrs, nodes.Addr{Dev: internetPort, Prefix: i.RouterAddr})
	}
	routes(&st, p.Routes)
	return st, s.staticNeighbours(&st, p.Name, p.NICs...)
}

// internetPort is the router's interface to the outside world.
const internetPort = "internet"

func (s *Supervisor) internetState(p *lab.InternetPlan) nodes.State {
	st := nodes.State{Sysctls: forwarding(false)}
	st.Links = append(st.Links, nodes.Veth{
		LinkAttrs:     nodes.LinkAttrs{Name: "eth0"},
		PeerNamespace: s.at(p.Router).ns,
		PeerName:      internetPort,
	})
	st.Addrs = append(st.Addrs, nodes.Addr{Dev: "eth0", Prefix: p.Addr})
	routes(&st, p.Routes)
	return st
}

func (s *Supervisor) etcdState(p *lab.EtcdPlan) (nodes.State, error) {
	st := nodes.State{Sysctls: forwarding(false)}
	if err := s.nic(&st, p.NIC); err != nil {
		return st, err
	}
	routes(&st, p.Routes)
	return st, s.staticNeighbours(&st, etcdName, p.NIC)
}

// machineState is a node without containers: what its agent needs to begin.
func (s *Supervisor) machineState(h *host) (nodes.State, error) {
	st := nodes.State{Sysctls: forwarding(true)}
	for _, n := range h.plan.NICs() {
		if err := s.nic(&st, n); err != nil {
			return st, err
		}
	}
	routes(&st, h.plan.Routes)
	return st, s.staticNeighbours(&st, h.name, h.plan.NICs()...)
}

// hostState is a node's machine and its containers' links: what the host's owner
// and the container runtime would set up. What the agent sets up is its own.
// Without a subnet yet, containers have links but no addresses.
func (s *Supervisor) hostState(h *host) (nodes.State, error) {
	st, err := s.machineState(h)
	if err != nil || len(h.containers) == 0 {
		return st, err
	}
	h.joint.host(h, &st)
	if t := h.runtimeRules(); len(t.Chains) > 0 {
		st.Tables = append(st.Tables, t)
	}
	if err := s.policyState(&st, h); err != nil {
		return st, err
	}
	s.untrack(&st)
	return st, nil
}

// untrack lets containers' packets to each other pass connection tracking over,
// through which natOutgoing takes every packet of its host. Rules that know
// connections are in the way of that: policies, and published ports, whose
// answers have to be translated back.
func (s *Supervisor) untrack(st *nodes.State) {
	c := s.current().Calico
	if c == nil || !c.NATOutgoing || len(st.Tables) > 0 {
		return
	}
	st.Tables = append(st.Tables, nodes.Table{Name: "labctl-untracked", Chains: []nodes.Chain{{
		Name: "prerouting", Hook: nodes.PreroutingRaw,
		Rules: []nodes.Rule{{Src: c.Pool, Dst: c.Pool, Verdict: nodes.NoTrack, Comment: "containers to each other"}},
	}}})
}

// runtimeRules are what a container runtime adds: published ports, and in a
// lab without an agent the masquerade to the outside.
func (h *host) runtimeRules() nodes.Table {
	t := nodes.Table{Name: "labctl-runtime"}
	var to []nodes.Rule
	for _, c := range h.containers {
		for _, pub := range c.plan.Publish {
			if c.addr.IsValid() {
				to = append(to, nodes.Rule{Local: true, Protocol: "tcp", DstPort: pub.HostPort, Verdict: nodes.DNAT,
					To: netip.AddrPortFrom(c.addr.Addr(), pub.ContainerPort), Comment: fmt.Sprintf("published port %d to %s", pub.HostPort, c.plan.Name)})
			}
		}
	}
	if len(to) > 0 {
		t.Chains = append(t.Chains,
			nodes.Chain{Name: "prerouting", Hook: nodes.PreroutingNAT, Rules: to},
			nodes.Chain{Name: "output", Hook: nodes.OutputNAT, Rules: to})
	}
	if h.plan.Masquerade && h.gateway.IsValid() {
		t.Chains = append(t.Chains, nodes.Chain{Name: "postrouting", Hook: nodes.PostroutingNAT, Rules: []nodes.Rule{
			{Src: h.gateway.Masked(), NotOutDev: h.plan.Bridge, Verdict: nodes.Masquerade, Comment: "containers to the outside"},
		}})
	}
	return t
}

// host is a node as the supervisor sees it.
type host struct {
	*endpoint
	plan       lab.NodePlan
	containers []*container
	joint      joint         // how the containers hang on the node
	agent      *agentProcess // nil in a lab without agents
	wiring     sync.Mutex    // held while containers are made, get other addresses or go
	closed     bool          // guarded by wiring: the namespaces are gone

	// Guarded by Supervisor.mu.
	gateway netip.Prefix   // the bridge's address; invalid without one, or until the subnet is known
	blocks  []netip.Prefix // the node's in a Calico network
	mtu     int
	wired   bool
	wireErr string
	held    bool
	down    []string  // devices that a fault has switched off
	settled bool      // has been as it should be since its agent was started
	out     lab.State // Stopped or Dead by order, else ""
}

// newHost is a node of the plan whose namespaces are open.
func (s *Supervisor) newHost(p lab.NodePlan) *host {
	h := &host{endpoint: s.at(p.Name), plan: p, joint: jointOf(p.Wiring), mtu: p.MTU}
	for _, c := range p.Containers {
		h.containers = append(h.containers, &container{endpoint: s.at(p.Name + "." + c.Name), plan: c})
	}
	return h
}

// has says whether an endpoint is the node or one of its containers.
func (h *host) has(name string) bool {
	return name == h.plan.Name || strings.HasPrefix(name, h.plan.Name+".")
}

type container struct {
	*endpoint
	plan lab.ContainerPlan
	addr netip.Prefix // guarded by Supervisor.mu; invalid until the subnet is known
}
