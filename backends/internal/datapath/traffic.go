package datapath

import (
	"sync/atomic"

	"labctl/backends"
)

// reason is why a packet was not carried.
type reason int

const (
	accepted reason = iota
	unknownSender
	spoofedSource
	notOurs
	malformed
	notIPv4
	truncated
	expired
	noRoute
	tooBig
	sendError
	noDevice
	reasons // how many there are
)

// name is the reason's key in Traffic.Drops.
func (r reason) name() string {
	return [reasons]string{
		unknownSender: "unknown-sender", // from an address that is no peer's
		spoofedSource: "spoofed-source", // a peer sent what comes from somebody else's subnet
		notOurs:       "not-ours",       // a peer sent what is not for our subnet
		malformed:     "malformed",      // not one whole IPv4 packet, or not wrapped as it should be
		notIPv4:       "not-ipv4",       // another IP version
		truncated:     "truncated",      // larger than an IPv4 packet can be
		expired:       "ttl",            // the TTL came to its end here
		noRoute:       "no-route",       // no host has the destination
		tooBig:        "too-big",        // larger than the path to the peer, and not to be fragmented
		sendError:     "send-error",     // the kernel did not take the packet
		noDevice:      "no-device",      // the TUN device was down, or gone
	}[r]
}

// counter has one writer and any number of readers.
type counter struct{ n atomic.Uint64 }

// add is cheaper than an atomic addition, which one writer does not need.
func (c *counter) add(n int) { c.n.Store(c.n.Load() + uint64(n)) }

// flow counts one direction. Its thread writes it.
type flow struct {
	packets, bytes, batches, calls counter
	drops                          [reasons]counter
}

func (f *flow) drop(r reason) { f.drops[r].add(1) }

func (f *flow) read() backends.Flow {
	return backends.Flow{Packets: f.packets.n.Load(), Bytes: f.bytes.n.Load(), Batches: f.batches.n.Load(), Calls: f.calls.n.Load()}
}

// Traffic is what was carried so far.
func (p *Path) Traffic() backends.Traffic {
	p.mu.Lock()
	t := backends.Traffic{Level: p.level.String(), Why: p.why}
	p.mu.Unlock()
	t.Out, t.In = p.out.read(), p.in.read()
	t.Drops = map[string]uint64{}
	for r := accepted + 1; r < reasons; r++ {
		if n := p.out.drops[r].n.Load() + p.in.drops[r].n.Load(); n > 0 {
			t.Drops[r.name()] = n
		}
	}
	return t
}
