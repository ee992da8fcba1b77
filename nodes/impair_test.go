package nodes_test

import (
	"errors"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// wired are two namespaces joined by eth0, 192.0.2.1 and .2, with a Reconciler
// in the first.
func wired(t *testing.T) (a, b *nodes.Namespace, r *nodes.Reconciler) {
	t.Helper()
	all := newNamespaces(t, "a", "b")
	r = newReconciler(t, all[0])
	apply(t, r, nodes.State{
		Links:  []nodes.Link{nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}, PeerNamespace: all[1], PeerName: "eth0"}},
		Addrs:  []nodes.Addr{{Dev: "eth0", Prefix: netip.MustParsePrefix("192.0.2.1/24")}},
		Routes: []nodes.Route{{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.2"), Dev: "eth0"}},
	})
	other := newReconciler(t, all[1])
	apply(t, other, nodes.State{
		Links: []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}}},
		Addrs: []nodes.Addr{{Dev: "eth0", Prefix: netip.MustParsePrefix("192.0.2.2/24")}},
	})
	return all[0], all[1], r
}

func impair(t *testing.T, m *nodes.Impairer, want ...nodes.Impairment) {
	t.Helper()
	if err := m.Apply(want); err != nil {
		t.Fatalf("Apply(%+v): %v", want, err)
	}
}

// Impairments come and go one beside the other: what is there of one is the
// same object, with what it has counted, while another changes.
func TestImpairmentsDoNotResetEachOther(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("tc"), nodestest.Tool("nft"), nodestest.Tool("ping"))
	a, _, r := wired(t)
	m := nodes.NewImpairer(a)

	must(t, a, "ping -n -c 1 -W 5 192.0.2.2") // ARP
	drop := nodes.Impairment{Dev: "eth0", Drop: 100}
	impair(t, m, drop)
	if out, err := try(t, a, "ping -n -c 3 -i 0.01 -W 0.2 192.0.2.2"); err == nil {
		t.Errorf("ping with all dropped: %s", out)
	}
	counted := regexp.MustCompile(`counter packets ([1-9]\d*) bytes \d+ drop comment "labctl fault: 100 of 100"`)
	// A rule that was made anew would begin to count at 0.
	dropped := func(when string) int {
		t.Helper()
		out := must(t, a, "nft list table netdev labctl-fault")
		found := counted.FindStringSubmatch(out)
		if found == nil || !strings.Contains(out, "ingress") {
			t.Fatalf("%s: no rule that has dropped: %s", when, out)
		}
		return atoi(t, found[1])
	}
	before := dropped("drop")

	both := drop
	both.Rate = 10_000_000
	impair(t, m, both)
	shaped := must(t, a, "tc qdisc show dev eth0")
	if !strings.Contains(shaped, "qdisc tbf 1ab1: root") || !strings.Contains(shaped, "rate 10Mbit") {
		t.Errorf("rate: tc says %s", shaped)
	}
	if now := dropped("rate beside drop"); now < before {
		t.Errorf("rate beside drop: %d packets counted, %d before", now, before)
	}
	block := both
	block.Block = []nodes.Source{{Net: netip.MustParsePrefix("203.0.113.0/24")}, {MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}}}
	impair(t, m, block)
	if now := dropped("block beside both"); now < before {
		t.Errorf("block beside both: %d packets counted, %d before", now, before)
	}
	if out := must(t, a, "nft list table netdev labctl-fault"); !strings.Contains(out, "ip saddr 203.0.113.0/24") || !strings.Contains(out, "ether saddr 02:00:00:00:00:09") {
		t.Errorf("block: nft says %s", out)
	}
	faster := block
	faster.Rate = 20_000_000
	impair(t, m, faster)
	if out := must(t, a, "tc qdisc show dev eth0"); !strings.Contains(out, "rate 20Mbit") {
		t.Errorf("another rate: tc says %s", out)
	}
	n, err := m.Dropped()
	if err != nil || n["drop-eth0"] == 0 || n["block-eth0"] != 0 {
		t.Errorf("Dropped() = %v, %v, want some of drop-eth0 and none of block-eth0", n, err)
	}

	// Away with the first: the others stay.
	impair(t, m, nodes.Impairment{Dev: "eth0", Rate: faster.Rate, Block: faster.Block})
	if out := must(t, a, "nft list table netdev labctl-fault"); strings.Contains(out, "drop-eth0") || !strings.Contains(out, "block-eth0") {
		t.Errorf("without drop: nft says %s", out)
	}
	prints(t, a, "ping -n -c 1 -W 1 192.0.2.2", "1 received")
	impair(t, m)
	if out := must(t, a, "nft list tables"); strings.Contains(out, "labctl-fault") {
		t.Errorf("none: nft says %s", out)
	}
	if out := must(t, a, "tc qdisc show dev eth0"); strings.Contains(out, "tbf") {
		t.Errorf("none: tc says %s", out)
	}
	clean(t, r)
}

// A rate holds: the packets take their
// time. What is dropped is lost, in about the proportion that was asked for.
func TestImpairmentsDoWhatTheySay(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("ping"))
	a, _, _ := wired(t)
	m := nodes.NewImpairer(a)
	must(t, a, "ping -n -c 1 -W 5 192.0.2.2") // ARP
	impair(t, m, nodes.Impairment{Dev: "eth0", Drop: 30})
	out, _ := try(t, a, "ping -n -q -f -c 400 -W 1 192.0.2.2") // some are lost: status 1 is possible
	var sent, received int
	for line := range strings.Lines(out) {
		if strings.Contains(line, "transmitted") {
			f := strings.Fields(line)
			sent, received = atoi(t, f[0]), atoi(t, f[3])
		}
	}
	// 30 % of 400 is 120, with a standard deviation of 9.
	if lost := sent - received; sent != 400 || lost < 75 || lost > 165 {
		t.Errorf("drop 30: %d of %d lost, want about 120: %s", sent-received, sent, out)
	}
	// 15 pings of 1442 bytes are 21 kB, of which the bucket holds 9.
	impair(t, m, nodes.Impairment{Dev: "eth0", Rate: 200_000})
	from := time.Now()
	must(t, a, "ping -n -q -A -c 15 -s 1400 -W 10 192.0.2.2")
	if took := time.Since(from); took < 350*time.Millisecond {
		t.Errorf("rate 200 kbit/s: 21 kB took %v, want half a second", took)
	}
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n := 0
	for _, c := range s {
		if c < '0' || c > '9' {
			t.Fatalf("%q: not a number", s)
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// What is off on purpose stays off, and what the kernel took away with it
// comes back when it is on again.
func TestKeepDown(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("ip"))
	a, _, r := wired(t)
	run(t, r)
	m := nodes.NewImpairer(a)
	r.KeepDown([]string{"eth0"})
	impair(t, m, nodes.Impairment{Dev: "eth0", Down: true})
	if _, err := r.Apply(t.Context()); err != nil {
		t.Errorf("a pass while eth0 is off: %v", err)
	}
	if out := must(t, a, "ip link show eth0"); !strings.Contains(out, "state DOWN") {
		t.Errorf("eth0 kept down: ip says %s", out)
	}
	clean(t, r)
	r.KeepDown(nil)
	impair(t, m)
	prints(t, a, "ip route", "198.51.100.0/24 via 192.0.2.2 dev eth0")
	if out := must(t, a, "ip link show eth0"); strings.Contains(out, "state DOWN") {
		t.Errorf("eth0 on again: ip says %s", out)
	}
}

// What somebody else has put on a device is not replaced, a kernel that lacks
// something is told by name, and so is a device that is not there.
func TestImpairmentsThatCannotBe(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("tc"))
	a, _, _ := wired(t)
	m := nodes.NewImpairer(a)
	must(t, a, "tc qdisc add dev eth0 root handle 7: pfifo limit 10")
	if err := m.Apply([]nodes.Impairment{{Dev: "eth0", Rate: 1_000_000}}); err == nil || !strings.Contains(err.Error(), "a queueing discipline of somebody's: pfifo 7:") {
		t.Errorf("rate over a pfifo of somebody's: %v", err)
	}
	must(t, a, "tc qdisc del dev eth0 root")
	if err := m.Apply([]nodes.Impairment{{Dev: "eth9", Drop: 1}}); err == nil || err.Error() != "a:eth9: no such device" {
		t.Errorf("a device that is not there: %v", err)
	}
	err := m.Apply([]nodes.Impairment{{Dev: "eth0", Delay: 20 * time.Millisecond, Rate: 1_000_000}})
	if _, terr := try(t, a, "tc qdisc add dev lo root netem delay 1ms"); terr != nil {
		var missing *nodes.MissingError
		if !errors.As(err, &missing) || !strings.Contains(missing.What, "netem") {
			t.Errorf("delay without netem: %v, want it named", err)
		}
		impair(t, m)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if out := must(t, a, "tc qdisc show dev eth0"); !strings.Contains(out, "netem 1ab0: root") || !strings.Contains(out, "delay 20ms") || !strings.Contains(out, "tbf 1ab1: parent 1ab0:1") {
		t.Errorf("delay and rate: tc says %s", out)
	}
	impair(t, m, nodes.Impairment{Dev: "eth0", Rate: 1_000_000})
	if out := must(t, a, "tc qdisc show dev eth0"); strings.Contains(out, "netem") || !strings.Contains(out, "tbf 1ab1: root") {
		t.Errorf("rate alone: tc says %s", out)
	}
}
