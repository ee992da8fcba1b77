package nodes_test

import (
	"net/netip"
	"regexp"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

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

// TestOthersRules holds packets against rules that nft made, and reads one that
// only a program of somebody's can make.
func TestOthersRules(t *testing.T) {
	t.Parallel()
	ns := newNamespaces(t, "theirs")[0]
	must(t, ns, "nft add table inet t", "nft add chain inet t c { type filter hook forward priority 0 ; }")
	tcp := nodes.Packet{In: "eth0", Out: "cni0", Protocol: 6, State: nodes.New, Network: []byte{0: 0x45, 9: 6, 12: 10, 1, 0, 2, 10, 2, 0, 2}, Transport: []byte{0x90, 0, 0, 80, 0, 0, 0, 0}}
	for _, tt := range []struct {
		rule          string
		matches, sure bool
	}{
		{`iifname "eth0"`, true, true},
		{`iifname "eth*"`, true, true},
		{`iifname "eth1"`, false, true},
		{`iifname { "eth0", "eth1" }`, true, true},
		{`iifname { "eth1", "eth2" }`, false, true},
		{`oifname != { "eth0", "eth1" }`, true, true},
		{`meta l4proto { tcp, udp }`, true, true},
		{`tcp dport { 80, 443 }`, true, true},
		{`tcp dport { 22, 443 }`, false, true},
		{`ct state { new, established }`, true, true},
		{`ip saddr . tcp dport { 10.1.0.2 . 80 }`, true, false},
		{`tcp dport . ip saddr { 80 . 10.1.0.2 }`, true, false},
		{`ip saddr 10.1.0.0/16 tcp dport 80`, true, true},
		{`meta mark set 7 iifname "eth1"`, false, true},
	} {
		must(t, ns, "nft flush chain inet t c", "nft add rule inet t c "+tt.rule+" drop")
		tables, err := ns.Tables()
		if err != nil || len(tables.Rules) != 1 {
			t.Fatalf("%s: Tables() = %+v, %v", tt.rule, tables.Rules, err)
		}
		if matches, sure := tables.Rules[0].Matches(tcp); matches != tt.matches || sure != tt.sure {
			t.Errorf("%s: Matches() = %v, %v; want %v, %v (%s)", tt.rule, matches, sure, tt.matches, tt.sure, tables.Rules[0])
		}
	}
	must(t, ns, "nft flush chain inet t c")
	err := ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		table := &nftables.Table{Name: "t", Family: nftables.TableFamilyINet}
		conn.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: "c", Table: table}, UserData: []byte{0, 200},
			Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		return conn.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	if tables, err := ns.Tables(); err != nil || len(tables.Rules) != 1 || tables.Rules[0].Comment != "" {
		t.Errorf("Tables() = %+v, %v; want the rule without a comment", tables.Rules, err)
	}
}
