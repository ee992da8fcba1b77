package backends

import (
	"net/netip"
	"testing"

	"labctl/nodes"
)

// decide is what the NAT chain does to a packet without a mark.
func decide(rules []nodes.Rule, src, dst string) nodes.Verdict {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	for _, r := range rules {
		if r.MarkMask != 0 ||
			r.Src.IsValid() && !r.Src.Contains(s) || r.NotSrc.IsValid() && r.NotSrc.Contains(s) ||
			r.Dst.IsValid() && !r.Dst.Contains(d) || r.NotDst.IsValid() && r.NotDst.Contains(d) {
			continue
		}
		return r.Verdict
	}
	return nodes.Accept
}

func TestTrafficRules(t *testing.T) {
	network, subnet := netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("10.244.1.0/24")
	table := TrafficRules(network, subnet, true)
	if err := nodes.Check(nodes.State{Tables: []nodes.Table{table}}); err != nil {
		t.Error(err)
	}
	if len(table.Chains) != 2 || len(table.Chains[0].Rules) != 6 || len(table.Chains[1].Rules) != 2 {
		t.Fatalf("TrafficRules() = %+v, want 6 NAT and 2 forward rules", table)
	}
	tests := []struct {
		name, src, dst string
		want           nodes.Verdict
	}{
		{"container to container here", "10.244.1.2", "10.244.1.3", nodes.Return},
		{"container to remote container", "10.244.1.2", "10.244.2.2", nodes.Return},
		{"remote container to container", "10.244.2.2", "10.244.1.2", nodes.Return},
		{"outside to container", "8.8.8.8", "10.244.1.2", nodes.Return},
		{"container to outside", "10.244.1.2", "8.8.8.8", nodes.Masquerade},
		{"container to multicast", "10.244.1.2", "224.0.0.251", nodes.Accept},
		{"host to remote container", "192.168.50.1", "10.244.2.2", nodes.Masquerade},
		{"host to outside", "192.168.50.1", "8.8.8.8", nodes.Accept},
	}
	for _, tt := range tests {
		if got := decide(table.Chains[0].Rules, tt.src, tt.dst); got != tt.want {
			t.Errorf("%s: verdict %d, want %d", tt.name, got, tt.want)
		}
	}
	if got := TrafficRules(network, subnet, false); len(got.Chains) != 1 || got.Chains[0].Hook != nodes.Forward {
		t.Errorf("without masquerade: %+v", got)
	}
}
