package lab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDiffPlans(t *testing.T) {
	t.Parallel()
	const base = `
name: x
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.50.0/24}, wan: {subnet: 192.168.60.0/24}}
routers: {r1: {segments: [lan, wan]}}
nodes: {node1: {segment: lan}, node2: {segment: lan, containers: [c1, {name: c2, serve: [80]}]}}
`
	for _, c := range []struct {
		name     string
		old, new string
		want     []string
	}{
		{"nothing", "", "", nil},
		{"comments and layout", "name: x", "# lab\nname:   x", nil},
		{"fewer containers", "[c1, {name: c2, serve: [80]}]", "1", []string{"node2: containers 1, was 2", "node2: container c2: removed"}},
		{"more containers", "node1: {segment: lan}", "node1: {segment: lan, containers: 2}", []string{"node1: containers 2, was 1", "node1: container c2: new"}},
		{"ports", "serve: [80]", "publish: [\"80:80\"]", []string{"node2: container c2: serve none, was [80]", "node2: container c2: publish [{80 80}], was none"}},
		{"a pinned address", "node1: {segment: lan}", "node1: {segment: lan, address: 192.168.50.9}", []string{"node1: address 192.168.50.9, was 192.168.50.1", "node2: address 192.168.50.1, was 192.168.50.2"}},
		{"mtu", "192.168.50.0/24}", "192.168.50.0/24, mtu: 9000}", []string{"segment lan: mtu 9000, was 1500"}},
		{"a node less", "node1: {segment: lan}, ", "", []string{"node1: removed", "node2: address 192.168.50.1, was 192.168.50.2"}},
		{"internet", "routers:", "internet: {subnet: 203.0.113.0/24}\nrouters:", []string{"router r1: routes [default via 203.0.113.1], was none", "internet: new"}},
		{"lease", "routers:", "leaseTTL: 1m\nrouters:", []string{"leaseTTL 1m0s, was 30s"}},
		{"backend option", "vxlan}", "vxlan, VNI: 2}", []string{`network {"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":2}}, was {"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`}},
		{"a segment for management", "wan: {subnet: 192.168.60.0/24}}", "wan: {subnet: 192.168.60.0/24}, mgmt: {subnet: 192.168.70.0/24, management: on}}", []string{
			"segment mgmt: new", "etcd: segment mgmt, was lan", "etcd: address 192.168.70.254, was 192.168.50.254",
			"node1: management [mgmt 192.168.70.1], was none", "node2: management [mgmt 192.168.70.2], was none"}},
		{"order", "{lan: {subnet: 192.168.50.0/24}, wan: {subnet: 192.168.60.0/24}}", "{wan: {subnet: 192.168.60.0/24}, lan: {subnet: 192.168.50.0/24}}\netcd: {segment: lan}", []string{"order of nodes, containers or segments: changed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := mustPlan(t, "x.yaml", []byte(base), Machine{GCThresh3: 1024})
			b := mustPlan(t, "x.yaml", []byte(strings.Replace(base, c.old, c.new, 1)), Machine{GCThresh3: 8192})
			if diff := cmp.Diff(c.want, DiffPlans(a, b)); diff != "" {
				t.Errorf("DiffPlans (-want +got):\n%s", diff)
			}
		})
	}
}
