package nodes_test

import (
	"encoding/json"
	"strings"
	"testing"

	"labctl/nodes"
)

func TestCheck(t *testing.T) {
	vx := nodes.VXLAN{LinkAttrs: attrs("v"), VNI: 1, Port: 8472, Local: addr("192.0.2.1"), Dev: "eth0"}
	table := func(h nodes.Hook, rules ...nodes.Rule) nodes.State {
		return nodes.State{Tables: []nodes.Table{{Name: "t", Chains: []nodes.Chain{{Name: "c", Hook: h, Rules: rules}}}}}
	}
	for _, test := range []struct {
		name  string
		state nodes.State
		want  string // "" for no error
	}{
		{"empty", nodes.State{}, ""},
		{"vxlan", vxlanState(3), ""},
		{"table", nodes.State{Tables: []nodes.Table{testTable()}}, ""},
		{"several vteps for the flooding entry", nodes.State{Links: []nodes.Link{vx}, FDB: []nodes.FDBEntry{
			{Dev: "v", MAC: make([]byte, 6), Dst: addr("192.0.2.2")}, {Dev: "v", MAC: make([]byte, 6), Dst: addr("192.0.2.3")}}}, ""},
		{"link twice", nodes.State{Links: []nodes.Link{vx, nodes.Bridge{LinkAttrs: attrs("v")}}}, "link v: stands there twice"},
		{"nil link", nodes.State{Links: []nodes.Link{nil}}, "link: nil"},
		{"pointer", nodes.State{Links: []nodes.Link{&vx}}, "*nodes.VXLAN is not a kind of link"},
		{"long name", nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: attrs("a234567890123456")}}}, "not a device's name"},
		{"lo", nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: attrs("lo")}}}, "lo can only be a Port"},
		{"multicast MAC", nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "b", MAC: []byte{1, 0, 0, 0, 0, 0}}}}}, "not a unicast MAC"},
		{"no port", nodes.State{Links: []nodes.Link{nodes.VXLAN{LinkAttrs: attrs("v"), VNI: 1, Local: addr("192.0.2.1"), Dev: "eth0"}}}, "port 0: not in 1 to 65535"},
		{"address twice", nodes.State{Addrs: []nodes.Addr{{Dev: "a", Prefix: prefix("10.0.0.1/8")}, {Dev: "a", Prefix: prefix("10.0.0.1/8")}}}, "stands there twice"},
		{"host bits", nodes.State{Routes: []nodes.Route{{Dst: prefix("10.0.0.1/8"), Dev: "a"}}}, "host bits are set, want 10.0.0.0/8"},
		{"no dev", nodes.State{Routes: []nodes.Route{{Dst: prefix("10.0.0.0/8")}}}, "no device"},
		{"families", nodes.State{Routes: []nodes.Route{{Dst: prefix("10.0.0.0/8"), Via: addr("fd00::1"), Dev: "a"}}}, "of the other address family"},
		{"onlink", nodes.State{Routes: []nodes.Route{{Dst: prefix("10.0.0.0/8"), Dev: "a", OnLink: true}}}, "onlink without via"},
		{"blackhole via", nodes.State{Routes: []nodes.Route{{Dst: prefix("10.0.0.0/8"), Dev: "a", Kind: nodes.Blackhole}}}, "neither dev nor via"},
		{"neighbour", nodes.State{Neighbours: []nodes.Neighbour{{Dev: "a", Addr: addr("224.0.0.1"), MAC: mac(1)}}}, "not a host's address"},
		{"fdb on a bridge", nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: attrs("b")}}, FDB: []nodes.FDBEntry{{Dev: "b", MAC: mac(1), Dst: addr("192.0.2.1")}}}, "b is a bridge, not a vxlan"},
		{"machine's sysctl", nodes.State{Sysctls: []nodes.Sysctl{{Key: "kernel/pid_max", Value: "1"}}}, "only net/"},
		{"sysctl outside", nodes.State{Sysctls: []nodes.Sysctl{{Key: "net/../kernel/pid_max", Value: "1"}}}, "not a path"},
		{"masquerade", table(nodes.Forward, nodes.Rule{Verdict: nodes.Masquerade}), "masquerade outside of postrouting"},
		{"notrack", table(nodes.PreroutingNAT, nodes.Rule{Verdict: nodes.NoTrack}), "notrack outside of raw prerouting"},
		{"dnat", table(nodes.PreroutingNAT, nodes.Rule{Verdict: nodes.DNAT}), "dnat to nowhere"},
		{"port", table(nodes.Input, nodes.Rule{DstPort: 1, Verdict: nodes.Drop}), "without a protocol"},
		{"mixed", table(nodes.Input, nodes.Rule{Src: prefix("10.0.0.0/8"), Dst: prefix("fd00::/8"), Verdict: nodes.Drop}), "mixes IPv4 and IPv6"},
		{"no verdict", table(nodes.Input, nodes.Rule{}), "no verdict"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := nodes.Check(test.state)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("Check() = %v, want %q", err, test.want)
			}
		})
	}
}

func TestChange(t *testing.T) {
	for _, test := range []struct {
		c    nodes.Change
		want string
	}{
		{nodes.Change{Action: nodes.Add, Kind: "route", Object: "10.244.2.0/24", Detail: "via 10.244.2.0 dev flannel.1 onlink"}, "missing route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"},
		{nodes.Change{Action: nodes.Modify, Kind: "link", Object: "flannel.1", Detail: "mtu 1400, want 1450"}, "link flannel.1: mtu 1400, want 1450"},
		{nodes.Change{Action: nodes.Remove, Kind: "neighbour", Object: "10.244.9.0", Detail: "dev flannel.1 lladdr x"}, "unexpected neighbour 10.244.9.0 dev flannel.1 lladdr x"},
	} {
		if got := test.c.String(); got != test.want {
			t.Errorf("String() = %q, want %q", got, test.want)
		}
		b, err := json.Marshal(test.c)
		var back nodes.Change
		if err == nil {
			err = json.Unmarshal(b, &back)
		}
		if err != nil || back != test.c {
			t.Errorf("%s reads back as %+v, %v", b, back, err)
		}
	}
}
