package agent

import (
	"encoding/json"
	"log/slog"
	"net/netip"
	"reflect"
	"testing"

	"labctl/backends/calico"
	"labctl/lab/internal/rpc"
)

// FuzzOrder has an agent obey what comes by the supervisor's stream, and looks
// up what the network systems take out of it.
func FuzzOrder(f *testing.F) {
	f.Add([]byte(`{"store":true,"hosts":3,"hold":false}`))
	f.Add([]byte(`{"hosts":-1,"hold":true,"down":["eth0","","eth0"],"ask":7}`))
	f.Add([]byte(`{"store":true,"hosts":9223372036854775807,"containers":[{"name":"c1","dev":"veth1","addr":"10.244.1.2"},{"name":"c1"},{"name":"","addr":"fd00::1%x"}]}`))
	f.Add([]byte(`{"bgp":{"program":"gobgp","config":{"asn":65001,"routerID":"192.0.2.1","listen":["192.0.2.1"],"peers":[{"name":"h2","addr":"192.0.2.2","local":"192.0.2.1","asn":65001}],"timers":{"hold":3000000000}}},"out":["node2"],"ask":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if !json.Valid(data) || len(data) > 64<<10 {
			return // rpc has a fuzz test of its own
		}
		ours, end, err := rpc.Pair()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		theirs, err := rpc.FromFile(end)
		if err != nil {
			t.Fatal(err)
		}
		if err := theirs.Send(json.RawMessage(data)); err != nil {
			t.Fatal(err)
		}
		theirs.Close() // which ends obey once it has read the order
		a := &Agent{Config: Config{Node: "node1", Log: slog.New(slog.DiscardHandler)}, control: ours, ordered: make(chan struct{}, 1), up: make(chan struct{})}
		store := make(chan struct{})
		a.obey(store)

		var o Order
		wrong := json.Unmarshal(data, &o) != nil
		if wrong {
			o = Order{}
		}
		if !reflect.DeepEqual(a.order, o) || a.report.Answered != o.Ask || len(a.ordered) == 1 == wrong {
			t.Errorf("order %s: has %+v, answered %d, told %d; want %+v", data, a.order, a.report.Answered, len(a.ordered), o)
		}
		select {
		case <-store:
			if !o.Store {
				t.Error("takes etcd for ready")
			}
		default:
			if o.Store {
				t.Error("waits for etcd")
			}
		}
		if d := (&pacer{}).wait(1, a.expected()); d < 0 {
			t.Errorf("waits %v", d)
		}
		if d := (&flannelSystem{Agent: a}).gather(&flock{})(1); d < 0 {
			t.Errorf("waits %v", d)
		}
		for _, e := range []calico.Encapsulation{calico.None, calico.VXLAN} {
			c := calicoSystem{Agent: a, config: calico.Config{Pool: netip.MustParsePrefix("10.244.0.0/16"), BlockSize: 26, Encapsulation: e}}
			claims := c.claims(c.containers())
			tunnel, own := c.parts(make([]netip.Addr, len(claims)))
			if all := c.workloads(c.containers(), own); len(own) != len(o.Containers) || len(all) > 0 {
				t.Errorf("%d containers, %d addresses, workloads %v", len(o.Containers), len(own), all)
			}
			_, _ = json.Marshal(c.node(tunnel))
			_, _ = calico.Snapshot{}.Met("node1", claims) // that it does not panic
		}
	})
}
