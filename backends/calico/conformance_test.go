package calico

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"testing"

	"labctl/backends"
	"labctl/backends/backendtest"
	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// What every backend does on a running kernel Calico does, too: Felix's routes,
// tunnels and rules among them, on hosts whose containers hang off a bridge.
func TestConformance(t *testing.T) {
	for _, e := range []Encapsulation{None, VXLAN, IPIP} {
		t.Run(string(e), func(t *testing.T) {
			b := leased{Config: Config{Pool: netip.MustParsePrefix("10.244.0.0/16"), BlockSize: 24, Encapsulation: e, Routes: FromStore, NATOutgoing: true, MaxBlocks: 1}}
			features := []nodestest.Feature{nodestest.NFT}
			switch {
			case e.vxlan():
				features = append(features, nodestest.VXLAN)
			case e.ipip() && !ipipHere(t):
				b.path = true
				features = append(features, nodestest.TUN)
			}
			backendtest.RunKernel(t, func(string) backends.Backend {
				if b.path {
					return carried{b}
				}
				return b
			}, features...)
		})
	}
}

// ipipHere says whether new namespaces have the kernel's IPIP device.
func ipipHere(t *testing.T) bool {
	nodestest.Require(t, nodestest.Netns)
	ns, err := nodes.NewNamespace("probe")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	devices, err := ns.Devices()
	if err != nil {
		t.Fatal(err)
	}
	return IPIPInKernel(devices)
}

// leased is Calico on a host that knows the others by leases: each subnet is a
// block, whose first address is the tunnel's. Its own block is its bridge's.
type leased struct {
	Config
	path bool
}

func (l leased) Type() string { return l.Backend() }

func (leased) Data(json.RawMessage) (json.RawMessage, error) { return nil, nil }

func (l leased) Desired(self backends.Lease, peers []backends.Lease, u nodes.Underlay) (nodes.State, []error) {
	return Desired(l.host(self, peers, u))
}

func (l leased) host(self backends.Lease, peers []backends.Lease, u nodes.Underlay) Host {
	h := Host{Config: l.Config, Name: self.PublicIP.String(), Underlay: u, Tunnel: self.Subnet.Addr(), Path: l.path}
	for _, p := range peers {
		h.Remotes = append(h.Remotes, Remote{Dst: p.Subnet, Host: p.PublicIP.String(), NextHop: p.PublicIP, Tunnel: p.Subnet.Addr()})
	}
	return h
}

// carried is leased where an IPIPPath wraps.
type carried struct{ leased }

var _ backends.Carrier = carried{}

func (c carried) Open(_ backends.Lease, u nodes.Underlay, log *slog.Logger) (backends.Path, error) {
	p, err := OpenIPIP(c.Config, u, log)
	return carrier{p, c.leased, u}, err
}

type carrier struct {
	*IPIPPath
	leased leased
	u      nodes.Underlay
}

func (c carrier) Set(self backends.Lease, peers []backends.Lease) {
	c.IPIPPath.Set(c.leased.host(self, peers, c.u))
}
