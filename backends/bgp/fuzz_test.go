package bgp

import (
	"bufio"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
)

// FuzzBird reads whatever bird's socket may say as answers to what is asked of
// it; what comes of it can be told to others.
func FuzzBird(f *testing.F) {
	f.Add("0001 BIRD 2.0.12 ready.\n")
	f.Add("2002-Name       Proto      Table      State  Since         Info\n" +
		"1002-to_h2      BGP        ---        up     2026-11-21 09:41:22.232  Established\n" +
		"1006-  BGP state:          Established\n     Neighbor address: 192.0.2.2\n" +
		"     Last error:       Socket: Connection refused\n   Channel ipv4\n     Routes:         1 imported, 2 filtered, 1 exported, 1 preferred\n0000 \n")
	f.Add("1007-Table master4:\n 10.1.2.0/26          unicast [to_h2 2026-11-21 09:41:24.850] * (100) [i]\n" +
		" \tvia 192.0.2.2 on eth0\n1008-\tType: BGP univ\n1012-\tBGP.as_path: 65001 65002\n \tBGP.next_hop: 192.0.2.2 fe80::1\n" +
		" \tBGP.local_pref: 100\n \tBGP.originator_id: 192.0.2.9\n \tBGP.cluster_list: 1.0.0.1 1.0.0.2\n0000 \n")
	f.Add("8003 No protocols match\n")
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := birdReply(bufio.NewScanner(strings.NewReader(text)), "question")
		if err != nil {
			return
		}
		for a, s := range parseProtocols(lines) {
			if a != s.Addr || s.State == "" {
				t.Errorf("session of %s: %+v", a, s)
			}
			if _, err := json.Marshal(s); err != nil {
				t.Error(err)
			}
		}
		for _, r := range parseRoutes(lines, map[string]string{"to_h2": "h2"}) {
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzConfig writes bird.conf for any configuration that is accepted: nothing
// that an order says becomes a statement of its own.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"asn":65001,"routerID":"192.0.2.1","clusterID":"1.0.0.1","originate":["10.1.0.0/26"],"peers":[{"name":"h-2","addr":"192.0.2.2","local":"192.0.2.1","asn":65001,"client":true}],"timers":{"hold":3000000000,"bfd":50000000}}`))
	f.Add([]byte(`{"asn":1,"routerID":"192.0.2.1","peers":[{"name":"x {}\nlog \"/etc/passwd\" all;","addr":"192.0.2.2","local":"192.0.2.1","asn":1}]}`))
	f.Add([]byte(`{"asn":1,"routerID":"192.0.2.1","clusterID":"fe80::1%x\n","peers":[{"name":"x","addr":"fe80::1%eth0;\n","local":"fe80::2%eth0","asn":1}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Config
		if json.Unmarshal(data, &c) != nil || c.Validate() != nil {
			return
		}
		text := birdConfig(c)
		c.ClusterID = netip.MustParseAddr("1.0.0.1")
		for i := range c.Peers {
			c.Peers[i].Name, c.Peers[i].Addr, c.Peers[i].Local = "x", netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")
		}
		plain := birdConfig(c)
		for _, of := range []string{"\n", "\r", "{", "}", ";", "\"", "#"} {
			if got, want := strings.Count(text, of), strings.Count(plain, of); got != want {
				t.Fatalf("%d of %q where there are to be %d:\n%s", got, of, want, text)
			}
		}
	})
}
