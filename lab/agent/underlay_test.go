package agent

import (
	"errors"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"labctl/nodes"
)

// ways is what the kernel would answer.
type ways struct {
	dev string
	src netip.Addr
}

func (w ways) DefaultDevice() (string, error) { return w.dev, nil }

func (w ways) RouteTo(netip.Addr) (string, netip.Addr, netip.Addr, error) {
	if w.dev == "" {
		return "", netip.Addr{}, netip.Addr{}, errors.New("network is unreachable")
	}
	return w.dev, w.src, netip.Addr{}, nil
}

func TestChoice(t *testing.T) {
	t.Parallel()
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	devices := []nodes.Device{
		{Name: "lo", MTU: 65536, Addrs: []netip.Prefix{prefix("127.0.0.1/8")}},
		{Name: "eth0", MTU: 1500, Addrs: []netip.Prefix{prefix("10.0.2.15/24")}},
		{Name: "eth1", MTU: 9000, Addrs: []netip.Prefix{prefix("192.168.50.1/24"), prefix("192.168.51.1/24")}},
		{Name: "eth2", MTU: 1500},
	}
	out := ways{"eth0", addr("10.0.2.15")}
	res := func(s ...string) (all []*regexp.Regexp) {
		for _, s := range s {
			all = append(all, regexp.MustCompile(s))
		}
		return all
	}
	for _, tt := range []struct {
		name   string
		choice Choice
		ways   ways
		want   string // device and prefix, or what the error begins with
	}{
		{"the default route", Choice{}, out, "eth0 10.0.2.15/24"},
		{"no default route", Choice{}, ways{}, "underlay: there is no default route to take the device of"},
		{"a name", Choice{Ifaces: []string{"eth1"}}, out, "eth1 192.168.50.1/24"},
		{"an address", Choice{Ifaces: []string{"192.168.51.1"}}, out, "eth1 192.168.51.1/24"},
		{"the first name there is", Choice{Ifaces: []string{"enp1s0", "eth1", "eth0"}}, out, "eth1 192.168.50.1/24"},
		{"names before regexes", Choice{Ifaces: []string{"eth1"}, Regexes: res("eth0")}, out, "eth1 192.168.50.1/24"},
		{"a regex for an address", Choice{Regexes: res(`^192\.168\.51\.`)}, out, "eth1 192.168.51.1/24"},
		{"a regex for a name", Choice{Regexes: res("^nothing", "h1$")}, out, "eth1 192.168.50.1/24"},
		{"addresses before names", Choice{Regexes: res("0")}, out, "lo 127.0.0.1/8"},
		{"a way", Choice{CanReach: addr("192.168.51.7")}, ways{"eth1", addr("192.168.51.1")}, "eth1 192.168.51.1/24"},
		{"a way when no name fits", Choice{Ifaces: []string{"enp1s0"}, CanReach: addr("192.168.51.7")}, ways{"eth1", addr("192.168.51.1")}, "eth1 192.168.51.1/24"},
		{"no way", Choice{CanReach: addr("198.51.100.1")}, ways{}, "underlay: no way to 198.51.100.1"},
		{"nothing fits", Choice{Ifaces: []string{"enp1s0"}, Regexes: res("^wl")}, out, "underlay: no device fits --iface enp1s0, --iface-regex ^wl"},
		{"the public address alone", Choice{PublicIP: addr("192.168.51.1")}, out, "eth1 192.168.51.1/24"},
		{"the public address on the device", Choice{Ifaces: []string{"eth1"}, PublicIP: addr("192.168.51.1")}, out, "eth1 192.168.51.1/24"},
		{"NAT", Choice{PublicIP: addr("203.0.113.9")}, out, "underlay: no device here has the public address 203.0.113.9; an address that NAT brings here is not supported"},
		{"NAT on a device", Choice{Ifaces: []string{"eth0"}, PublicIP: addr("203.0.113.9")}, out, "underlay: no device here has the public address 203.0.113.9"},
		{"another device's", Choice{Ifaces: []string{"eth0"}, PublicIP: addr("192.168.50.1")}, out, "underlay: 192.168.50.1 is an address of eth1, not of eth0"},
		{"no address", Choice{Ifaces: []string{"eth2"}}, out, "underlay: eth2 has no IPv4 address"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			u, err := tt.choice.among(devices, tt.ways)
			if err != nil {
				e, ok := errors.AsType[*ChoiceError](err)
				if !ok || !strings.HasPrefix(e.Error(), tt.want) || e.Cure == "" {
					t.Errorf("among() = %v (%T), want %s, and a cure", err, err, tt.want)
				}
				return
			}
			if got := u.Dev + " " + u.Prefix.String(); got != tt.want || u.Addr != u.Prefix.Addr() || u.MTU == 0 {
				t.Errorf("among() = %+v, want %s", u, tt.want)
			}
		})
	}
}
