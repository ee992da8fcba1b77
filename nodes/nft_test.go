package nodes_test

import (
	"net/netip"
	"regexp"
	"testing"

	"labctl/nodes"
)

// TestSets holds that a set's members are mended without a new table: its
// counters go on. nft is the witness.
func TestSets(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "policy")[0]
	r := newReconciler(t, ns)
	table := func(members ...string) nodes.State {
		set := nodes.Set{Name: "web"}
		for _, m := range members {
			set.Addrs = append(set.Addrs, netip.MustParseAddr(m))
		}
		return nodes.State{
			Links: []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "lo"}}},
			Tables: []nodes.Table{{Name: "labctl-t", Sets: []nodes.Set{set}, Chains: []nodes.Chain{
				{Name: "out", Hook: nodes.Output, Rules: []nodes.Rule{{Verdict: nodes.Jump, Chain: "judge"}}},
				{Name: "judge", Rules: []nodes.Rule{{DstSet: "web", Protocol: "icmp", Verdict: nodes.Drop, Comment: "seen"}}},
			}}},
		}
	}
	holds := func(expr string) {
		t.Helper()
		if out := must(t, ns, "nft list table inet labctl-t"); !regexp.MustCompile(expr).MatchString(out) {
			t.Errorf("nft list table:\n%s\nwant a match of %s", out, expr)
		}
	}
	apply(t, r, table("127.0.0.2", "127.0.0.3"))
	holds(`elements = \{ 127.0.0.2, 127.0.0.3 \}`)
	_, _ = try(t, ns, "ping -c1 -W1 127.0.0.3") // which is not answered
	holds(`ip daddr @web .*counter packets 1 bytes 84 drop comment "seen"`)

	apply(t, r, table("127.0.0.3", "127.0.0.4"))
	holds(`elements = \{ 127.0.0.3, 127.0.0.4 \}`)
	holds(`counter packets 1 `)

	must(t, ns, "nft add element inet labctl-t web { 127.0.0.9 }")
	if d := apply(t, r, table("127.0.0.3", "127.0.0.4")); len(d.Changes) != 1 {
		t.Errorf("Apply() = %v, want the set mended", d.Changes)
	}
	holds(`elements = \{ 127.0.0.3, 127.0.0.4 \}`)
	holds(`counter packets 1 `)

	// A rule that was changed takes the whole table anew.
	must(t, ns, "nft flush chain inet labctl-t judge")
	apply(t, r, table("127.0.0.3", "127.0.0.4"))
	holds(`counter packets 0 `)
	clean(t, r)

	tables, err := ns.Tables()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range tables.Rules {
		if x.Chain != "judge" {
			continue
		}
		p := nodes.Packet{Protocol: 1, Network: []byte{12: 127, 0, 0, 1, 127, 0, 0, 4}}
		if matches, sure := x.Matches(p); !matches || !sure {
			t.Errorf("Matches(to a member) = %v, %v; want true, true", matches, sure)
		}
		p.Network[19] = 9
		if matches, sure := x.Matches(p); matches || !sure {
			t.Errorf("Matches(to another) = %v, %v; want false, true", matches, sure)
		}
	}
}
