package bgp

import (
	"net/netip"
	"slices"
	"time"
)

// strangers are the addresses that connected and were no peer's, and when each
// did last. Who has them locks.
type strangers map[netip.Addr]time.Time

// strangersFor is how long a stranger is remembered.
const strangersFor = time.Minute

// but is the strangers that are no peers by now, by address. It forgets the
// others.
func (s strangers) but(peers map[netip.Addr]Peer) []Stranger {
	var ss []Stranger
	for a, at := range s {
		if _, ok := peers[a]; ok || time.Since(at) > strangersFor {
			delete(s, a)
			continue
		}
		ss = append(ss, Stranger{Addr: a, At: at})
	}
	slices.SortFunc(ss, func(a, b Stranger) int { return a.Addr.Compare(b.Addr) })
	return ss
}
