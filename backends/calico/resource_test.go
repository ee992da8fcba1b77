package calico

import (
	"net/netip"
	"strings"
	"testing"
)

// What is stored is read back: each encapsulation as the pool's two modes.
func TestConfigValues(t *testing.T) {
	t.Parallel()
	for _, e := range Encapsulations() {
		for _, routes := range Sources() {
			c := Config{Pool: netip.MustParsePrefix("10.244.0.0/16"), BlockSize: 26, Encapsulation: e, Routes: routes, MaxBlocks: 20}
			values, err := c.values()
			if err != nil {
				t.Fatal(err)
			}
			got, err := parseConfig(func(key string) []byte { return []byte(values[key]) })
			if both := e.vxlan() && routes == BGP; both != (err != nil) || both && !strings.Contains(err.Error(), "without encapsulation or with IPIP only") {
				t.Errorf("%s, routes by %s: %v", e, routes, err)
			}
			if got != c {
				t.Errorf("read back %+v, want %+v", got, c)
			}
		}
	}
}

// The address of a host's tunnel device stands where Calico has it.
func TestNodeValue(t *testing.T) {
	t.Parallel()
	base := Node{Name: "node1", Address: netip.MustParsePrefix("192.168.50.1/24")}
	for dev, want := range map[string]string{
		"":          `"spec":{"bgp":{"ipv4Address":"192.168.50.1/24"}}`,
		VXLANDevice: `"spec":{"bgp":{"ipv4Address":"192.168.50.1/24"},"ipv4VXLANTunnelAddr":"10.244.1.0"}`,
		IPIPDevice:  `"spec":{"bgp":{"ipv4Address":"192.168.50.1/24","ipv4IPIPTunnelAddr":"10.244.1.0"}}`,
	} {
		n := base
		if dev != "" {
			n.Tunnel, n.Device = netip.MustParseAddr("10.244.1.0"), dev
		}
		v, err := n.value()
		if err != nil || !strings.Contains(v, want) {
			t.Errorf("%q: %s, %v, want %s", dev, v, err, want)
		}
		if got, err := parseNode([]byte(v)); err != nil || got.Tunnel != n.Tunnel || got.Device != n.Device {
			t.Errorf("%q: read back %+v, %v, want %+v", dev, got, err, n)
		}
	}
	for _, bad := range []string{
		`{"spec":{"bgp":{}}}`,
		`{"spec":{"bgp":{"ipv4Address":"fd00::1/64"}}}`,
		`{"spec":{"bgp":{"ipv4Address":"192.168.50.1/24","ipv4IPIPTunnelAddr":"fd00::2"}}}`,
	} {
		if n, err := parseNode([]byte(bad)); err == nil {
			t.Errorf("%s: %+v, want an error", bad, n)
		}
	}
}

// A tunnel device has its address by Calico's own name, and no container's name
// is taken for it, not even that of the device.
func TestTunnelClaim(t *testing.T) {
	t.Parallel()
	for e, want := range map[Encapsulation]attribute{
		VXLAN:           {"vxlan-tunnel-addr-node1", map[string]string{"node": "node1", "type": "vxlanTunnelAddress"}},
		IPIPCrossSubnet: {"ipip-tunnel-addr-node1", map[string]string{"node": "node1", "type": "ipipTunnelAddress"}},
	} {
		b := newBlock(netip.MustParsePrefix("10.244.1.0/29"), "node1")
		device, container := b.take("node1", e.TunnelName()), b.take("node1", e.Device())
		if got := b.attributes[0]; got.Handle != want.Handle || got.Secondary["type"] != want.Secondary["type"] || got.Secondary["node"] != "node1" {
			t.Errorf("%s: %+v, want %+v", e, got, want)
		}
		if a, _ := b.of("node1", e.TunnelName()); a != device {
			t.Errorf("%s: the device has %s, want %s", e, a, device)
		}
		if a := b.Allocations()[1]; a.Addr != container || a.Name != e.Device() {
			t.Errorf("%s: the container has %+v, want %s", e, a, container)
		}
	}
}
