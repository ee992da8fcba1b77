package nodes

import (
	"strings"

	"github.com/safchain/ethtool"
)

// offload tells whether one of the offloads that NoOffload is about is on, and
// switches them off.
func (p *pass) offload(dev string, off bool) (on bool, err error) {
	if p.r.eth == nil {
		// The socket that the requests go through decides about the namespace.
		err := p.r.ns.Do(func() (err error) { p.r.eth, err = ethtool.NewEthtool(); return err })
		if err != nil {
			return false, err
		}
	}
	have, err := p.r.eth.FeaturesWithState(dev)
	if err != nil {
		return false, err
	}
	change := map[string]bool{}
	for name, st := range have {
		if st.Active && !st.NeverChanged && offloads(name) {
			change[name] = false
		}
	}
	if !off || len(change) == 0 {
		return len(change) > 0, nil
	}
	return true, p.r.eth.Change(dev, change)
}

// offloads says whether a feature is one of those that ethtool -K names tx,
// tso, gso and gro.
func offloads(feature string) bool {
	for _, prefix := range []string{"tx-checksum-", "tx-tcp", "tx-generic-segmentation", "tx-udp-segmentation", "rx-gro"} {
		if strings.HasPrefix(feature, prefix) {
			return true
		}
	}
	return false
}
