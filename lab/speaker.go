package lab

import (
	"fmt"

	"labctl/backends/bgp"
)

// What BGP speakers say of themselves.
type (
	Session = bgp.Session
	Route   = bgp.Route
)

// Established is the state of a session that is up.
const Established = bgp.Established

// Speaker is one BGP speaker of a lab as it stands.
type Speaker struct {
	Name  string `json:"name"`
	State State  `json:"state"` // the node's, or the router's
	bgp.Report
}

// Speakers are a lab's BGP speakers, routers first.
func (s *Status) Speakers() []Speaker {
	var all []Speaker
	for _, r := range s.Routers {
		if r.BGP != nil {
			all = append(all, Speaker{r.Name, r.State, *r.BGP})
		}
	}
	for _, n := range s.Nodes {
		if n.BGP != nil {
			all = append(all, Speaker{n.Name, n.State, *n.BGP})
		}
	}
	return all
}

// WhyDown is why a session p of s is not established, and the cure, as far as
// either side knows: the one that does not dial knows less.
func WhyDown(s Speaker, p Session, all []Speaker) string {
	what, cure := p.Explain()
	for _, o := range all {
		if o.Name != p.Peer {
			continue
		}
		if o.State == Dead || o.State == Stopped {
			return fmt.Sprintf("%s is %s", o.Name, o.State)
		}
		for _, back := range o.Sessions {
			if back.Peer == s.Name && back.Failure != nil && p.Passive {
				w, c := back.Explain()
				what, cure = o.Name+" says: "+w, c
			}
		}
	}
	if cure != "" {
		what += "; " + cure
	}
	return what
}
