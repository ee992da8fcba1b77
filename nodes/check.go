package nodes

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Check finds what is wrong with a State by itself: two entries with one key,
// and entries that no kernel can hold. It returns all errors joined.
//
// A Reconciler that is given such a State leaves the wrong entries out, keeps
// the first of those with one key, and reports the errors.
func Check(s State) error {
	_, err := sound(s)
	return err
}

// sound returns a copy of s without the entries that are wrong.
func sound(s State) (State, error) {
	c := checker{seen: make(map[string]bool, len(s.Routes)+len(s.Neighbours)+len(s.FDB)), kinds: map[string]string{}}
	out := State{
		Links:      keep(&c, s.Links, c.link),
		Addrs:      keep(&c, s.Addrs, c.addr),
		Routes:     keep(&c, s.Routes, c.route),
		Neighbours: keep(&c, s.Neighbours, c.neighbour),
		FDB:        keep(&c, s.FDB, c.fdb),
		Sysctls:    keep(&c, s.Sysctls, c.sysctl),
		Tables:     keep(&c, s.Tables, c.table),
	}
	for i := range out.Routes {
		out.Routes[i].Hops = slices.Clone(out.Routes[i].Hops)
	}
	return out, errors.Join(c.errs...)
}

type checker struct {
	seen  map[string]bool   // keys of all kinds
	kinds map[string]string // of the links
	errs  []error
}

// keep returns the items that check finds nothing wrong with. check gives the
// item's key, by which it may stand in the State only once.
func keep[T any](c *checker, items []T, check func(T) (key string, err error)) []T {
	out := make([]T, 0, len(items))
	for _, it := range items {
		key, err := check(it)
		switch {
		case err != nil:
			c.errs = append(c.errs, fmt.Errorf("%s: %w", key, err))
		case c.seen[key]:
			c.errs = append(c.errs, fmt.Errorf("%s: stands there twice", key))
		default:
			c.seen[key] = true
			out = append(out, it)
		}
	}
	return out
}

func (c *checker) link(l Link) (string, error) {
	if l == nil {
		return "link", errors.New("nil")
	}
	a, kind := attrsOf(l)
	key := "link " + a.Name
	if kind == "" {
		return key, fmt.Errorf("%T is not a kind of link", l)
	}
	if err := validName(a.Name); err != nil {
		return key, err
	}
	if a.Name == "lo" && kind != kindPort {
		return key, errors.New("lo can only be a Port")
	}
	if a.MTU < 0 {
		return key, fmt.Errorf("mtu %d", a.MTU)
	}
	if a.MAC != nil && !validMAC(a.MAC) {
		return key, fmt.Errorf("address %q: not a unicast MAC address", a.MAC)
	}
	if a.Master == a.Name {
		return key, errors.New("is its own master")
	}
	switch l := l.(type) {
	case Veth:
		if err := validName(l.PeerName); err != nil {
			return key, fmt.Errorf("peer: %w", err)
		}
		if l.PeerMAC != nil && !validMAC(l.PeerMAC) {
			return key, fmt.Errorf("peer: address %q: not a unicast MAC address", l.PeerMAC)
		}
		if l.PeerMTU < 0 {
			return key, fmt.Errorf("peer: mtu %d", l.PeerMTU)
		}
	case VXLAN:
		switch {
		case l.VNI < 0 || l.VNI >= 1<<24:
			return key, fmt.Errorf("vni %d: not in 0 to 16777215", l.VNI)
		case l.Port < 1 || l.Port > 65535:
			return key, fmt.Errorf("port %d: not in 1 to 65535", l.Port)
		case !l.Local.IsValid():
			return key, errors.New("no local address")
		case l.Dev == "" || l.Dev == l.Name:
			return key, fmt.Errorf("dev %q: not an underlay device", l.Dev)
		}
	}
	if !c.seen[key] {
		c.kinds[a.Name] = kind
	}
	return key, nil
}

func (c *checker) addr(a Addr) (string, error) {
	key := fmt.Sprintf("address %s dev %s", a.Prefix, a.Dev)
	if err := validName(a.Dev); err != nil {
		return key, err
	}
	if !a.Prefix.IsValid() {
		return key, errors.New("no address")
	}
	return key, nil
}

func (c *checker) route(r Route) (string, error) {
	key := "route " + r.Dst.String()
	switch {
	case !r.Dst.IsValid():
		return key, errors.New("no destination")
	case r.Dst != r.Dst.Masked():
		return key, fmt.Errorf("host bits are set, want %s", r.Dst.Masked())
	case r.Via.IsValid() && r.Via.Is4() != r.Dst.Addr().Is4():
		return key, fmt.Errorf("via %s: of the other address family", r.Via)
	case r.Src.IsValid() && r.Src.Is4() != r.Dst.Addr().Is4():
		return key, fmt.Errorf("src %s: of the other address family", r.Src)
	case r.OnLink && !r.Via.IsValid():
		return key, errors.New("onlink without via")
	case r.Kind < Unicast || r.Kind > Unreachable:
		return key, fmt.Errorf("kind %d", r.Kind)
	case r.Kind != Unicast && (r.Dev != "" || r.Via.IsValid()):
		return key, errors.New("a route that drops has neither dev nor via")
	}
	if len(r.Hops) > 0 {
		return key, hops(r)
	}
	if r.Kind == Unicast {
		if err := validName(r.Dev); err != nil {
			return key, err
		}
	}
	return key, nil
}

// hops checks a route with several next hops.
func hops(r Route) error {
	switch {
	case r.Kind != Unicast:
		return errors.New("a route that drops has no next hops")
	case r.Via.IsValid() || r.Dev != "" || r.OnLink || r.LinkScope:
		return errors.New("next hops beside a via or dev of the route's own")
	case len(r.Hops) == 1:
		return errors.New("one next hop: that is via and dev")
	}
	seen := map[Hop]bool{}
	for _, h := range r.Hops {
		switch {
		case !h.Via.IsValid() || h.Via.Is4() != r.Dst.Addr().Is4():
			return fmt.Errorf("next hop via %s: not of the destination's address family", h.Via)
		case seen[h]:
			return fmt.Errorf("next hop via %s dev %s: twice", h.Via, h.Dev)
		}
		if err := validName(h.Dev); err != nil {
			return err
		}
		seen[h] = true
	}
	return nil
}

func (c *checker) neighbour(n Neighbour) (string, error) {
	key := "neighbour " + n.Addr.String() + " dev " + n.Dev
	if err := validName(n.Dev); err != nil {
		return key, err
	}
	if !n.Addr.IsValid() || n.Addr.IsUnspecified() || n.Addr.IsMulticast() {
		return key, errors.New("not a host's address")
	}
	if !validMAC(n.MAC) {
		return key, fmt.Errorf("lladdr %q: not a unicast MAC address", n.MAC)
	}
	return key, nil
}

func (c *checker) fdb(f FDBEntry) (string, error) {
	key := "fdb " + f.MAC.String() + " dev " + f.Dev
	if err := validName(f.Dev); err != nil {
		return key, err
	}
	if len(f.MAC) != 6 {
		return key, errors.New("not a MAC address")
	}
	if !f.Dst.IsValid() {
		return key, errors.New("no dst")
	}
	if k := c.kinds[f.Dev]; k == kindBridge || k == kindVeth {
		return key, fmt.Errorf("%s is a %s, not a vxlan", f.Dev, k)
	}
	if flooding(f.MAC) {
		key += " dst " + f.Dst.String()
	}
	return key, nil
}

func (c *checker) sysctl(s Sysctl) (string, error) {
	key := "sysctl " + s.Key
	if !strings.HasPrefix(s.Key, "net/") {
		return key, errors.New("only net/ belongs to a network namespace")
	}
	for part := range strings.SplitSeq(s.Key, "/") {
		if part == "" || part == "." || part == ".." {
			return key, errors.New("not a path below /proc/sys")
		}
	}
	return key, nil
}

func (c *checker) table(t Table) (string, error) {
	key := "nftables table " + t.Name
	if t.Name == "" {
		return key, errors.New("no name")
	}
	chains, sets := map[string]bool{}, map[string]bool{}
	jumps := map[string]bool{}
	var errs []error
	for _, set := range t.Sets {
		if set.Name == "" || sets[set.Name] {
			errs = append(errs, fmt.Errorf("set %q: no name, or stands there twice", set.Name))
		}
		sets[set.Name] = true
		for _, a := range set.Addrs {
			if !a.Is4() {
				errs = append(errs, fmt.Errorf("set %s: %s is not an IPv4 address", set.Name, a))
			}
		}
	}
	for _, ch := range t.Chains {
		jumps[ch.Name] = ch.Hook == 0
	}
	for _, ch := range t.Chains {
		switch {
		case ch.Name == "":
			errs = append(errs, errors.New("chain without a name"))
		case chains[ch.Name]:
			errs = append(errs, fmt.Errorf("chain %s: stands there twice", ch.Name))
		case ch.Hook < 0 || ch.Hook > PreroutingRaw:
			errs = append(errs, fmt.Errorf("chain %s: hook %d", ch.Name, ch.Hook))
		}
		chains[ch.Name] = true
		for i, r := range ch.Rules {
			if err := checkRule(ch.Hook, r); err != nil {
				errs = append(errs, fmt.Errorf("chain %s: rule %d: %w", ch.Name, i+1, err))
			}
			for _, set := range []string{r.SrcSet, r.DstSet} {
				if set != "" && !sets[set] {
					errs = append(errs, fmt.Errorf("chain %s: rule %d: no set %s", ch.Name, i+1, set))
				}
			}
			if r.Verdict == Jump && !jumps[r.Chain] {
				errs = append(errs, fmt.Errorf("chain %s: rule %d: no chain %q to jump to", ch.Name, i+1, r.Chain))
			}
		}
	}
	return key, errors.Join(errs...)
}

func checkRule(h Hook, r Rule) error {
	family := 0
	for _, p := range slices.Concat([]netip.Prefix{r.Src, r.Dst, r.NotSrc, r.NotDst, netip.PrefixFrom(r.To.Addr(), 0)}, r.NotSrcs, r.NotDsts) {
		if !p.IsValid() {
			continue
		}
		f := p.Addr().BitLen()
		if family != 0 && f != family {
			return errors.New("mixes IPv4 and IPv6")
		}
		family = f
	}
	for _, dev := range []string{r.InDev, r.OutDev, r.NotOutDev} {
		if dev != "" {
			if err := validName(dev); err != nil {
				return err
			}
		}
	}
	switch {
	case family == 128 && (r.SrcSet != "" || r.DstSet != ""):
		return errors.New("mixes IPv4 and IPv6")
	case r.Protocol != "" && protocols[r.Protocol] == 0:
		return fmt.Errorf("protocol %q: not tcp, udp, icmp or ipip", r.Protocol)
	case r.DstPort != 0 && r.Protocol != "tcp" && r.Protocol != "udp":
		return errors.New("destination port without a protocol")
	case r.DstPortEnd != 0 && (r.DstPort == 0 || r.DstPortEnd < r.DstPort):
		return fmt.Errorf("ports %d to %d: not a range", r.DstPort, r.DstPortEnd)
	case r.State > Invalid|Established|Related|New:
		return fmt.Errorf("connection state %#x", uint32(r.State))
	case r.Verdict < Accept || r.Verdict > NoTrack:
		return errors.New("no verdict")
	case r.Verdict == Masquerade && h != PostroutingNAT:
		return errors.New("masquerade outside of postrouting")
	case r.Verdict == NoTrack && h != PreroutingRaw:
		return errors.New("notrack outside of raw prerouting")
	case r.Verdict == DNAT && h != PreroutingNAT && h != OutputNAT:
		return errors.New("dnat outside of prerouting and output")
	case r.Verdict == DNAT && !r.To.Addr().IsValid():
		return errors.New("dnat to nowhere")
	case r.Verdict == DNAT && r.To.Port() != 0 && r.Protocol == "":
		return errors.New("dnat to a port without a protocol")
	case r.Verdict != DNAT && r.To != netip.AddrPort{}:
		return errors.New("a target, but no dnat")
	case len(r.Comment) > 127:
		return errors.New("comment of more than 127 bytes")
	}
	return nil
}

// validName is the kernel's dev_valid_name.
func validName(s string) error {
	if s == "" {
		return errors.New("no device")
	}
	if len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n\v\f\r") {
		return fmt.Errorf("%q: not a device's name", s)
	}
	return nil
}

func validMAC(m net.HardwareAddr) bool {
	return len(m) == 6 && m[0]&1 == 0 && m.String() != "00:00:00:00:00:00"
}

// flooding says whether an FDB entry of this MAC may have several
// destinations: all zero (the default entry) and multicast.
func flooding(m net.HardwareAddr) bool { return !validMAC(m) }
