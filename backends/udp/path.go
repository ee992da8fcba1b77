package udp

import (
	"log/slog"
	"net/netip"

	"labctl/backends"
	"labctl/backends/internal/datapath"
)

// path is the data path with leases for peers.
type path struct{ *datapath.Path }

// open opens the path, in the network namespace of the calling thread.
func open(c Config, self backends.Lease, local netip.Addr, mtu int, log *slog.Logger) (*path, error) {
	p, err := datapath.Open(datapath.Config{
		Device: device, MTU: mtu, Level: c.Level, VerifySource: c.VerifySource, Hop: true,
		Wire: datapath.Wire{
			Name: Type, Port: c.Port, Overhead: Overhead,
			Open:         func() (int, error) { return openSocket(netip.AddrPortFrom(local, uint16(c.Port))) },
			Segmentation: segmentation,
			Fragment: func(fd int, to netip.Addr, d []byte) error {
				return fragment(fd, netip.AddrPortFrom(to, uint16(c.Port)), d)
			},
		},
	}, own(self), log)
	if err != nil {
		return nil, err
	}
	return &path{p}, nil
}

// own is what the lease says about ourselves.
func own(self backends.Lease) datapath.Self {
	return datapath.Self{Addr: self.Subnet.Addr(), Takes: self.Subnet}
}

// Set replaces the peers.
func (p *path) Set(self backends.Lease, peers []backends.Lease) {
	good, _ := usable(self, peers) // what is wrong with the others is told by Desired
	all := make([]datapath.Peer, 0, len(good))
	for _, l := range good {
		all = append(all, datapath.Peer{Addr: l.PublicIP, Has: []netip.Prefix{l.Subnet}, Sends: l.Subnet})
	}
	p.Path.Set(own(self), all)
}
