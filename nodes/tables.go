package nodes

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tables is what a namespace decides by where packets go, at one moment. It is
// for explaining: nothing is made from it.
type Tables struct {
	Links      []TableLink      `json:"links"`
	Routes     []TableRoute     `json:"routes"`
	Neighbours []TableNeighbour `json:"neighbours"`
	FDB        []TableFDB       `json:"fdb"`
	Rules      []TableRule      `json:"rules"`
	// PolicyRules are ip rules beside the kernel's own three.
	PolicyRules []string `json:"policyRules,omitempty"`
	// Sysctls are those that decide about packets, by their path below
	// /proc/sys.
	Sysctls map[string]string `json:"sysctls"`
	// Counters are /proc/net/snmp's and netstat's that are not zero, by nstat's names:
	// IpInHdrErrors.
	Counters map[string]uint64 `json:"counters"`
	// LegacyTables are iptables-legacy's that are loaded (filter, nat): their
	// rules, if they have any, are not among Rules.
	LegacyTables []string `json:"legacyTables,omitempty"`
	// Unread says which of the above could not be read.
	Unread []string `json:"unread,omitempty"`
}

// TableLink is a network device.
type TableLink struct {
	Index   int            `json:"index"`
	Name    string         `json:"name"`
	Kind    string         `json:"kind"` // veth, bridge, vxlan, tuntap ...
	MAC     string         `json:"mac,omitempty"`
	MTU     int            `json:"mtu"`
	Up      bool           `json:"up"`      // switched on
	Carrier bool           `json:"carrier"` // and its other end as well
	Master  string         `json:"master,omitempty"`
	Addrs   []netip.Prefix `json:"addrs,omitempty"`
	VNI     int            `json:"vni,omitempty"`
	Port    int            `json:"port,omitempty"`
	Local   netip.Addr     `json:"local,omitzero"`
	RxDrop  uint64         `json:"rxDrop,omitempty"`
	TxDrop  uint64         `json:"txDrop,omitempty"`
	// XDP is the id of the program that sees packets before anybody else; 0: none.
	XDP    uint32       `json:"xdp,omitempty"`
	Qdiscs []TableQdisc `json:"qdiscs,omitempty"`
}

// TableQdisc is a queueing discipline of a device, tc's: ingress and clsact are
// those that only have filters.
type TableQdisc struct {
	Kind  string `json:"kind"`
	Drops uint64 `json:"drops,omitempty"` // by it, its filters and what is below it
}

// TableRoute is a route of any table. Kind is ip route's word for its type.
type TableRoute struct {
	Table    int          `json:"table"`
	Kind     string       `json:"kind"`
	Dst      netip.Prefix `json:"dst"`
	Via      netip.Addr   `json:"via,omitzero"`
	Dev      string       `json:"dev,omitempty"`
	Src      netip.Addr   `json:"src,omitzero"`
	Protocol int          `json:"protocol"`
	Metric   int          `json:"metric,omitempty"`
	OnLink   bool         `json:"onlink,omitempty"`
	LinkDown bool         `json:"linkdown,omitempty"`
}

// TableNeighbour is an entry of the ARP table.
type TableNeighbour struct {
	Dev   string     `json:"dev"`
	Addr  netip.Addr `json:"addr"`
	MAC   string     `json:"mac,omitempty"`
	State string     `json:"state"`
}

// TableFDB is an entry of a bridge's forwarding database (Dev is a port) or of
// a VXLAN device's own (Dst is a host).
type TableFDB struct {
	Dev    string     `json:"dev"`
	MAC    string     `json:"mac"`
	Master string     `json:"master,omitempty"`
	Dst    netip.Addr `json:"dst,omitzero"`
	Static bool       `json:"static,omitempty"`
	Own    bool       `json:"own,omitempty"` // the MAC is the port's own
}

// Tables looks at the namespace. A part that this kernel does not tell is left
// out and named in Unread.
func (n *Namespace) Tables() (*Tables, error) {
	h, err := openHandle(n)
	if err != nil {
		return nil, fmt.Errorf("%s: open netlink socket: %w", n.name, err)
	}
	defer h.Close()
	l := looker{h: h, t: &Tables{Sysctls: map[string]string{}, Counters: map[string]uint64{}}, names: map[int]string{}}
	if err := errors.Join(l.links(), l.routes(), l.neighbours()); err != nil {
		return nil, fmt.Errorf("%s: %w", n.name, err)
	}
	unread := func(what string, err error) {
		if err != nil {
			l.t.Unread = append(l.t.Unread, fmt.Sprintf("%s: %v", what, err))
		}
	}
	unread("policy rules", l.policy())
	unread("qdiscs", l.qdiscs())
	err = n.Do(func() error {
		unread("sysctls", l.sysctls())
		unread("counters", l.counters())
		unread("iptables-legacy", l.legacyTables())
		rules, err := tableRules()
		l.t.Rules = rules
		unread("nftables", err)
		return nil
	})
	return l.t, err
}

// looker fills Tables in.
type looker struct {
	h     *netlink.Handle
	t     *Tables
	names map[int]string // of links
}

func (l *looker) links() error {
	links, err := dump(l.h.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return l.h.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, k := range links {
		l.names[k.Attrs().Index] = k.Attrs().Name
	}
	for _, k := range links {
		a := k.Attrs()
		e := TableLink{
			Index: a.Index, Name: a.Name, Kind: k.Type(), MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.RawFlags&unix.IFF_UP != 0,
			Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0, Master: l.names[a.MasterIndex],
		}
		if v, ok := k.(*netlink.Vxlan); ok {
			e.VNI, e.Port, e.Local = v.VxlanId, v.Port, addrOf(v.SrcAddr)
		}
		if s := a.Statistics; s != nil {
			e.RxDrop, e.TxDrop = s.RxDropped, s.TxDropped
		}
		if a.Xdp != nil && a.Xdp.Attached {
			e.XDP = a.Xdp.ProgId
		}
		for _, x := range addrs {
			if x.LinkIndex == a.Index {
				e.Addrs = append(e.Addrs, prefixOf(x.IPNet))
			}
		}
		l.t.Links = append(l.t.Links, e)
	}
	return nil
}

// routeKinds are ip route's words.
var routeKinds = map[int]string{
	unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_MULTICAST: "multicast",
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

func (l *looker) routes() error {
	list, err := dump(func() ([]netlink.Route, error) {
		return l.h.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range list {
		e := TableRoute{
			Table: r.Table, Kind: routeKinds[r.Type], Dst: prefixOf(r.Dst), Via: addrOf(r.Gw), Dev: l.names[r.LinkIndex], Src: addrOf(r.Src),
			Protocol: int(r.Protocol), Metric: r.Priority, OnLink: r.Flags&unix.RTNH_F_ONLINK != 0, LinkDown: r.Flags&unix.RTNH_F_LINKDOWN != 0,
		}
		if e.Kind == "" {
			e.Kind = "type " + strconv.Itoa(r.Type)
		}
		if !e.Dst.IsValid() {
			e.Dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		if len(r.MultiPath) > 0 {
			e.Via, e.Dev = addrOf(r.MultiPath[0].Gw), l.names[r.MultiPath[0].LinkIndex]
		}
		l.t.Routes = append(l.t.Routes, e)
	}
	return nil
}

// neighbourStates are ip neigh's words.
var neighbourStates = map[int]string{
	netlink.NUD_INCOMPLETE: "INCOMPLETE", netlink.NUD_REACHABLE: "REACHABLE", netlink.NUD_STALE: "STALE", netlink.NUD_DELAY: "DELAY",
	netlink.NUD_PROBE: "PROBE", netlink.NUD_FAILED: "FAILED", netlink.NUD_NOARP: "NOARP", netlink.NUD_PERMANENT: "PERMANENT",
}

func (l *looker) neighbours() error {
	list, err := dump(func() ([]netlink.Neigh, error) { return l.h.NeighList(0, unix.AF_INET) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range list {
		l.t.Neighbours = append(l.t.Neighbours, TableNeighbour{l.names[n.LinkIndex], addrOf(n.IP), n.HardwareAddr.String(), neighbourStates[n.State]})
	}
	if list, err = dump(func() ([]netlink.Neigh, error) { return l.h.NeighList(0, unix.AF_BRIDGE) }); err != nil {
		return fmt.Errorf("list fdb: %w", err)
	}
	for _, n := range list {
		static := n.State&(netlink.NUD_PERMANENT|netlink.NUD_NOARP) != 0
		l.t.FDB = append(l.t.FDB, TableFDB{
			Dev: l.names[n.LinkIndex], MAC: n.HardwareAddr.String(), Master: l.names[n.MasterIndex], Dst: addrOf(n.IP), Static: static,
			Own: static && n.MasterIndex != 0 && n.State&netlink.NUD_PERMANENT != 0,
		})
	}
	return nil
}

// policy lists the ip rules that are not the kernel's own.
func (l *looker) policy() error {
	list, err := dump(func() ([]netlink.Rule, error) { return l.h.RuleList(unix.AF_INET) })
	if err != nil {
		return err
	}
	for _, r := range list {
		own := r.Table == unix.RT_TABLE_LOCAL || r.Table == unix.RT_TABLE_MAIN || r.Table == unix.RT_TABLE_DEFAULT
		if !own || r.Src != nil || r.Dst != nil || r.Mark != 0 {
			l.t.PolicyRules = append(l.t.PolicyRules, r.String())
		}
	}
	return nil
}

// sysctls reads the thread's namespace's.
func (l *looker) sysctls() error {
	keys := []string{"net/ipv4/ip_forward", "net/ipv4/conf/all/rp_filter"}
	for _, k := range l.t.Links {
		keys = append(keys, "net/ipv4/conf/"+k.Name+"/rp_filter", "net/ipv4/conf/"+k.Name+"/forwarding", "net/ipv4/conf/"+k.Name+"/proxy_arp")
	}
	const bridged = "net/bridge/bridge-nf-call-iptables"
	keys = append(keys, bridged)
	var errs []error
	for _, k := range keys {
		b, err := os.ReadFile("/proc/sys/" + k)
		if k == bridged && errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without br_netfilter
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		l.t.Sysctls[k] = strings.TrimSpace(string(b))
	}
	return errors.Join(errs...)
}

// counters reads the thread's namespace's: a line of names, one of values.
func (l *looker) counters() error {
	for _, file := range []string{"snmp", "netstat"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + file)
		if err != nil {
			return err
		}
		parseCounters(string(b), l.t.Counters)
	}
	return nil
}

// parseCounters reads those that are not 0.
func parseCounters(text string, into map[string]uint64) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < min(len(names), len(values)); j++ {
			// What is negative (TcpMaxConn) counts nothing.
			if v, err := strconv.ParseUint(values[j], 10, 64); err == nil && v > 0 {
				into[strings.TrimSuffix(names[0], ":")+names[j]] = v
			}
		}
	}
}

// qdiscs adds tc's to the devices, but for those that only stand for "none".
func (l *looker) qdiscs() error {
	all, err := dump(func() ([]netlink.Qdisc, error) { return l.h.QdiscList(nil) })
	if err != nil {
		return err
	}
	for _, q := range all {
		link := l.t.Link(l.names[q.Attrs().LinkIndex])
		if link == nil || q.Type() == "noqueue" {
			continue
		}
		t := TableQdisc{Kind: q.Type()}
		if s := q.Attrs().Statistics; s != nil && s.Queue != nil {
			t.Drops = uint64(s.Queue.Drops)
		}
		link.Qdiscs = append(link.Qdiscs, t)
	}
	return nil
}

// legacyTables are named in a file that is there with the kernel's ip_tables.
func (l *looker) legacyTables() error {
	b, err := os.ReadFile("/proc/thread-self/net/ip_tables_names")
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil // a kernel without; or this user has no say in the namespace
	}
	l.t.LegacyTables = strings.Fields(string(b))
	return err
}

// Link finds a device by name, nil when there is none.
func (t *Tables) Link(name string) *TableLink {
	i := slices.IndexFunc(t.Links, func(l TableLink) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &t.Links[i]
}

// Route is the route that a packet to a takes: of the local table first, then of
// the main and the default one, the most specific, of those the least metric.
func (t *Tables) Route(a netip.Addr) *TableRoute {
	for _, table := range []int{unix.RT_TABLE_LOCAL, unix.RT_TABLE_MAIN, unix.RT_TABLE_DEFAULT} {
		var best *TableRoute
		for i := range t.Routes {
			r := &t.Routes[i]
			if r.Table != table || !r.Dst.Contains(a) || r.Kind == "throw" {
				continue
			}
			if best == nil || cmp.Or(cmp.Compare(r.Dst.Bits(), best.Dst.Bits()), cmp.Compare(best.Metric, r.Metric)) > 0 {
				best = r
			}
		}
		if best != nil {
			return best
		}
	}
	return nil
}
