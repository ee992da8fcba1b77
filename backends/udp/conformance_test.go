package udp

import (
	"encoding/json"
	"net/netip"
	"testing"

	"labctl/backends"
	"labctl/backends/backendtest"
	"labctl/nodes/nodestest"
)

func TestKernel(t *testing.T) {
	nodestest.Require(t, nodestest.TUN)
	for _, level := range []string{"plain", "batch", "gso"} {
		t.Run(level, func(t *testing.T) {
			backendtest.RunKernel(t, func(options string) backends.Backend {
				if options == "" {
					options = `{"Level":"` + level + `"}`
				}
				b, err := New(json.RawMessage(options), netip.MustParsePrefix("10.244.0.0/16"))
				if err != nil {
					t.Fatal(err)
				}
				return b
			})
		})
	}
}
