package nodes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// open makes a namespace and a Reconciler in it.
func open(t testing.TB) *Reconciler {
	t.Helper()
	ns, err := NewNamespace("a")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { ns.Close() })
	r, err := NewReconciler(ns, Owner{Protocol: 91})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestOwnNotifications holds that the monitor knows our own changes, which
// rests on a field of the netlink package.
func TestOwnNotifications(t *testing.T) {
	t.Parallel()
	r := open(t)
	if slices.Contains(r.ports, 0) {
		t.Fatal("portOf does not find the socket")
	}
	f, err := r.ns.listen(unix.NETLINK_ROUTE, 1<<(unix.RTNLGRP_IPV4_ROUTE-1)|1<<(unix.RTNLGRP_NEIGH-1), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	filtered, err := r.ns.listen(unix.NETLINK_ROUTE, 1<<(unix.RTNLGRP_IPV4_ROUTE-1)|1<<(unix.RTNLGRP_NEIGH-1), notFrom(r.ports))
	if err != nil {
		t.Fatal(err)
	}
	defer filtered.Close()
	m := &monitor{r: r, others: map[int]string{}}
	r.Set(State{
		Links:  []Link{Bridge{LinkAttrs: LinkAttrs{Name: "br0"}}},
		Routes: []Route{{Dst: netip.MustParsePrefix("10.0.0.0/8"), Kind: Blackhole}},
		Neighbours: []Neighbour{{Dev: "br0", Addr: netip.MustParseAddr("10.0.0.1"), MAC: []byte{2, 0, 0, 0, 0, 1}},
			{Dev: "br0", Addr: netip.MustParseAddr("10.0.0.2"), MAC: []byte{2, 0, 0, 0, 0, 1}}},
	})
	if _, err := r.Apply(context.Background()); err != nil {
		t.Fatal(err)
	}
	f.SetReadDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 16<<10)
	for range 3 {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if m.matters(buf[:n]) {
			t.Errorf("our own change would cause a pass: % x", buf[:n])
		}
	}
	// Somebody else's passes the filter.
	other, err := openBatch(r.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer other.close()
	theirs := kroute{dst: netip.MustParsePrefix("10.9.0.0/16"), kind: unix.RTN_BLACKHOLE, protocol: 77}
	if err := other.send([]request{setRoute(theirs, 0, nil)}, func(_ int, err error) {
		if err != nil {
			t.Fatal(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	filtered.SetReadDeadline(time.Now().Add(5 * time.Second))
	for found := false; !found; {
		n, err := filtered.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(r.ports, binary.NativeEndian.Uint32(buf[12:])) {
			t.Errorf("the filter lets pass what we did: % x", buf[:n])
		}
		found = bytes.Contains(buf[:n], []byte{10, 9, 0, 0}) // after the kernel's own about lo
	}
}

// TestTouchOutlivesAbortedPass holds that a change of the neighbours which was
// reported is not forgotten with a pass that did not come as far.
func TestTouchOutlivesAbortedPass(t *testing.T) {
	t.Parallel()
	r := open(t)
	r.Set(State{
		Links:      []Link{Bridge{LinkAttrs: LinkAttrs{Name: "br0"}}},
		Neighbours: []Neighbour{{Dev: "br0", Addr: netip.MustParseAddr("10.0.0.1"), MAC: []byte{2, 0, 0, 0, 0, 1}}},
	})
	if _, err := r.listen(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second lists what there is
		if _, err := r.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	h, err := openHandle(r.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	list, err := h.NeighList(0, unix.AF_INET)
	list = slices.DeleteFunc(list, func(n netlink.Neigh) bool { return n.IP.IsMulticast() }) // the kernel's own
	if err != nil || len(list) != 1 {
		t.Fatalf("neighbours: %v, %v, want one", list, err)
	}
	if err := h.NeighDel(&list[0]); err != nil {
		t.Fatal(err)
	}
	reported := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.stale.neighbours
	}
	for deadline := time.Now().Add(5 * time.Second); !reported(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the monitor does not tell")
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Apply(ended); err == nil {
		t.Fatal("Apply with an ended context: no error")
	}
	d, err := r.Apply(t.Context())
	if err != nil || len(d.Changes) != 1 || d.Changes[0].Kind != "neighbour" {
		t.Errorf("Apply() = %+v, %v, want the neighbour put back", d, err)
	}
}

// TestBatch holds that each request of a batch gets its own outcome, in more
// than one system call, and that good ones are done beside bad ones.
func TestBatch(t *testing.T) {
	t.Parallel()
	r := open(t)
	var list []request
	for i := range 3 * batchSize / 2 {
		k := kroute{dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24), kind: unix.RTN_BLACKHOLE, protocol: 91}
		index := 0
		if i%3 == 1 {
			k.kind, index = unix.RTN_UNICAST, 12345 // no such device
		}
		list = append(list, setRoute(k, index, nil))
	}
	var outcome []error
	for range 2 { // replacing is no error
		outcome = nil
		if err := r.batch.send(list, func(i int, err error) {
			if i != len(outcome) {
				t.Fatalf("outcome %d after %d", i, len(outcome))
			}
			outcome = append(outcome, err)
		}); err != nil {
			t.Fatal(err)
		}
	}
	good := 0
	for i, err := range outcome {
		if bad := i%3 == 1; bad != errors.Is(err, unix.ENODEV) || !bad && err != nil {
			t.Errorf("outcome %d: %v", i, err)
		} else if !bad {
			good++
		}
	}
	there, err := r.h.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: 91}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		t.Fatal(err)
	}
	if len(there) != good || len(outcome) != len(list) {
		t.Errorf("%d routes after %d outcomes, want %d after %d", len(there), len(outcome), good, len(list))
	}
}

func TestRouteMatters(t *testing.T) {
	in := interest{protocol: 96, routes: map[netip.Prefix]bool{
		netip.MustParsePrefix("10.1.0.0/16"): true, netip.MustParsePrefix("0.0.0.0/0"): true, netip.MustParsePrefix("fd00::/64"): true,
	}}
	msg := func(dst string, table, protocol byte) []byte {
		k := kroute{dst: netip.MustParsePrefix(dst), kind: unix.RTN_UNICAST, protocol: int(protocol)}
		r := setRoute(k, 3, nil)
		r.body[4] = table
		return append(r.body[:], r.attrs...)
	}
	for _, test := range []struct {
		name string
		msg  []byte
		want bool
	}{
		{"ours", msg("10.9.0.0/16", unix.RT_TABLE_MAIN, 96), true},
		{"another owner's", msg("10.9.0.0/16", unix.RT_TABLE_MAIN, 97), false},
		{"another owner's in our place", msg("10.1.0.0/16", unix.RT_TABLE_MAIN, 97), true},
		{"another length", msg("10.1.0.0/24", unix.RT_TABLE_MAIN, 97), false},
		{"default", msg("0.0.0.0/0", unix.RT_TABLE_MAIN, unix.RTPROT_BOOT), true},
		{"default of IPv6", msg("::/0", unix.RT_TABLE_MAIN, unix.RTPROT_BOOT), false},
		{"IPv6", msg("fd00::/64", unix.RT_TABLE_MAIN, unix.RTPROT_BOOT), true},
		{"local table", msg("10.1.0.0/16", unix.RT_TABLE_LOCAL, unix.RTPROT_KERNEL), false},
		{"short", []byte{2}, true},
	} {
		if got := in.route(test.msg); got != test.want {
			t.Errorf("%s: route() = %v, want %v", test.name, got, test.want)
		}
	}
}

func TestNeighbourMatters(t *testing.T) {
	in := interest{addrs: map[netip.Addr]bool{netip.MustParseAddr("10.0.0.1"): true}, devs: map[int]bool{3: true}}
	msg := func(family, index, state, flags byte, ip ...byte) []byte {
		return append([]byte{family, 0, 0, 0, index, 0, 0, 0, state, 0, flags, 0, 8, 0, unix.NDA_DST, 0}, ip...)
	}
	for _, test := range []struct {
		name string
		msg  []byte
		want bool
	}{
		{"arp", msg(unix.AF_INET, 3, unix.NUD_REACHABLE, 0, 10, 0, 0, 9), false},
		{"arp for a wanted address", msg(unix.AF_INET, 3, unix.NUD_FAILED, 0, 10, 0, 0, 1), true},
		{"permanent", msg(unix.AF_INET, 3, unix.NUD_PERMANENT, 0, 10, 0, 0, 9), true},
		{"extern_learn", msg(unix.AF_INET, 3, unix.NUD_STALE, unix.NTF_EXT_LEARNED, 10, 0, 0, 9), true},
		{"permanent on somebody else's device", msg(unix.AF_INET, 4, unix.NUD_PERMANENT, 0, 10, 0, 0, 9), false},
		{"multicast group", msg(unix.AF_INET, 3, unix.NUD_NOARP, 0, 224, 0, 0, 22), false},
		{"short", []byte{2}, true},
	} {
		if got := in.neighbour(test.msg); got != test.want {
			t.Errorf("%s: neighbour() = %v, want %v", test.name, got, test.want)
		}
	}
}

// TestForwarding holds that FDB entries matter where they are not as wanted, and
// that none makes a pass list the neighbours of all namespaces.
func TestForwarding(t *testing.T) {
	t.Parallel()
	mac, other, peer := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}, netip.MustParseAddr("10.0.0.1")
	in := interest{vxlans: map[int]string{7: "flannel.1"}}.with(State{FDB: []FDBEntry{{Dev: "flannel.1", MAC: mac, Dst: peer}}})
	message := func(kind uint16, index int, state byte, mac net.HardwareAddr, dst string) []byte {
		r := setNeighbour(unix.AF_BRIDGE, index, netip.MustParseAddr(dst), mac, unix.NTF_SELF)
		r.body[8] = state
		b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+unix.SizeofNdMsg+len(r.attrs)))
		b = binary.NativeEndian.AppendUint16(b, kind)
		b = append(b, make([]byte, unix.SizeofNlMsghdr-len(b))...) // no flags, no cause
		return append(append(b, r.body[:unix.SizeofNdMsg]...), r.attrs...)
	}
	for _, test := range []struct {
		name string
		msg  []byte
		want bool
	}{
		{"what is wanted comes", message(unix.RTM_NEWNEIGH, 7, unix.NUD_PERMANENT, mac, "10.0.0.1"), false},
		{"it goes", message(unix.RTM_DELNEIGH, 7, unix.NUD_PERMANENT, mac, "10.0.0.1"), true},
		{"it leads elsewhere", message(unix.RTM_NEWNEIGH, 7, unix.NUD_PERMANENT, mac, "10.0.0.2"), true},
		{"another comes", message(unix.RTM_NEWNEIGH, 7, unix.NUD_PERMANENT, other, "10.0.0.1"), true},
		{"another goes", message(unix.RTM_DELNEIGH, 7, unix.NUD_PERMANENT, other, "10.0.0.1"), true},
		{"one is learned", message(unix.RTM_NEWNEIGH, 7, unix.NUD_REACHABLE, other, "10.0.0.1"), false},
		{"a bridge's", message(unix.RTM_NEWNEIGH, 3, unix.NUD_PERMANENT, other, "10.0.0.1"), false},
	} {
		r := &Reconciler{interest: in, touched: map[int]bool{}}
		m := &monitor{r: r, others: map[int]string{}}
		if got := m.matters(test.msg); got != test.want {
			t.Errorf("%s: matters() = %v, want %v", test.name, got, test.want)
		}
		if r.stale.neighbours {
			t.Errorf("%s: the neighbours would be listed", test.name)
		}
	}
}

// TestOwnForwarding holds that the kernel's notifications of our own FDB entries,
// which do not say whose doing they are, cause no pass.
func TestOwnForwarding(t *testing.T) {
	t.Parallel()
	r := open(t)
	f, err := r.ns.listen(unix.NETLINK_ROUTE, 1<<(unix.RTNLGRP_NEIGH-1), notFrom(r.ports))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const entries = 5
	local := netip.MustParseAddr("192.0.2.1")
	st := State{
		Links: []Link{Bridge{LinkAttrs: LinkAttrs{Name: "br0"}}, VXLAN{LinkAttrs: LinkAttrs{Name: "flannel.1"}, VNI: 1, Port: 8472, Local: local, Dev: "br0"}},
		Addrs: []Addr{{Dev: "br0", Prefix: netip.PrefixFrom(local, 24)}},
	}
	for i := range byte(entries) {
		st.FDB = append(st.FDB, FDBEntry{Dev: "flannel.1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, i}, Dst: netip.AddrFrom4([4]byte{192, 0, 2, 10 + i})})
	}
	r.Set(st)
	if d, err := r.Apply(t.Context()); err != nil || len(d.Changes) < entries {
		t.Fatalf("Apply() = %+v, %v", d, err)
	}
	m := &monitor{r: r, others: map[int]string{}}
	buf := make([]byte, 16<<10)
	if err := f.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for seen := 0; seen < entries; {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if buf[unix.SizeofNlMsghdr] == unix.AF_BRIDGE {
			seen++
		}
		if m.matters(buf[:n]) || r.stale != (lists{}) {
			t.Errorf("our own entry would cause a pass: % x", buf[:n])
		}
	}
}

// TestDeviceMatters holds that a device of somebody else's, what is told of it
// from then on, and its settings, wake nobody.
func TestDeviceMatters(t *testing.T) {
	own := interest{names: map[string]bool{"lo": true, "eth0": true}, refs: map[int]bool{1: true, 2: true}, others: map[int]string{3: "cni0"}}
	port := func(kind uint16, index byte, name string, master uint32) func(*monitor, interest) bool {
		r := request{kind: kind}
		if master != 0 {
			r.attr(unix.IFLA_MASTER, binary.NativeEndian.AppendUint32(nil, master))
		}
		if name != "" {
			r.attr(unix.IFLA_IFNAME, append([]byte(name), 0))
		}
		body := append([]byte{0, 0, 0, 0, index, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, r.attrs...)
		return func(m *monitor, in interest) bool { return m.link(in, kind, body) }
	}
	link := func(kind uint16, index byte, name string) func(*monitor, interest) bool {
		return port(kind, index, name, 0)
	}
	device := func(index int) func(*monitor, interest) bool {
		return func(m *monitor, in interest) bool { return !m.foreign(in, index) }
	}
	setting := func(index int32) func(*monitor, interest) bool {
		r := request{}
		r.attr(1, binary.NativeEndian.AppendUint32(nil, uint32(index)))
		return func(m *monitor, in interest) bool { return m.setting(in, append([]byte{2, 0, 0, 0}, r.attrs...)) }
	}
	const up, down = unix.RTM_NEWLINK, unix.RTM_DELLINK
	type step struct {
		name string
		msg  func(*monitor, interest) bool
		want bool
	}
	for _, test := range []struct {
		name  string
		in    interest
		steps []step
	}{
		{"before the first pass", interest{}, []step{{"any link", link(up, 9, "veth1"), true}, {"any device", device(9), true}}},
		{"ours", own, []step{{"changes", link(up, 2, "eth0"), true}, {"renamed", link(up, 2, "old"), true}, {"goes", link(down, 2, "eth0"), true},
			{"comes again with another number", link(up, 7, "eth0"), true}, {"is given an address", device(7), true}}},
		{"of somebody else", own, []step{{"changes", link(up, 3, "cni0"), false}, {"address", device(3), false}, {"setting", setting(3), false}}},
		{"a new one of somebody else", own, []step{{"address first", device(8), true}, {"comes", link(up, 8, "flannel.1"), false}, {"address", device(8), false},
			{"takes our name", link(up, 8, "eth0"), true}, {"address", device(8), true}}},
		{"one that was there", own, []step{{"takes our name", link(up, 3, "eth0"), true}, {"address", device(3), true}}},
		{"a port", own, []step{{"of ours", port(up, 8, "veth1", 2), true}, {"of somebody else's", port(up, 9, "veth2", 3), false}}},
		{"that the next State speaks of", own.with(State{Addrs: []Addr{{Dev: "cni0"}, {Dev: "veth1"}}}), []step{{"there", device(3), true},
			{"comes", link(up, 8, "veth1"), true}, {"another", link(up, 9, "veth2"), false}}},
		{"a number that is used again", own, []step{{"comes", link(up, 8, "a"), false}, {"goes", link(down, 8, "a"), false}, {"address of another", device(8), true}}},
		{"settings", own, []step{{"all", setting(-1), true}, {"default", setting(-2), true}, {"ours", setting(2), true}, {"unknown", setting(20), true}}},
		{"without a name", own, []step{{"link", link(up, 3, ""), true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := &monitor{others: map[int]string{}}
			for _, s := range test.steps {
				if got := s.msg(m, test.in); got != s.want {
					t.Errorf("%s: matters = %v, want %v", s.name, got, s.want)
				}
			}
		})
	}
}

// TestSysctlTrees holds that settings are found by directories that are kept
// open, each namespace's its own, and again when a device's have come and gone.
func TestSysctlTrees(t *testing.T) {
	t.Parallel()
	a, b := open(t), open(t)
	const key = "net/ipv4/ip_forward"
	for _, r := range []*Reconciler{a, b} {
		want := map[*Reconciler]string{a: "1", b: "0"}[r]
		for range 2 { // at first, and by what is open
			r.Set(State{Sysctls: []Sysctl{{Key: key, Value: want}}})
			if _, err := r.Apply(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for r, want := range map[*Reconciler]string{a: "1\n", b: "0\n"} {
		err := r.ns.Do(func() error {
			got, err := os.ReadFile("/proc/sys/" + key)
			if string(got) != want {
				t.Errorf("%s = %q, want %q", key, got, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(a.ns.trees.dirs) != 1 {
		t.Errorf("%d directories are open, want that of net/ipv4", len(a.ns.trees.dirs))
	}
	for range 2 {
		s := State{Links: []Link{Bridge{LinkAttrs: LinkAttrs{Name: "br0"}}}, Sysctls: []Sysctl{{Key: "net/ipv4/conf/br0/rp_filter", Value: "2"}}}
		for _, s := range []State{s, {}} {
			a.Set(s)
			if d, err := a.Apply(t.Context()); err != nil || len(s.Links) > 0 && len(d.Changes) < 2 {
				t.Fatal(d, err)
			}
		}
	}
	a.Set(State{Sysctls: []Sysctl{{Key: "net/ipv4/conf/br0/rp_filter", Value: "2"}, {Key: "net/nothing/at/all", Value: "1"}}})
	if _, err := a.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "net/nothing/at/all") {
		t.Errorf("a setting that is not there: %v", err)
	}
	if err := a.ns.Close(); err != nil || len(a.ns.trees.dirs) > 0 {
		t.Errorf("after Close %d directories are open: %v", len(a.ns.trees.dirs), err)
	}
}

// TestTablesAreLookedAt holds that a State whose tables are as before does not
// have them listed, and that nothing else is missed by that.
func TestTablesAreLookedAt(t *testing.T) {
	t.Parallel()
	r := open(t)
	state := func(dst string, verdict Verdict) State {
		return State{
			Routes: []Route{{Dst: netip.MustParsePrefix(dst), Kind: Blackhole}},
			Tables: []Table{{Name: "labctl-x", Chains: []Chain{{Name: "forward", Hook: Forward, Rules: []Rule{{Verdict: verdict}}}}}},
		}
	}
	pass := func() []string {
		t.Helper()
		p, err := r.pass(t.Context(), true, true)
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, c := range p.done {
			kinds = append(kinds, c.Kind)
		}
		return kinds
	}
	for _, step := range []struct {
		name string
		do   func()
		due  bool
		want []string
	}{
		{"the first", func() { r.Set(state("10.1.0.0/16", Accept)) }, true, []string{"link", "route", "nftables"}},
		{"nothing new", func() {}, false, nil},
		{"another route", func() { r.Set(state("10.2.0.0/16", Accept)) }, false, []string{"route", "route"}},
		{"another table", func() { r.Set(state("10.2.0.0/16", Drop)) }, true, []string{"nftables"}},
		{"held and released", func() { r.Hold(true); r.Hold(false) }, true, nil},
	} {
		step.do()
		if r.tables != step.due {
			t.Errorf("%s: tables are due: %v, want %v", step.name, r.tables, step.due)
		}
		if got := pass(); !slices.Equal(got, step.want) {
			t.Errorf("%s: changed %v, want %v", step.name, got, step.want)
		}
	}
}

// TestFingerprint holds that the kernel lists rules as they were given.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	r := open(t)
	p4, p6 := netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/11")
	table := Table{Name: "t", Chains: []Chain{
		{Name: "b", Hook: PostroutingNAT, Rules: []Rule{
			{Src: p4, NotDst: p4, OutDev: "eth0", Verdict: Masquerade, Comment: "x: y"}, {NotSrc: p6, Dst: p6, NotOutDev: "lo", Verdict: Masquerade},
		}},
		{Name: "a", Hook: PreroutingNAT, Rules: []Rule{
			{Local: true, Protocol: "tcp", DstPort: 80, Verdict: DNAT, To: netip.MustParseAddrPort("[fd00::1]:8080")},
			{Protocol: "udp", Verdict: DNAT, To: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 0)},
		}},
		{Name: "c", Hook: Forward, Rules: []Rule{{InDev: "eth0", Mark: 4, MarkMask: 4, Verdict: Drop}, {Mark: 4, MarkMask: 0xffffffff, Verdict: Return}, {Verdict: Accept}}},
		{Name: "d", Hook: Input}, {Name: "e", Hook: Output}, {Name: "f", Hook: OutputNAT},
		{Name: "g", Rules: []Rule{
			{SrcSet: "full", DstSet: "empty", NotSrcs: []netip.Prefix{p4}, NotDsts: []netip.Prefix{p4, p4}, Protocol: "icmp", Verdict: Return},
			{State: Established | Related, Verdict: Accept}, {Protocol: "tcp", DstPort: 80, DstPortEnd: 90, Verdict: Drop},
		}},
		{Name: "i", Hook: PreroutingRaw, Rules: []Rule{{Src: p4, Dst: p4, Verdict: NoTrack}}},
		{Name: "h", Hook: Forward, Rules: []Rule{{Dst: p4, Verdict: Jump, Chain: "g", Comment: "on"}}},
	}, Sets: []Set{{Name: "full", Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")}}, {Name: "empty"}}}
	r.Set(State{Tables: []Table{table}})
	if _, err := r.Apply(context.Background()); err != nil {
		t.Fatal(err)
	}
	want, got := table.fingerprint(), r.made.tables["t"].have
	if !slices.Equal(got, want) {
		t.Errorf("listed:\n%q\nwant\n%q", got, want)
	}
}

// BenchmarkOffload is what NoOffload costs for each link and pass.
func BenchmarkOffload(b *testing.B) {
	r := open(b)
	r.Set(State{Links: []Link{Veth{LinkAttrs: LinkAttrs{Name: "eth0", NoOffload: true}, PeerName: "far"}}})
	for b.Loop() {
		if _, err := r.Apply(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// Between the list of a table's sets and the look into one it may go; that is
// no error. Another is.
func TestElementsOfSetThatIsGone(t *testing.T) {
	t.Parallel()
	err := open(t).ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		all, err := setElements(conn, &nftables.Set{Table: inetTable("gone"), Name: "gone"})
		if len(all) > 0 || err != nil {
			t.Errorf("setElements() = %v, %v, want none", all, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := nftables.New(nftables.WithNetNSFd(1 << 20))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := setElements(conn, &nftables.Set{Table: inetTable("gone"), Name: "gone"}); err == nil {
		t.Error("setElements() in no namespace: no error")
	}
}
