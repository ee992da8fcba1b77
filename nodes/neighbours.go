package nodes

import (
	"fmt"
	"maps"
	"net"
	"net/netip"

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
	have, err := p.listNeighbours()
	if err != nil {
		p.fail("neighbours", "list", err)
		return
	}
	own, ports := p.ownDevices()
	want := make(map[neighKey]bool, len(p.want.Neighbours))
	for _, n := range p.want.Neighbours {
		want[neighKey{n.Dev, n.Addr}] = true
		own[n.Dev] = own[n.Dev] || ports[n.Dev]
	}
	made := maps.Clone(want)
	for k, n := range have {
		if want[k] {
			continue
		}
		if p.byName[k.dev] == nil {
			delete(have, k) // they went with their device
			continue
		}
		fixed := n.State&unix.NUD_PERMANENT != 0 || n.State&unix.NUD_NOARP != 0 && n.Flags&unix.NTF_EXT_LEARNED != 0
		ch := k.change(Remove, n.HardwareAddr, nudState(n))
		switch {
		case p.r.made.neighbours[k], p.first && p.exclusive[k.dev] && fixed:
			if p.do(ch, "delete neighbour", func() error { return p.r.h.NeighDel(&n) }) {
				delete(have, k)
			} else {
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
		k := neighKey{n.Dev, n.Addr}
		cur, found := have[k]
		if found && sameMAC(cur.HardwareAddr, n.MAC) && nudState(cur) == n.wantState() {
			continue
		}
		ch := k.change(Add, n.MAC, n.wantState())
		if found {
			ch = Change{Modify, "neighbour", n.Addr.String(), macDetail(n.Dev, "lladdr %s %s, want lladdr %s %s", cur.HardwareAddr, nudState(cur), n.MAC, n.wantState())}
		}
		dev, ok := p.device(ch, n.Dev)
		if !ok {
			continue
		}
		nn := netlink.Neigh{LinkIndex: dev, IP: n.Addr.AsSlice(), HardwareAddr: n.MAC, State: unix.NUD_PERMANENT}
		if n.ExternLearned {
			nn.Flags = unix.NTF_EXT_LEARNED
		}
		p.later(queued{
			change: ch, verb: "set neighbour",
			request: setNeighbour(familyOf(n.Addr), dev, n.Addr, n.MAC, uint8(nn.Flags)),
			done:    func() { have[k] = nn },
		})
	}
	p.flush()
}

// listNeighbours is what the kernel has. All namespaces share one table, and to
// list one of them the kernel walks it whole: in a lab of n full meshes that is
// n times n entries. So the list is kept while nobody reports a change of it.
func (p *pass) listNeighbours() (map[neighKey]netlink.Neigh, error) {
	if p.r.neighbours != nil {
		return p.r.neighbours, nil
	}
	have := map[neighKey]netlink.Neigh{}
	if !p.onlyFresh() {
		// Family 0 lists ARP and NDP together.
		list, err := dump(func() ([]netlink.Neigh, error) { return p.r.h.NeighList(0, unix.AF_UNSPEC) })
		if err != nil {
			return nil, err
		}
		for _, n := range list {
			if dev := p.byIndex[n.LinkIndex]; dev != "" && n.Family != unix.AF_BRIDGE {
				have[neighKey{dev, addrOf(n.IP)}] = n
			}
		}
	}
	p.r.neighbours = have
	return have, nil
}

// onlyFresh says that all devices whose neighbours matter were made in this
// pass: they have none yet.
func (p *pass) onlyFresh() bool {
	if !p.first {
		return false
	}
	for dev := range p.exclusive {
		if p.byName[dev] != nil && !p.fresh[dev] {
			return false
		}
	}
	for _, n := range p.want.Neighbours {
		if p.byName[n.Dev] != nil && !p.fresh[n.Dev] {
			return false
		}
	}
	return true
}

// forgetNeighbours drops what is known of a device that is made anew.
func (p *pass) forgetNeighbours(dev string) {
	maps.DeleteFunc(p.r.neighbours, func(k neighKey, _ netlink.Neigh) bool { return k.dev == dev })
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

// macDetail is a neighbour's or FDB entry's detail.
func macDetail(dev, rest string, args ...any) string {
	return "dev " + dev + " " + fmt.Sprintf(rest, args...)
}
