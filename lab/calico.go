package lab

import (
	"cmp"

	"labctl/backends/calico"
)

// config is the file's Calico network with Calico's defaults filled in.
func (c *CalicoSpec) config() calico.Config {
	return calico.Config{
		Pool:           c.Pool,
		BlockSize:      cmp.Or(c.BlockSize, calico.DefaultBlockSize),
		Encapsulation:  cmp.Or(calico.Encapsulation(c.Encapsulation), calico.None),
		Routes:         cmp.Or(calico.Source(c.Routes), calico.FromStore),
		NATOutgoing:    c.NATOutgoing == On,
		StrictAffinity: c.StrictAffinity == On,
		MaxBlocks:      cmp.Or(c.MaxBlocksPerHost, calico.DefaultMaxBlocks),
	}
}
