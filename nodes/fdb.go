package nodes

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fdbKey is an entry's device and MAC, the bytes of which mac has.
type fdbKey struct{ dev, mac string }

func (k fdbKey) hardware() net.HardwareAddr { return net.HardwareAddr(k.mac) }

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
	have, err := p.listFDB()
	if err != nil {
		p.fail("fdb", "list", err)
		return
	}
	want := make(map[fdbKey][]netip.Addr, len(p.want.FDB))
	for _, f := range p.want.FDB {
		k := fdbKey{f.Dev, string(f.MAC)}
		want[k] = append(want[k], f.Dst)
	}
	made := make(map[fdbKey]bool, len(want))
	for k := range want {
		made[k] = true
	}
	for k, entries := range have {
		dev := p.byName[k.dev]
		if dev == nil || !devs[k.dev] || len(want[k]) > 0 && !flooding(k.hardware()) {
			continue // gone, nobody's business, or replaced below
		}
		for _, dst := range slices.Clone(entries) {
			if slices.Contains(want[k], dst) {
				continue
			}
			ch := fdbChange(Remove, k, dst)
			if p.r.made.fdb[k] || p.first && p.exclusive[k.dev] {
				gone := p.do(ch, "delete fdb", func() error {
					return p.r.h.NeighDel(&netlink.Neigh{
						LinkIndex: dev.Attrs().Index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF,
						IP: dst.AsSlice(), HardwareAddr: k.hardware(), State: unix.NUD_PERMANENT,
					})
				})
				made[k] = made[k] || !gone
				if gone {
					have[k] = slices.DeleteFunc(have[k], func(a netip.Addr) bool { return a == dst })
				}
			} else {
				p.foreign = append(p.foreign, ch)
			}
		}
	}
	if !p.dry {
		p.r.made.fdb = made
	}
	for _, f := range p.want.FDB {
		k := fdbKey{f.Dev, string(f.MAC)}
		if slices.Contains(have[k], f.Dst) {
			continue
		}
		ch := fdbChange(Add, k, f.Dst)
		if old := have[k]; len(old) > 0 && !flooding(f.MAC) {
			ch = Change{Modify, "fdb", f.MAC.String(), macDetail(k.dev, "dst %s, want %s", old[0], f.Dst)}
		}
		dev, ok := p.device(ch, f.Dev)
		if !ok {
			continue
		}
		r := setNeighbour(unix.AF_BRIDGE, dev, f.Dst, f.MAC, unix.NTF_SELF)
		done := func() { have[k] = []netip.Addr{f.Dst} }
		if flooding(f.MAC) { // it goes to several hosts
			r.flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
			done = func() { have[k] = append(have[k], f.Dst) }
		}
		p.later(queued{change: ch, verb: "set fdb", request: r, done: done})
	}
	p.flush()
}

// listFDB is what the kernel's VXLAN devices have: where their permanent entries
// lead to.
func (p *pass) listFDB() (map[fdbKey][]netip.Addr, error) {
	if p.r.fdb != nil {
		return p.r.fdb, nil
	}
	list, err := dump(func() ([]netlink.Neigh, error) { return p.r.h.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		return nil, err
	}
	have := map[fdbKey][]netip.Addr{}
	for _, n := range list {
		dev := p.byIndex[n.LinkIndex]
		if dev != "" && n.Flags&unix.NTF_SELF != 0 && n.State&unix.NUD_PERMANENT != 0 && n.IP != nil {
			k := fdbKey{dev, string(n.HardwareAddr)}
			have[k] = append(have[k], addrOf(n.IP))
		}
	}
	p.r.fdb = have
	return have, nil
}

func fdbChange(a Action, k fdbKey, dst netip.Addr) Change {
	return Change{a, "fdb", k.hardware().String(), macDetail(k.dev, "dst %s", dst)}
}
