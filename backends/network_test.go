package backends

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// U1.
func TestParseNetwork(t *testing.T) {
	tests := []struct {
		name, in        string
		network         string
		length          int
		lowest, highest string
		backend         string
	}{
		{"defaults", `{"network":"10.3.0.0/16"}`, "10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0", "udp"},
		{"host bits", `{"Network":"10.3.7.1/16"}`, "10.3.0.0/16", 24, "10.3.1.0", "10.3.255.0", "udp"},
		{"small", `{"Network":"10.3.0.0/23"}`, "10.3.0.0/23", 25, "10.3.0.128", "10.3.1.128", "udp"},
		{"/22 still has /24", `{"Network":"10.3.0.0/22"}`, "10.3.0.0/22", 24, "10.3.1.0", "10.3.3.0", "udp"},
		{"smallest", `{"Network":"10.3.0.0/28"}`, "10.3.0.0/28", 30, "10.3.0.4", "10.3.0.12", "udp"},
		{"last of all", `{"Network":"255.0.0.0/8"}`, "255.0.0.0/8", 24, "255.0.1.0", "255.255.255.0", "udp"},
		{"overrides", `{"NETWORK":"10.3.0.0/16","SubnetLen":28,"SubnetMin":"10.3.5.0","SubnetMax":"10.3.8.16","unknown":1,"Backend":{"type":"VXLAN","VNI":3}}`,
			"10.3.0.0/16", 28, "10.3.5.0", "10.3.8.16", "vxlan"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, err := ParseNetwork([]byte(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			want := Pool{netip.MustParsePrefix(tt.network), tt.length, netip.MustParseAddr(tt.lowest), netip.MustParseAddr(tt.highest)}
			if n.Pool != want || n.BackendType != tt.backend {
				t.Errorf("ParseNetwork() = %+v %s, want %+v %s", n.Pool, n.BackendType, want, tt.backend)
			}
			if err := n.Supported(); err != nil {
				t.Errorf("Supported() = %v", err)
			}
		})
	}
}

func TestParseNetworkIPv6(t *testing.T) {
	n, err := ParseNetwork([]byte(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Pool{netip.MustParsePrefix("fc00::/48"), 64, netip.MustParseAddr("fc00:0:0:1::"), netip.MustParseAddr("fc00:0:0:ffff::")}
	if n.IPv6 != want || n.Pool != (Pool{}) || n.IPv6.Size() != 0xffff {
		t.Errorf("ParseNetwork() = %+v, want %+v", n, want)
	}
	if err := n.Supported(); err == nil || !strings.Contains(err.Error(), "not supported yet") {
		t.Errorf("Supported() = %v", err)
	}
}

func TestParseNetworkErrors(t *testing.T) {
	tests := []struct{ in, field, text string }{
		{`{`, "", "not JSON"},
		{`[]`, "", "not an object"},
		{`{}`, "Network", "missing"},
		{`{"Network":null}`, "Network", "missing"},
		{`{"Network":7}`, "Network", "want text"},
		{`{"Network":"10.3.0.0"}`, "Network", "not an IPv4 prefix"},
		{`{"Network":"fd00::/48"}`, "Network", "not an IPv4 prefix"},
		{`{"Network":"::ffff:10.3.0.0/112"}`, "Network", "not an IPv4 prefix"},
		{`{"Network":"10.3.0.0/29"}`, "Network", "too small"},
		{`{"Network":"10.3.0.0/16","SubnetLen":31}`, "SubnetLen", "no room"},
		{`{"Network":"10.3.0.0/16","SubnetLen":17}`, "SubnetLen", "fewer than four"},
		{`{"Network":"10.3.0.0/16","SubnetLen":-1}`, "SubnetLen", "0 or more"},
		{`{"Network":"10.3.0.0/16","SubnetMin":"10.4.0.0"}`, "SubnetMin", "outside"},
		{`{"Network":"10.3.0.0/16","SubnetMin":"10.3.0.7"}`, "SubnetMin", "not the base"},
		{`{"Network":"10.3.0.0/16","SubnetMax":"10.4.0.0"}`, "SubnetMax", "outside"},
		{`{"Network":"10.3.0.0/16","SubnetMax":"x"}`, "SubnetMax", "not an IPv4 address"},
		{`{"Network":"10.3.0.0/16","SubnetMin":"10.3.9.0","SubnetMax":"10.3.8.0"}`, "SubnetMin", "no subnet"},
		{`{"Network":"10.3.0.0/16","Backend":{}}`, "Backend.Type", "missing"},
		{`{"Network":"10.3.0.0/16","Backend":{"Type":1}}`, "Backend.Type", "want text"},
		{`{"Network":"10.3.0.0/16","Backend":"vxlan"}`, "Backend", "not an object"},
		{`{"EnableIPv4":false}`, "EnableIPv4", "both"},
		{`{"EnableIPv6":true,"Network":"10.3.0.0/16"}`, "IPv6Network", "missing"},
		{`{"EnableIPv6":true,"Network":"10.3.0.0/16","IPv6Network":"fc00::/125"}`, "IPv6Network", "too small"},
		{`{"EnableIPv6":true,"Network":"10.3.0.0/16","IPv6Network":"fc00::/48","IPv6SubnetLen":127}`, "IPv6SubnetLen", "no room"},
	}
	for _, tt := range tests {
		_, err := ParseNetwork([]byte(tt.in))
		c, ok := errors.AsType[*ConfigError](err)
		if !ok || c.Field != tt.field || !strings.Contains(c.Text, tt.text) {
			t.Errorf("ParseNetwork(%s) = %v, want %s: %s", tt.in, err, tt.field, tt.text)
		}
	}
}

func FuzzParseNetwork(f *testing.F) {
	f.Add([]byte(`{"Network":"10.3.0.0/16","SubnetLen":24,"Backend":{"Type":"vxlan"}}`))
	f.Add([]byte(`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}`))
	f.Add([]byte(`{"Network":"0.0.0.0/0","SubnetLen":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := ParseNetwork(data)
		if err != nil {
			return
		}
		for _, p := range []Pool{n.Pool, n.IPv6} {
			for _, s := range p.free(nil, 3) {
				if !p.Allows(s) {
					t.Errorf("%s: free subnet %s of %+v is not allowed", data, s, p)
				}
			}
		}
	})
}

// drawPool is any pool that the config can describe.
func drawPool(t *rapid.T) Pool {
	bits := rapid.IntRange(4, 28).Draw(t, "bits")
	length := rapid.IntRange(bits+2, 30).Draw(t, "SubnetLen")
	a := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")
	addr, _ := netip.AddrFromSlice(a)
	raw, _ := json.Marshal(map[string]any{"Network": netip.PrefixFrom(addr, bits).String(), "SubnetLen": length})
	n, err := ParseNetwork(raw)
	if err != nil {
		t.Fatal(err)
	}
	return n.Pool
}

// What is chosen overlaps nothing, lies within SubnetMin and SubnetMax, and
// is found as long as there is room.
func TestChooseProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPool(t)
		r := Request{Network: Network{Pool: p, EnableIPv4: true}, Attrs: Attrs{PublicIP: netip.MustParseAddr("192.168.50.1")}}
		var s Snapshot
		for range rapid.IntRange(0, 20).Draw(t, "others") {
			free := p.free(s.taken, 5)
			if len(free) == 0 {
				break
			}
			got := rapid.SampledFrom(free).Draw(t, "subnet")
			if rapid.Bool().Draw(t, "large") { // of an earlier config, say
				got = netip.PrefixFrom(got.Addr(), rapid.IntRange(p.Network.Bits()+1, p.SubnetLen).Draw(t, "length")).Masked()
			}
			s.taken = append(s.taken, got)
		}
		if rapid.Bool().Draw(t, "previous") {
			a := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "previous address")
			addr, _ := netip.AddrFromSlice(a)
			r.Previous = netip.PrefixFrom(addr, p.SubnetLen).Masked()
		}
		c, err := choose(s, r)
		if err != nil {
			if free := p.free(s.taken, 1); len(free) > 0 {
				t.Fatalf("%v, but %s is free", err, free[0])
			}
			return
		}
		if !p.Allows(c.subnet) || overlapsAny(c.subnet, s.taken) {
			t.Fatalf("chose %s of %+v, taken %v", c.subnet, p, s.taken)
		}
	})
}

func TestPoolSizeCountsFree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPool(t)
		if n := p.Size(); n <= 5000 {
			if got := len(p.free(nil, n+1)); got != n {
				t.Fatalf("%+v: Size() = %d, %d free", p, n, got)
			}
		}
	})
}
