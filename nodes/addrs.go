package nodes

import (
	"maps"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

type addrKey struct {
	dev    string
	prefix netip.Prefix
}

func (k addrKey) change(a Action) Change {
	return Change{a, "address", k.prefix.String(), "dev " + k.dev}
}

// addrs makes the addresses what the State says.
func (p *pass) addrs() {
	own, ports := p.ownDevices()
	if len(p.want.Addrs) == 0 && len(p.r.made.addrs) == 0 && len(own) == 0 && !p.firstLook() {
		return
	}
	want := make(map[addrKey]bool, len(p.want.Addrs))
	for _, a := range p.want.Addrs {
		k := addrKey{a.Dev, a.Prefix}
		want[k] = true
		own[a.Dev] = own[a.Dev] || ports[a.Dev]
	}
	made := maps.Clone(want)
	have, ok := p.listAddrs()
	if !ok {
		return
	}
	before := len(p.done)
	for k, a := range have {
		switch {
		case want[k]:
		case p.r.made.addrs[k] || p.first && p.exclusive[k.dev]:
			if !p.do(k.change(Remove), "delete address", func() error { return p.r.h.AddrDel(nil, &a) }) {
				made[k] = true
			}
		case own[k.dev] && !k.prefix.Addr().IsLoopback():
			p.foreign = append(p.foreign, k.change(Remove))
		}
	}
	if !p.dry {
		p.r.made.addrs = made
	}
	if len(p.done) > before {
		// The kernel removes secondary addresses with their primary.
		if have, ok = p.listAddrs(); !ok {
			return
		}
	}
	for _, a := range p.want.Addrs {
		k := addrKey{a.Dev, a.Prefix}
		if _, ok := have[k]; ok || p.ctx.Err() != nil {
			continue
		}
		dev, ok := p.device(k.change(Add), k.dev)
		if !ok {
			continue
		}
		na := &netlink.Addr{IPNet: ipNet(a.Prefix), LinkIndex: dev}
		if a.Prefix.Addr().Is6() {
			// Nobody else is on a lab's network: without duplicate address
			// detection the address can be used at once.
			na.Flags = unix.IFA_F_NODAD
		}
		p.do(k.change(Add), "add address", func() error { return p.r.h.AddrAdd(nil, na) })
	}
}

// listAddrs returns all addresses but IPv6 link-local ones.
func (p *pass) listAddrs() (map[addrKey]netlink.Addr, bool) {
	list, err := dump(func() ([]netlink.Addr, error) { return p.r.h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		p.fail("addresses", "list", err)
		return nil, false
	}
	out := make(map[addrKey]netlink.Addr, len(list))
	for _, a := range list {
		prefix := prefixOf(a.IPNet)
		dev := p.byIndex[a.LinkIndex]
		if dev == "" || !prefix.IsValid() || prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		out[addrKey{dev, prefix}] = a
	}
	return out, true
}

// ownDevices are the devices that the State makes, what others put on them is
// told as foreign, and those that it gives attributes to.
func (p *pass) ownDevices() (own, ports map[string]bool) {
	own, ports = map[string]bool{}, map[string]bool{}
	for _, l := range p.want.Links {
		if a, kind := attrsOf(l); kind != kindPort {
			own[a.Name] = true
		} else {
			ports[a.Name] = true
		}
	}
	return own, ports
}

// connected are the routes that the kernel makes for the State's addresses.
// Somebody may have deleted one.
func (p *pass) connected() []Route {
	var out []Route
	for _, a := range p.want.Addrs {
		if a.Prefix.Bits() == a.Prefix.Addr().BitLen() || a.Prefix.Addr().IsLoopback() || a.Prefix.Addr().IsLinkLocalUnicast() {
			continue
		}
		r := Route{Dst: a.Prefix.Masked(), Dev: a.Dev}
		if a.Prefix.Addr().Is4() {
			r.Src = a.Prefix.Addr()
		}
		out = append(out, r)
	}
	return out
}
