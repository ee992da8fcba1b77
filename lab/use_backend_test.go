package lab

import (
	"strings"
	"testing"
)

func TestUseBackend(t *testing.T) {
	const file = `network: {Network: 10.244.0.0/16, SubnetLen: 25, backend: {Type: vxlan, VNI: 7}}
segments: {lan: {subnet: 192.168.50.0/24}}
nodes: {node1: {}, node2: {}}
`
	for _, tt := range []struct {
		backend string
		mtu     int
		err     string
	}{
		{"vxlan", 1450, ""},
		{"host-gw", 1500, ""},
		{"HOST-GW", 1500, ""},
		{"calico-routed", 1500, ""},
		{"calico-vxlan", 1450, ""},
		{"calico-ipip", 1480, ""},
		{"gre", 0, `"gre" is unknown; use one of host-gw`},
	} {
		t.Run(tt.backend, func(t *testing.T) {
			spec, err := Parse("x.yaml", []byte(file))
			if err != nil {
				t.Fatal(err)
			}
			if err := spec.UseBackend(tt.backend); tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %q", err, tt.err)
				}
				return
			} else if err != nil {
				t.Fatal(err)
			}
			p, err := NewPlan(spec, Machine{GCThresh3: 1024})
			if err != nil {
				t.Fatal(err)
			}
			if p.Backend != strings.ToLower(tt.backend) || p.Nodes[0].MTU != tt.mtu {
				t.Errorf("backend %s, MTU %d, want %s, %d", p.Backend, p.Nodes[0].MTU, tt.backend, tt.mtu)
			}
			if c := p.Calico; c != nil {
				if p.Network != nil || c.Pool != p.Pool || c.BlockSize != 25 {
					t.Errorf("calico %+v beside network %s: want the pool as it was, and blocks as large as the subnets were", *c, p.Network)
				}
				return
			}
			if n := string(p.Network); strings.Contains(n, "VNI") || !strings.Contains(n, `"SubnetLen":25`) {
				t.Errorf("network %s: want the pool as it was and nothing of the other backend's options", n)
			}
		})
	}
}
