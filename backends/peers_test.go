package backends

import (
	"net/netip"
	"strings"
	"testing"
)

func testLease(subnet, ip, typ string) Lease {
	return Lease{Subnet: netip.MustParsePrefix(subnet), PublicIP: netip.MustParseAddr(ip), BackendType: typ}
}

func TestUsable(t *testing.T) {
	self := testLease("10.1.1.0/24", "192.168.50.1", "vxlan")
	good := testLease("10.1.2.0/24", "192.168.50.2", "vxlan")
	awaited := testLease("10.1.9.0/24", "192.168.50.9", "")
	awaited.Reserved = true
	tests := []struct {
		name    string
		peer    Lease
		usable  bool
		problem string
	}{
		{"own", self, false, ""},
		{"another", testLease("10.1.3.0/24", "192.168.50.3", "vxlan"), true, ""},
		{"reservation of a host to come", awaited, false, ""},
		{"our address", testLease("10.1.3.0/24", "192.168.50.1", "vxlan"), false, "our public address"},
		{"our subnet", testLease("10.1.1.0/24", "192.168.50.3", "vxlan"), false, "overlaps our subnet"},
		{"round our subnet", testLease("10.1.0.0/20", "192.168.50.3", "vxlan"), false, "overlaps our subnet"},
		{"inside another's", testLease("10.1.2.128/25", "192.168.50.3", "vxlan"), false, "overlaps 10.1.2.0/24 of 192.168.50.2"},
		{"other type", testLease("10.1.3.0/24", "192.168.50.3", "host-gw"), false, `type "host-gw"`},
		{"no type", testLease("10.1.3.0/24", "192.168.50.3", ""), false, `type ""`},
		{"nobody", testLease("10.1.3.0/24", "0.0.0.0", "vxlan"), false, "not"},
		{"multicast", testLease("10.1.3.0/24", "224.0.0.1", "vxlan"), false, "not"},
		{"other family", testLease("fd00::/64", "192.168.50.3", "vxlan"), false, "family"},
		{"no subnet", Lease{PublicIP: good.PublicIP}, false, "not a subnet"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			usable, problems := Usable(self, []Lease{tt.peer, good}, func(typ string) bool { return typ == "vxlan" })
			if got := len(usable) == 2; got != tt.usable || len(usable) == 0 {
				t.Errorf("usable = %+v, want it among them: %t", usable, tt.usable)
			}
			if tt.problem == "" && len(problems) > 0 || tt.problem != "" && (len(problems) != 1 || !strings.Contains(problems[0].Error(), tt.problem)) {
				t.Errorf("problems = %v, want %q", problems, tt.problem)
			}
		})
	}
}

func TestSnapshotPeers(t *testing.T) {
	n, err := ParseNetwork([]byte(`{"Network":"10.1.0.0/16"}`))
	if err != nil {
		t.Fatal(err)
	}
	self := testLease("10.1.1.0/24", "192.168.50.1", "vxlan")
	s := Snapshot{Leases: []Lease{
		self, testLease("10.1.2.0/24", "192.168.50.2", "vxlan"),
		testLease("0.0.0.0/1", "192.168.50.3", "vxlan"), testLease("10.2.0.0/24", "192.168.50.4", "vxlan"),
	}}
	peers, problems := s.Peers(self, n)
	if len(peers) != 1 || peers[0].Subnet.String() != "10.1.2.0/24" || len(problems) != 2 {
		t.Errorf("Peers() = %+v, %v", peers, problems)
	}
}
