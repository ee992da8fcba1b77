package vxlan

import (
	"encoding/json"
	"testing"

	"labctl/backends"
	"labctl/backends/backendtest"
	"labctl/nodes/nodestest"
)

func TestMain(m *testing.M) { nodestest.Main(m) }

func TestKernel(t *testing.T) {
	backendtest.RunKernel(t, func(options string) backends.Backend {
		b, err := New(json.RawMessage(options))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}, nodestest.VXLAN)
}
