package udp

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"labctl/backends"
	"labctl/backends/backendtest"
	"labctl/nodes"
	"labctl/nodes/nodestest"
)

func TestMain(m *testing.M) { nodestest.Main(m) }

func network() netip.Prefix { return netip.MustParsePrefix("10.244.0.0/16") }

func newBackend(t testing.TB, options string) *Backend {
	t.Helper()
	b, err := New(json.RawMessage(options), network())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(options string) backends.Backend { return newBackend(t, options) })
}

func lease(subnet, ip string) backends.Lease {
	return backends.Lease{Subnet: netip.MustParsePrefix(subnet), PublicIP: netip.MustParseAddr(ip)}
}

func testUnderlay() nodes.Underlay {
	return nodes.Underlay{
		Dev: "eth0", Addr: netip.MustParseAddr("192.168.50.1"),
		Prefix: netip.MustParsePrefix("192.168.50.1/24"), MTU: 1500,
	}
}

// Seeds C2 and C4.
func TestDesired(t *testing.T) {
	b := newBackend(t, "")
	got, problems := b.Desired(lease("10.244.1.0/24", "192.168.50.1"), []backends.Lease{lease("10.244.2.0/24", "192.168.50.2")}, testUnderlay())
	if len(problems) > 0 {
		t.Error(problems)
	}
	want := nodes.State{
		Links:  []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "flannel0", MTU: 1472}}},
		Addrs:  []nodes.Addr{{Dev: "flannel0", Prefix: netip.MustParsePrefix("10.244.1.0/32")}},
		Routes: []nodes.Route{{Dst: network(), Dev: "flannel0"}},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("Desired() (-want +got):\n%s", diff)
	}
}

func TestUnderlayProblems(t *testing.T) {
	small, six := testUnderlay(), testUnderlay()
	small.MTU = 603
	six.Addr = netip.MustParseAddr("fd00::1")
	for _, tt := range []struct {
		name string
		u    nodes.Underlay
		want string
	}{
		{"small MTU", small, "eth0: mtu 603 leaves 575 for containers, IPv4 needs 576; set it to 604 or more"},
		{"IPv6", six, "eth0: address fd00::1: backend udp needs IPv4; give the device an IPv4 address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBackend(t, "")
			self := lease("10.244.1.0/24", "192.168.50.1")
			_, problems := b.Desired(self, nil, tt.u)
			if len(problems) != 1 || problems[0].Error() != tt.want {
				t.Errorf("Desired() problems = %v, want %s", problems, tt.want)
			}
			if _, err := b.Open(self, tt.u, nil); err == nil || err.Error() != tt.want {
				t.Errorf("Open() = %v, want %s", err, tt.want)
			}
		})
	}
}

func TestUsable(t *testing.T) {
	self := lease("10.244.1.0/24", "192.168.50.1")
	named, other, six := lease("10.244.2.0/24", "192.168.50.2"), lease("10.244.3.0/24", "192.168.50.3"), lease("10.244.4.0/24", "fd00::4")
	named.BackendType, other.BackendType = "udp", "vxlan"
	good, problems := usable(self, []backends.Lease{named, other, six})
	if len(good) != 1 || good[0].PublicIP != named.PublicIP {
		t.Errorf("usable() = %v, want %s", good, named.PublicIP)
	}
	if len(problems) != 2 || !strings.Contains(problems[0].Error(), `"vxlan"`) || !strings.Contains(problems[1].Error(), "not IPv4") {
		t.Errorf("problems = %v", problems)
	}
}

func TestConfig(t *testing.T) {
	if c := newBackend(t, "").Config; c != (Config{Port: 8285, Level: "auto", VerifySource: true}) {
		t.Errorf("defaults = %+v", c)
	}
	c := newBackend(t, `{"Type":"udp","PORT":9000,"level":"Batch","verifysource":false,"MTU":"what flannel does not know"}`).Config
	if c != (Config{Port: 9000, Level: "batch"}) {
		t.Errorf("config = %+v", c)
	}
	if c := newBackend(t, `{"Port":0,"Level":""}`).Config; c.Port != 8285 || c.Level != "auto" {
		t.Errorf("config = %+v, want the defaults", c)
	}
	for in, field := range map[string]string{
		`{"Port":"x"}`:         "Backend.Port",
		`{"Port":-1}`:          "Backend.Port",
		`{"Port":65536}`:       "Backend.Port",
		`{"Level":"fast"}`:     "Backend.Level",
		`{"Level":2}`:          "Backend.Level",
		`{"VerifySource":"x"}`: "Backend.VerifySource",
		`[]`:                   "Backend",
	} {
		_, err := New(json.RawMessage(in), network())
		if c, ok := errors.AsType[*backends.ConfigError](err); !ok || c.Field != field {
			t.Errorf("New(%s) = %v, want an error at %s", in, err, field)
		}
	}
}

func FuzzNew(f *testing.F) {
	f.Add(`{"Type":"udp","Port":8285,"Level":"gso","VerifySource":true}`)
	f.Fuzz(func(t *testing.T, options string) {
		b, err := New(json.RawMessage(options), network())
		if err != nil {
			return
		}
		s, _ := b.Desired(lease("10.244.1.0/24", "192.168.50.1"), nil, testUnderlay())
		if err := nodes.Check(s); err != nil {
			t.Error(err)
		}
	})
}
