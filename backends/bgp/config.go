package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Port is where speakers listen (RFC 4271, section 4).
const Port = 179

// Protocol marks the routes that Host writes (rtnetlink's rtm_protocol; ip
// route calls it bgp). bird's own are BirdProtocol.
const (
	Protocol     = 186
	BirdProtocol = 12
)

// Config is all that a speaker is told. It is a value: build it anew from what
// is known now and hand it to Set, which finds out what changed.
type Config struct {
	ASN      uint32     `json:"asn"`
	RouterID netip.Addr `json:"routerID"` // IPv4
	// Listen are the addresses that sessions are taken at.
	Listen []netip.Addr `json:"listen"`
	// ClusterID is a route reflector's (RFC 4456); the zero Addr for none.
	ClusterID netip.Addr `json:"clusterID,omitzero"`
	// Transit says that routes of others are passed on, as routers and
	// reflectors do. A node tells only its own.
	Transit bool `json:"transit,omitempty"`
	// Originate are the speaker's own routes: the aggregates of its blocks, and
	// addresses that it borrowed out of others'.
	Originate []netip.Prefix `json:"originate,omitempty"`
	Peers     []Peer         `json:"peers"`
	Timers    Timers         `json:"timers"`
}

// Peer is one session.
type Peer struct {
	Name  string     `json:"name"` // of the host, for messages
	Addr  netip.Addr `json:"addr"`
	Local netip.Addr `json:"local"` // our address on the session
	ASN   uint32     `json:"asn"`
	// Passive waits for the peer to connect. Just one side of a session dials:
	// connections that cross cost seconds until one of them is given up.
	Passive bool `json:"passive,omitempty"`
	// Client makes the peer a client of this route reflector.
	Client bool `json:"client,omitempty"`
	// NextHopSelf puts our address in the place of the next hop of routes that
	// came from another AS, which the peer could not reach.
	NextHopSelf bool `json:"nextHopSelf,omitempty"`
}

// Timers are whole seconds, but for BFD's.
type Timers struct {
	// Hold is how long a silent peer is believed in, KeepAlive how often a
	// sign of life is sent (RFC 4271, section 10).
	Hold      time.Duration `json:"hold"`
	KeepAlive time.Duration `json:"keepAlive"`
	// ConnectRetry is between tries to connect.
	ConnectRetry time.Duration `json:"connectRetry"`
	// GracefulRestart is how long the routes of a speaker that ended stay with
	// its peers while its kernel goes on forwarding (RFC 4724); 0 turns it off.
	// A peer that fell silent is another matter: its routes go at once.
	GracefulRestart time.Duration `json:"gracefulRestart,omitempty"`
	// BFD is the interval of RFC 5880's packets; three that are missing end the
	// session. 0 turns it off.
	BFD time.Duration `json:"bfd,omitempty"`
}

// LabTimers converge in seconds. CalicoTimers are what Calico's BIRD runs
// with: it sets none, so BIRD's own hold.
var (
	LabTimers = Timers{Hold: 3 * time.Second, KeepAlive: time.Second, ConnectRetry: 2 * time.Second, GracefulRestart: 20 * time.Second}

	CalicoTimers = Timers{Hold: 240 * time.Second, KeepAlive: 80 * time.Second, ConnectRetry: 5 * time.Second, GracefulRestart: 120 * time.Second}
)

// Validate says what no speaker could work with.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.ASN == 0 {
		bad("bgp: AS 0 is nobody's (RFC 7607)")
	}
	if !c.RouterID.Is4() {
		bad("bgp: router id %s: not an IPv4 address", c.RouterID)
	}
	if c.ClusterID.IsValid() && !c.ClusterID.Is4() {
		bad("bgp: cluster id %s: not an IPv4 address", c.ClusterID)
	}
	seen := map[netip.Addr]bool{}
	for _, p := range c.Peers {
		switch {
		case !word(p.Name): // it is a symbol of bird's
			bad("bgp: peer %q: not a name of letters, digits, - and _", p.Name)
		case p.Addr.Zone() != "" && !word(p.Addr.Zone()), p.Local.Zone() != "" && !word(p.Local.Zone()):
			bad("bgp: peer %s: an address of a device that has no such name", p.Name)
		case !p.Addr.IsValid() || !p.Local.IsValid():
			bad("bgp: peer %s: an address is missing", p.Name)
		case p.Addr == p.Local:
			bad("bgp: peer %s: %s is our own address", p.Name, p.Addr)
		case seen[p.Addr]:
			bad("bgp: peer %s: %s is another peer's", p.Name, p.Addr)
		case p.ASN == 0:
			bad("bgp: peer %s: AS 0 is nobody's (RFC 7607)", p.Name)
		case p.Client && !c.ClusterID.IsValid():
			bad("bgp: peer %s: a client of a reflector without cluster id", p.Name)
		}
		seen[p.Addr] = true
	}
	if h := c.Timers.Hold; h != 0 && h < 3*time.Second {
		bad("bgp: hold time %v: the least is 3 s (RFC 4271)", h)
	}
	return errors.Join(errs...)
}

// word says whether a text can stand in bird.conf as it is.
func word(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

// Dials says which of two speakers connects: the one with the higher address.
// The other one's side of the session is passive.
func Dials(own, peer netip.Addr) bool { return peer.Less(own) }
