package capture

import (
	"testing"

	"labctl/nodes/nodestest"
)

func TestMain(m *testing.M) { nodestest.Main(m) }
