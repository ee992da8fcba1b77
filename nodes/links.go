package nodes

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// The kinds of link in the kernel's words; a Port is of any kind.
const (
	kindBridge = "bridge"
	kindVeth   = "veth"
	kindVXLAN  = "vxlan"
	kindPort   = "port"
)

// attrsOf returns what all kinds have, and the kind; "" for a type that is not
// one of this package's.
func attrsOf(l Link) (LinkAttrs, string) {
	switch l := l.(type) {
	case Bridge:
		return l.LinkAttrs, kindBridge
	case Veth:
		return l.LinkAttrs, kindVeth
	case VXLAN:
		return l.LinkAttrs, kindVXLAN
	case Port:
		return l.LinkAttrs, kindPort
	}
	return LinkAttrs{}, ""
}

// makeOrder sorts links so that each is made after those it refers to.
func makeOrder(l Link) int {
	switch l := l.(type) {
	case Bridge:
		return 0
	case Veth:
		return 1
	case Port:
		if l.Master == "" {
			return 2
		}
		return 4
	}
	return 3
}

// links makes the links what the State says.
func (p *pass) links() {
	before := len(p.done)
	if lo := p.byName["lo"]; lo != nil && lo.Attrs().Flags&net.FlagUp == 0 && !p.down["lo"] {
		p.do(Change{Modify, "link", "lo", "down, want up"}, "set link up", func() error {
			return p.r.h.LinkSetUp(lo)
		})
	}

	want := map[string]bool{}
	for _, l := range p.want.Links {
		want[l.LinkName()] = true
	}
	for _, name := range slices.Sorted(maps.Keys(p.r.made.links)) {
		if want[name] {
			continue
		}
		kind := p.r.made.links[name]
		if cur := p.byName[name]; cur != nil && cur.Type() == kind {
			if !p.do(Change{Remove, "link", name, kind}, "delete "+kind, func() error { return p.r.h.LinkDel(cur) }) {
				continue
			}
			p.forget(cur)
		}
		if !p.dry {
			delete(p.r.made.links, name)
		}
	}

	links := slices.Clone(p.want.Links)
	slices.SortStableFunc(links, func(a, b Link) int {
		return cmp.Or(cmp.Compare(makeOrder(a), makeOrder(b)), cmp.Compare(a.LinkName(), b.LinkName()))
	})
	// One link's change can undo another's: a bridge takes over the MTU of a
	// new port, unless its own was changed (and not only given) before. So
	// what was changed is looked at once more.
	for p.round = range 2 {
		for _, l := range links {
			if p.ctx.Err() != nil {
				return
			}
			p.link(l)
		}
		if len(p.done) == before {
			return
		}
		before = len(p.done)
		if !p.listLinks() {
			return
		}
	}
}

// listLinks learns what links there are.
func (p *pass) listLinks() bool {
	links, err := dump(p.r.h.LinkList)
	if err != nil {
		p.fail("links", "list", err)
		return false
	}
	p.byName, p.byIndex = make(map[string]netlink.Link, len(links)), make(map[int]string, len(links))
	for _, l := range links {
		p.learn(l)
	}
	return true
}

func (p *pass) learn(l netlink.Link) {
	p.byName[l.Attrs().Name], p.byIndex[l.Attrs().Index] = l, l.Attrs().Name
}

func (p *pass) forget(l netlink.Link) {
	delete(p.byName, l.Attrs().Name)
	delete(p.byIndex, l.Attrs().Index)
}

// link makes one link what the State says.
func (p *pass) link(l Link) {
	a, kind := attrsOf(l)
	cur := p.byName[a.Name]
	if p.round > 0 && cur == nil {
		return // told in the first round
	}
	if kind == kindPort {
		if cur == nil {
			p.missing(Change{Add, "link", a.Name, ""}, a.Name)
			return
		}
		p.attrs(a, cur)
		return
	}
	if !p.dry {
		p.r.made.links[a.Name] = kind
	}
	if cur != nil {
		diff := p.identity(l, cur)
		if diff == "" {
			p.attrs(a, cur)
			return
		}
		ok := p.do(Change{Modify, "link", a.Name, diff}, "replace "+kind, func() error {
			if err := p.r.h.LinkDel(cur); err != nil {
				return err
			}
			p.forget(cur)
			return p.create(l)
		})
		if !ok {
			p.noDevice[a.Name] = true
		}
		return
	}
	if !p.do(Change{Add, "link", a.Name, p.describe(l)}, "add "+kind, func() error { return lacking(kind, p.create(l)) }) {
		p.noDevice[a.Name] = true
	}
}

// create makes a link with all its attributes and learns it.
func (p *pass) create(l Link) error {
	a, _ := attrsOf(l)
	base := netlink.NewLinkAttrs()
	base.Name, base.MTU, base.HardwareAddr = a.Name, a.MTU, a.MAC
	if !p.down[a.Name] {
		base.Flags |= net.FlagUp
	}
	var master netlink.Link
	if a.Master != "" {
		if master = p.byName[a.Master]; master == nil {
			return fmt.Errorf("master %s: no such device", a.Master)
		}
	}
	h := p.r.h
	var err error
	switch l := l.(type) {
	case Bridge:
		err = h.LinkAdd(&netlink.Bridge{LinkAttrs: base})
	case Veth:
		v := netlink.NewVeth(base)
		v.PeerName, v.PeerHardwareAddr, v.PeerMTU = l.PeerName, l.PeerMAC, uint32(l.PeerMTU)
		if l.PeerNamespace == nil {
			err = h.LinkAdd(v)
			break
		}
		err = l.PeerNamespace.withFd(func(fd int) error {
			v.PeerNamespace = netlink.NsFd(fd)
			return p.addVeth(v)
		})
	case VXLAN:
		dev := p.byName[l.Dev]
		if dev == nil {
			return fmt.Errorf("dev %s: no such device", l.Dev)
		}
		err = h.LinkAdd(&netlink.Vxlan{
			LinkAttrs: base, VxlanId: l.VNI, VtepDevIndex: dev.Attrs().Index, SrcAddr: l.Local.AsSlice(),
			Port: l.Port, Learning: l.Learning, GBP: l.GBP, UDPCSum: true,
		})
	}
	if err != nil {
		return err
	}
	p.created = true
	p.fresh[a.Name] = true
	p.forgetNeighbours(a.Name)
	made, err := h.LinkByName(a.Name)
	if err != nil {
		return err
	}
	p.learn(made)
	if v, ok := l.(Veth); ok && v.PeerNamespace == nil {
		peer, err := h.LinkByName(v.PeerName)
		if err != nil {
			return err
		}
		p.learn(peer)
	}
	if master != nil {
		if err := h.LinkSetMaster(made, master); err != nil {
			return fmt.Errorf("set master %s: %w", a.Master, err)
		}
	}
	if a.NoOffload {
		_, err = p.offload(a.Name, true)
	}
	return err
}

// addVeth makes a pair whose ends have different numbers in their namespaces.
// The kernel (net/core/link_watch.c) takes a device whose peer has the same
// number for one without a peer, and tells that its carrier came up only at its
// next round, up to a second later; until then a bridge drops what it sends.
func (p *pass) addVeth(v *netlink.Veth) error {
	h := p.r.h
	if err := h.LinkAdd(v); err != nil {
		return err
	}
	made, err := h.LinkByName(v.Name)
	if err != nil {
		return err
	}
	a := made.Attrs()
	if a.Index != a.ParentIndex {
		return nil
	}
	if err := h.LinkDel(made); err != nil {
		return err
	}
	// The far end's next number is one more than its last, this end's two.
	v.Index = a.Index + 2
	return h.LinkAdd(v)
}

// identity tells in which respect cur is not the device that l describes, such
// that only another device can be; "" when it is.
func (p *pass) identity(l Link, cur netlink.Link) string {
	_, kind := attrsOf(l)
	if cur.Type() != kind {
		return fmt.Sprintf("%s, want %s", cur.Type(), kind)
	}
	want, ok := l.(VXLAN)
	if !ok {
		return ""
	}
	have, ok := cur.(*netlink.Vxlan)
	if !ok {
		return ""
	}
	var diff []string
	differ := func(what string, have, want any) {
		if have != want {
			diff = append(diff, fmt.Sprintf("%s %v, want %v", what, have, want))
		}
	}
	differ("id", have.VxlanId, want.VNI)
	differ("dstport", have.Port, want.Port)
	differ("local", addrOf(have.SrcAddr), want.Local)
	// A device that is not there is told by create; until then the old one may stay.
	if p.byName[want.Dev] != nil {
		differ("dev", p.byIndex[have.VtepDevIndex], want.Dev)
	}
	differ("learning", have.Learning, want.Learning)
	differ("gbp", have.GBP, want.GBP)
	if g := addrOf(have.Group); g.IsValid() {
		differ("remote", g, netip.Addr{})
	}
	return strings.Join(diff, ", ")
}

// attrs changes in place what can be.
func (p *pass) attrs(a LinkAttrs, cur netlink.Link) {
	h, have := p.r.h, cur.Attrs()
	modify := func(verb string, f func() error, detail string, args ...any) {
		p.do(Change{Modify, "link", a.Name, fmt.Sprintf(detail, args...)}, verb, f)
	}
	if a.MAC != nil && !sameMAC(a.MAC, have.HardwareAddr) {
		modify("set address "+a.MAC.String(), func() error { return h.LinkSetHardwareAddr(cur, a.MAC) },
			"address %s, want %s", have.HardwareAddr, a.MAC)
	}
	if a.MTU != 0 && a.MTU != have.MTU {
		modify(fmt.Sprintf("set mtu %d", a.MTU), func() error { return h.LinkSetMTU(cur, a.MTU) },
			"mtu %d, want %d", have.MTU, a.MTU)
	}
	master := p.byIndex[have.MasterIndex]
	switch {
	case master == a.Master:
	case a.Master == "":
		modify("set nomaster", func() error { return h.LinkSetNoMaster(cur) }, "master %s, want none", master)
	default:
		modify("set master "+a.Master, func() error {
			m := p.byName[a.Master]
			if m == nil {
				return fmt.Errorf("master %s: no such device", a.Master)
			}
			return h.LinkSetMaster(cur, m)
		}, "master %s, want %s", cmp.Or(master, "none"), a.Master)
	}
	if have.Flags&net.FlagUp == 0 && !p.down[a.Name] {
		modify("set link up", func() error { return h.LinkSetUp(cur) }, "down, want up")
	}
	if a.NoOffload && p.round == 0 && !p.r.plain[have.Index] {
		on, err := p.offload(a.Name, false)
		switch {
		case err != nil:
			p.fail(a.Name, "read offloads", err)
		case !on:
			p.r.plain[have.Index] = true // reading takes as long as the rest of a pass
		default:
			modify("switch offloads off", func() error { _, err := p.offload(a.Name, true); return err }, "offloads on, want off")
		}
	}
}

// describe is a link in ip(8)'s words.
func (p *pass) describe(l Link) string {
	a, kind := attrsOf(l)
	s := kind
	if v, ok := l.(VXLAN); ok {
		s += fmt.Sprintf(" id %d local %s dev %s dstport %d", v.VNI, v.Local, v.Dev, v.Port)
	}
	if a.Master != "" {
		s += " master " + a.Master
	}
	return s
}
