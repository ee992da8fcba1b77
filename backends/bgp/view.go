package bgp

import (
	"net/netip"
	"time"
)

// View is what a speaker knows at one moment.
type View struct {
	Sessions []Session `json:"sessions"`
	// Best are the paths that were chosen, the speaker's own left out; of a
	// prefix with several equal ones all are there.
	Best []Route `json:"best,omitempty"`
	// Strangers are addresses that connected and are no peer's.
	Strangers []Stranger `json:"strangers,omitempty"`
}

// Stranger is an address that connected without being a configured peer.
type Stranger struct {
	Addr netip.Addr `json:"addr"`
	At   time.Time  `json:"at"`
}

// SessionState is a session's state, in RFC 4271's words (section 8.2.2).
type SessionState string

// The states of a session.
const (
	Idle        SessionState = "Idle"
	Connect     SessionState = "Connect"
	Active      SessionState = "Active"
	OpenSent    SessionState = "OpenSent"
	OpenConfirm SessionState = "OpenConfirm"
	Established SessionState = "Established"
)

// Session is one peer as it stands.
type Session struct {
	Peer    string       `json:"peer"` // its name
	Addr    netip.Addr   `json:"addr"`
	Local   netip.Addr   `json:"local"`
	ASN     uint32       `json:"asn"`
	Passive bool         `json:"passive,omitempty"`
	Client  bool         `json:"client,omitempty"`
	State   SessionState `json:"state"`
	Since   time.Time    `json:"since,omitzero"` // Established since
	// BFD is true while the peer answers BFD's packets. bird does not tell.
	BFD bool `json:"bfd,omitempty"`
	// Received, Accepted and Advertised are numbers of routes.
	Received   int `json:"received"`
	Accepted   int `json:"accepted"`
	Advertised int `json:"advertised"`
	// Failure is what is wrong with a session that is not established, as far
	// as this side can tell; nil when nothing happened yet.
	Failure *Failure `json:"failure,omitempty"`
	// In and Out are the routes themselves, where they were asked for.
	In  []Route `json:"in,omitempty"`
	Out []Route `json:"out,omitempty"`
	// Withheld are best paths that are not told, as the peer would find its own
	// AS in them. Of bird they are not known: the peer refuses them.
	Withheld []Route `json:"withheld,omitempty"`
}

// Route is one path to a prefix.
type Route struct {
	Prefix  netip.Prefix `json:"prefix"`
	NextHop netip.Addr   `json:"nextHop"`
	Peer    string       `json:"peer,omitempty"` // who told it
	// Path is the AS path, nearest first.
	Path       []uint32     `json:"path,omitempty"`
	LocalPref  uint32       `json:"localPref,omitempty"`
	Originator netip.Addr   `json:"originator,omitzero"` // who brought it to the reflector
	Clusters   []netip.Addr `json:"clusters,omitempty"`  // reflectors that it went through
	Best       bool         `json:"best,omitempty"`
	// Stale is kept over a restart of the peer.
	Stale bool `json:"stale,omitempty"`
	// Rejected is why the route does not count; "" when it does.
	Rejected string `json:"rejected,omitempty"`
}

// Established counts the sessions that are up.
func (v View) Established() int {
	n := 0
	for _, s := range v.Sessions {
		if s.State == Established {
			n++
		}
	}
	return n
}
