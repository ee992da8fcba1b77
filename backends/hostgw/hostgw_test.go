package hostgw

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"labctl/backends"
	"labctl/backends/backendtest"
	"labctl/nodes"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(options string) backends.Backend {
		b, err := New(json.RawMessage(options))
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

func lease(subnet, ip, typ string) backends.Lease {
	return backends.Lease{Subnet: netip.MustParsePrefix(subnet), PublicIP: netip.MustParseAddr(ip), BackendType: typ}
}

// Seeds E1 and E3.
func TestDesired(t *testing.T) {
	u := nodes.Underlay{Dev: "eth0", Addr: netip.MustParseAddr("10.168.0.2"), Prefix: netip.MustParsePrefix("10.168.0.2/24"), MTU: 1500}
	self := lease("100.96.1.0/24", "10.168.0.2", Type)
	for _, tt := range []struct {
		name    string
		peer    backends.Lease
		via     string // "" for no route
		problem string
	}{
		{"on-link", lease("100.96.2.0/24", "10.168.0.3", Type), "10.168.0.3", ""},
		{"behind a router", lease("100.96.2.0/24", "10.168.1.3", Type), "", "peer 10.168.1.3: 100.96.2.0/24: not on-link: eth0 is in 10.168.0.0/24"},
		{"another backend", lease("100.96.2.0/24", "10.168.0.3", "vxlan"), "", `backend type "vxlan"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := New(nil)
			if err != nil {
				t.Fatal(err)
			}
			got, problems := b.Desired(self, []backends.Lease{tt.peer}, u)
			var want nodes.State
			if tt.via != "" {
				want.Routes = []nodes.Route{{Dst: tt.peer.Subnet, Via: netip.MustParseAddr(tt.via), Dev: "eth0"}}
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			var told []string
			for _, p := range problems {
				told = append(told, p.Error())
			}
			if all := strings.Join(told, "\n"); (all != "") != (tt.problem != "") || !strings.Contains(all, tt.problem) {
				t.Errorf("problems %q, want %q", all, tt.problem)
			}
		})
	}
}

func TestOptions(t *testing.T) {
	if _, err := New(json.RawMessage(`{"Type":"host-gw","Later":1}`)); err != nil {
		t.Errorf("an unknown option: %v, want it ignored as flannel does", err)
	}
	if _, err := New(json.RawMessage(`[]`)); err == nil {
		t.Error("an array was taken for the Backend object")
	}
}
