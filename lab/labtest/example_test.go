package labtest_test

import (
	"fmt"
	"testing"

	"labctl/lab/labtest"
)

// Two hosts with a container each, and a connection between them. TestMain has
// to hand over to labtest.Main.
func Example() {
	// func TestMain(m *testing.M) { labtest.Main(m) }

	test := func(t *testing.T) {
		t.Parallel()
		l := labtest.UpSpec(t, `
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.50.0/24}}
nodes: 2
`)
		ln, err := l.Endpoint("node2.c1").Listen("tcp", ":7")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c, err := l.Endpoint("node1.c1").Dial(t.Context(), "tcp", "node2.c1:7")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fmt.Print(l.Endpoint("node1").Exec(t, "ip", "route"))
	}
	_ = test
}
