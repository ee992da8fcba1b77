package nodes

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

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
		r := setNeighbour(unix.AF_BRIDGE, dev, f.Dst, f.MAC, unix.NTF_SELF)
		if flooding(f.MAC) { // it goes to several hosts
			r.flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
		}
		p.later(queued{change: ch, verb: "set fdb", request: r})
	}
	p.flush()
}

func fdbChange(a Action, k fdbKey, dst netip.Addr) Change {
	return Change{a, "fdb", k.mac, macDetail(k.dev, "dst %s", dst)}
}
