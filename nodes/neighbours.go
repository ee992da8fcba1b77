package nodes

import (
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

type neighKey struct {
	dev  string
	addr netip.Addr
}

func (k neighKey) change(a Action, mac net.HardwareAddr, state string) Change {
	return Change{a, "neighbour", k.addr.String(), macDetail(k.dev, "lladdr %s %s", mac, state)}
}

// wantState is what a Neighbour is in ip(8)'s words. An extern_learn entry is
// permanent as well: a reachable one would go stale and be probed, a noarp one
// is hidden by ip neigh.
func (n Neighbour) wantState() string {
	if n.ExternLearned {
		return "extern_learn permanent"
	}
	return "permanent"
}

// neighbours makes the neighbours what the State says.
func (p *pass) neighbours() {
	if len(p.want.Neighbours) == 0 && len(p.r.made.neighbours) == 0 && !p.firstLook() {
		return
	}
	// Family 0 lists ARP and NDP together.
	list, err := dump(func() ([]netlink.Neigh, error) { return p.r.h.NeighList(0, unix.AF_UNSPEC) })
	if err != nil {
		p.fail("neighbours", "list", err)
		return
	}
	have := make(map[neighKey]netlink.Neigh, len(list))
	for _, n := range list {
		if dev := p.byIndex[n.LinkIndex]; dev != "" && n.Family != unix.AF_BRIDGE {
			have[neighKey{dev, addrOf(n.IP)}] = n
		}
	}
	own := p.ownDevices()
	want := make(map[neighKey]bool, len(p.want.Neighbours))
	for _, n := range p.want.Neighbours {
		want[neighKey{n.Dev, n.Addr}] = true
		own[n.Dev] = true
	}
	made := maps.Clone(want)
	for k, n := range have {
		if want[k] {
			continue
		}
		fixed := n.State&unix.NUD_PERMANENT != 0 || n.State&unix.NUD_NOARP != 0 && n.Flags&unix.NTF_EXT_LEARNED != 0
		ch := k.change(Remove, n.HardwareAddr, nudState(n))
		switch {
		case p.r.made.neighbours[k], p.first && p.exclusive[k.dev] && fixed:
			if !p.do(ch, "delete neighbour", func() error { return p.r.h.NeighDel(&n) }) {
				made[k] = true
			}
		case fixed && own[k.dev]:
			p.foreign = append(p.foreign, ch)
		}
	}
	if !p.dry {
		p.r.made.neighbours = made
	}
	for _, n := range p.want.Neighbours {
		if p.ctx.Err() != nil {
			return
		}
		k := neighKey{n.Dev, n.Addr}
		cur, found := have[k]
		ch := k.change(Add, n.MAC, n.wantState())
		if found {
			if sameMAC(cur.HardwareAddr, n.MAC) && nudState(cur) == n.wantState() {
				continue
			}
			ch = Change{Modify, "neighbour", n.Addr.String(), macDetail(n.Dev, "lladdr %s %s, want lladdr %s %s", cur.HardwareAddr, nudState(cur), n.MAC, n.wantState())}
		}
		dev, ok := p.device(ch, n.Dev)
		if !ok {
			continue
		}
		nn := &netlink.Neigh{LinkIndex: dev, IP: n.Addr.AsSlice(), HardwareAddr: n.MAC, State: unix.NUD_PERMANENT}
		if n.ExternLearned {
			nn.Flags = unix.NTF_EXT_LEARNED
		}
		p.do(ch, "set neighbour", func() error { return p.r.h.NeighSet(nn) })
	}
}

// nudState is the state of n in ip(8)'s words.
func nudState(n netlink.Neigh) string {
	s := "none"
	for _, st := range []struct {
		bit  int
		name string
	}{
		{unix.NUD_PERMANENT, "permanent"}, {unix.NUD_NOARP, "noarp"}, {unix.NUD_REACHABLE, "reachable"},
		{unix.NUD_STALE, "stale"}, {unix.NUD_DELAY, "delay"}, {unix.NUD_PROBE, "probe"},
		{unix.NUD_INCOMPLETE, "incomplete"}, {unix.NUD_FAILED, "failed"},
	} {
		if n.State&st.bit != 0 {
			s = st.name
			break
		}
	}
	if n.Flags&unix.NTF_EXT_LEARNED != 0 {
		s = "extern_learn " + s
	}
	return s
}

type fdbKey struct{ dev, mac string }

// fdb makes the forwarding databases of VXLAN devices what the State says.
func (p *pass) fdb() {
	devs := map[string]bool{}
	for _, f := range p.want.FDB {
		devs[f.Dev] = true
	}
	for k := range p.r.made.fdb {
		devs[k.dev] = true
	}
	if p.first {
		for dev := range p.exclusive {
			devs[dev] = true
		}
	}
	for _, l := range p.want.Links {
		if v, ok := l.(VXLAN); ok {
			devs[v.Name] = true
		}
	}
	if len(devs) == 0 {
		return
	}
	list, err := dump(func() ([]netlink.Neigh, error) { return p.r.h.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		p.fail("fdb", "list", err)
		return
	}
	have := map[fdbKey][]netlink.Neigh{}
	for _, n := range list {
		dev := p.byIndex[n.LinkIndex]
		if devs[dev] && n.Flags&unix.NTF_SELF != 0 && n.State&unix.NUD_PERMANENT != 0 && n.IP != nil {
			k := fdbKey{dev, n.HardwareAddr.String()}
			have[k] = append(have[k], n)
		}
	}
	want := make(map[fdbKey][]netip.Addr, len(p.want.FDB))
	for _, f := range p.want.FDB {
		k := fdbKey{f.Dev, f.MAC.String()}
		want[k] = append(want[k], f.Dst)
	}
	made := make(map[fdbKey]bool, len(want))
	for k := range want {
		made[k] = true
	}
	for k, entries := range have {
		for _, n := range entries {
			dst := addrOf(n.IP)
			if slices.Contains(want[k], dst) {
				continue
			}
			if len(want[k]) > 0 && !flooding(n.HardwareAddr) {
				continue // replaced below
			}
			ch := fdbChange(Remove, k, dst)
			if p.r.made.fdb[k] || p.first && p.exclusive[k.dev] {
				gone := p.do(ch, "delete fdb", func() error {
					return p.r.h.NeighDel(&netlink.Neigh{LinkIndex: n.LinkIndex, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, IP: n.IP, HardwareAddr: n.HardwareAddr, State: unix.NUD_PERMANENT})
				})
				made[k] = made[k] || !gone
			} else {
				p.foreign = append(p.foreign, ch)
			}
		}
	}
	if !p.dry {
		p.r.made.fdb = made
	}
	for _, f := range p.want.FDB {
		if p.ctx.Err() != nil {
			return
		}
		k := fdbKey{f.Dev, f.MAC.String()}
		if slices.ContainsFunc(have[k], func(n netlink.Neigh) bool { return addrOf(n.IP) == f.Dst }) {
			continue
		}
		ch := fdbChange(Add, k, f.Dst)
		if old := have[k]; len(old) > 0 && !flooding(f.MAC) {
			ch = Change{Modify, "fdb", k.mac, macDetail(k.dev, "dst %s, want %s", addrOf(old[0].IP), f.Dst)}
		}
		dev, ok := p.device(ch, f.Dev)
		if !ok {
			continue
		}
		n := &netlink.Neigh{LinkIndex: dev, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT, IP: f.Dst.AsSlice(), HardwareAddr: f.MAC}
		p.do(ch, "set fdb", func() error {
			if flooding(f.MAC) {
				return p.r.h.NeighAppend(n)
			}
			return p.r.h.NeighSet(n)
		})
	}
}

func fdbChange(a Action, k fdbKey, dst netip.Addr) Change {
	return Change{a, "fdb", k.mac, macDetail(k.dev, "dst %s", dst)}
}
