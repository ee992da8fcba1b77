package ipip

import (
	"log/slog"
	"net/netip"

	"labctl/backends/internal/datapath"
)

// Overhead is the bytes that wrapping costs: the outer IP header.
const Overhead = minHeader

// Config is what a path is opened with.
type Config struct {
	Device string     // Device, unless the kernel has that
	MTU    int        // of the device
	Local  netip.Addr // the host's address on the underlay
	Level  string     // datapath.Auto, or a Level's name
}

// Open makes the device and opens the socket, in the network namespace of the
// calling thread. As the kernel's does, the path takes from its peers whatever
// they send; others' packets it drops.
func Open(c Config, log *slog.Logger) (*datapath.Path, error) {
	return datapath.Open(datapath.Config{
		Device: c.Device, MTU: c.MTU, Level: c.Level, VerifySource: true,
		Wire: datapath.Wire{
			Name: "ipip", Overhead: Overhead,
			Open:     func() (int, error) { return openSocket(c.Local) },
			Header:   header{c.Local.As4()},
			Fragment: fragment,
		},
	}, Self(netip.Addr{}), log)
}

// Self is the host with this address on the device; invalid while it has none.
func Self(a netip.Addr) datapath.Self {
	if !a.IsValid() {
		a = netip.IPv4Unspecified() // ICMP errors then come from the underlay's address
	}
	return datapath.Self{Addr: a, Takes: datapath.Everything()}
}

// Peer is a host at an address of the underlay, with what is behind it.
func Peer(a netip.Addr, has ...netip.Prefix) datapath.Peer {
	return datapath.Peer{Addr: a, Has: has, Sends: datapath.Everything()}
}
