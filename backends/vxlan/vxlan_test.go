package vxlan

import (
	"encoding/json"
	"errors"
	"net"
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

func mac(t *testing.T, s string) net.HardwareAddr {
	t.Helper()
	m, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func lease(subnet, ip, data string) backends.Lease {
	return backends.Lease{
		Subnet: netip.MustParsePrefix(subnet), PublicIP: netip.MustParseAddr(ip),
		BackendType: Type, BackendData: json.RawMessage(data),
	}
}

func testUnderlay() nodes.Underlay {
	return nodes.Underlay{
		Dev: "eth0", Addr: netip.MustParseAddr("192.168.50.1"),
		Prefix: netip.MustParsePrefix("192.168.50.1/24"), MTU: 1500,
	}
}

func ownLease() backends.Lease {
	return lease("10.244.1.0/24", "192.168.50.1", `{"VNI":1,"VtepMAC":"6a:00:00:00:00:01"}`)
}

// Seeds D1 to D4.
func TestDesired(t *testing.T) {
	b, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, problems := b.Desired(ownLease(), []backends.Lease{
		lease("10.244.2.0/24", "192.168.50.2", `{"VNI":1,"VtepMAC":"6a:00:00:00:00:02"}`),
		lease("10.244.3.0/24", "192.168.50.3", `{"VtepMAC":"6a:00:00:00:00:03"}`), // of an old flannel
	}, testUnderlay())
	if len(problems) > 0 {
		t.Error(problems)
	}
	base2, base3 := netip.MustParseAddr("10.244.2.0"), netip.MustParseAddr("10.244.3.0")
	mac2, mac3 := mac(t, "6a:00:00:00:00:02"), mac(t, "6a:00:00:00:00:03")
	want := nodes.State{
		Links: []nodes.Link{nodes.VXLAN{
			LinkAttrs: nodes.LinkAttrs{Name: "flannel.1", MTU: 1450, MAC: mac(t, "6a:00:00:00:00:01")},
			VNI:       1, Port: 8472, Local: netip.MustParseAddr("192.168.50.1"), Dev: "eth0",
		}},
		Addrs: []nodes.Addr{{Dev: "flannel.1", Prefix: netip.MustParsePrefix("10.244.1.0/32")}},
		Routes: []nodes.Route{
			{Dst: netip.MustParsePrefix("10.244.2.0/24"), Via: base2, Dev: "flannel.1", OnLink: true},
			{Dst: netip.MustParsePrefix("10.244.3.0/24"), Via: base3, Dev: "flannel.1", OnLink: true},
		},
		Neighbours: []nodes.Neighbour{{Dev: "flannel.1", Addr: base2, MAC: mac2}, {Dev: "flannel.1", Addr: base3, MAC: mac3}},
		FDB: []nodes.FDBEntry{
			{Dev: "flannel.1", MAC: mac2, Dst: netip.MustParseAddr("192.168.50.2")},
			{Dev: "flannel.1", MAC: mac3, Dst: netip.MustParseAddr("192.168.50.3")},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("Desired() (-want +got):\n%s", diff)
	}
}

// A host with two leases has one VTEP for both.
func TestTwoLeasesOfOneHost(t *testing.T) {
	b, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	const data = `{"VNI":1,"VtepMAC":"6a:00:00:00:00:02"}`
	got, problems := b.Desired(ownLease(), []backends.Lease{
		lease("10.244.2.0/24", "192.168.50.2", data), lease("10.244.3.0/24", "192.168.50.2", data),
	}, testUnderlay())
	if len(problems) > 0 {
		t.Error(problems)
	}
	if err := nodes.Check(got); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]nodes.FDBEntry{{Dev: "flannel.1", MAC: mac(t, "6a:00:00:00:00:02"), Dst: netip.MustParseAddr("192.168.50.2")}}, got.FDB, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("FDB (-want +got):\n%s", diff)
	}
	if len(got.Routes) != 2 || len(got.Neighbours) != 2 {
		t.Errorf("%d routes and %d neighbours, want 2 of each", len(got.Routes), len(got.Neighbours))
	}
}

func TestDirectRouting(t *testing.T) {
	b, err := New(json.RawMessage(`{"Type":"vxlan","directrouting":true}`))
	if err != nil {
		t.Fatal(err)
	}
	got, problems := b.Desired(ownLease(), []backends.Lease{
		lease("10.244.2.0/24", "192.168.50.2", ``), // needs no MAC
		lease("10.244.3.0/24", "192.168.51.3", `{"VNI":1,"VtepMAC":"6a:00:00:00:00:03"}`),
	}, testUnderlay())
	if len(problems) > 0 {
		t.Error(problems)
	}
	want := []nodes.Route{
		{Dst: netip.MustParsePrefix("10.244.2.0/24"), Via: netip.MustParseAddr("192.168.50.2"), Dev: "eth0"},
		{Dst: netip.MustParsePrefix("10.244.3.0/24"), Via: netip.MustParseAddr("10.244.3.0"), Dev: "flannel.1", OnLink: true},
	}
	if diff := cmp.Diff(want, got.Routes, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	if len(got.Neighbours) != 1 || len(got.FDB) != 1 {
		t.Errorf("%d neighbours, %d FDB entries, want one of each", len(got.Neighbours), len(got.FDB))
	}
}

func TestPeerProblems(t *testing.T) {
	tests := []struct{ name, data, want string }{
		{"no data", ``, "missing"},
		{"junk", `"x"`, "BackendData"},
		{"another VNI", `{"VNI":2,"VtepMAC":"6a:00:00:00:00:02"}`, "VNI 2, ours is 1"},
		{"no MAC", `{"VNI":1}`, "not a MAC"},
		{"bad MAC", `{"VNI":1,"VtepMAC":"6a:00"}`, "not a MAC"},
		{"EUI-64", `{"VNI":1,"VtepMAC":"6a:00:00:00:00:00:00:02"}`, "not a MAC"},
		{"zero MAC", `{"VNI":1,"VtepMAC":"00:00:00:00:00:00"}`, "not the address of one device"},
		{"multicast MAC", `{"VNI":1,"VtepMAC":"ff:ff:ff:ff:ff:ff"}`, "not the address of one device"},
		{"our MAC", `{"VNI":1,"VtepMAC":"6a:00:00:00:00:01"}`, "also that of 192.168.50.1"},
		{"a peer's MAC", `{"VNI":1,"VtepMAC":"6a:00:00:00:00:02"}`, "also that of 192.168.50.2"},
	}
	good := lease("10.244.2.0/24", "192.168.50.2", `{"VNI":1,"VtepMAC":"6a:00:00:00:00:02"}`)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b, err := New(nil)
			if err != nil {
				t.Fatal(err)
			}
			s, problems := b.Desired(ownLease(), []backends.Lease{lease("10.244.3.0/24", "192.168.50.3", tt.data), good}, testUnderlay())
			if len(problems) != 1 || !strings.Contains(problems[0].Error(), tt.want) || !strings.HasPrefix(problems[0].Error(), "peer 192.168.50.3: 10.244.3.0/24: ") {
				t.Errorf("problems = %v, want %q", problems, tt.want)
			}
			if len(s.Routes) != 1 || s.Routes[0].Dst != good.Subnet {
				t.Errorf("routes = %+v, want the good peer's", s.Routes)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	b, err := New(json.RawMessage(`{"Type":"vxlan","vni":7,"PORT":4789,"MTU":1400,"GBP":true,"Learning":true,"MacPrefix":"0E-2A"}`))
	if err != nil {
		t.Fatal(err)
	}
	s, _ := b.Desired(ownLease(), nil, testUnderlay())
	v, ok := s.Links[0].(nodes.VXLAN)
	if !ok || v.Name != "flannel.7" || v.VNI != 7 || v.Port != 4789 || v.MTU != 1350 || !v.GBP || !v.Learning {
		t.Errorf("device = %+v", v)
	}
	if data, err := b.Data(ownLease().BackendData); err != nil || string(data) != `{"VNI":7,"VtepMAC":"6a:00:00:00:00:01"}` {
		t.Errorf("Data() = %s, %v", data, err)
	}
	for in, field := range map[string]string{
		`{"VNI":"x"}`:      "Backend.VNI",
		`{"VNI":-1}`:       "Backend.VNI",
		`{"VNI":16777216}`: "Backend.VNI",
		`{"VNI":10000000}`: "Backend.VNI",
		`{"Port":65536}`:   "Backend.Port",
		`{"MTU":50}`:       "Backend.MTU",
		`{"Learning":1}`:   "Backend.Learning",
		`[]`:               "Backend",
	} {
		_, err := New(json.RawMessage(in))
		if c, ok := errors.AsType[*backends.ConfigError](err); !ok || c.Field != field {
			t.Errorf("New(%s) = %v, want an error at %s", in, err, field)
		}
	}
}

func TestNewMAC(t *testing.T) {
	for range 100 {
		if m := newMAC(); m[0]&3 != 2 {
			t.Fatalf("%s is not a locally administered address of one device", m)
		}
	}
}

func FuzzNew(f *testing.F) {
	f.Add(`{"Type":"vxlan","VNI":7}`, `{"VNI":1,"VtepMAC":"6a:00:00:00:00:02"}`)
	f.Fuzz(func(t *testing.T, options, data string) {
		b, err := New(json.RawMessage(options))
		if err != nil {
			return
		}
		if _, err := b.Data(json.RawMessage(data)); err != nil {
			t.Fatal(err)
		}
		s, _ := b.Desired(ownLease(), []backends.Lease{lease("10.244.2.0/24", "192.168.50.2", data)}, testUnderlay())
		if err := nodes.Check(s); err != nil {
			t.Error(err)
		}
	})
}
