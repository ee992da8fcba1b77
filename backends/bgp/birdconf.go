package bgp

import (
	"fmt"
	"strings"
	"time"
)

// birdConfig is bird.conf for a configuration.
//
// protocol direct is what lets bird find a peer's address on our own network:
// without it next hops are found by the default route, and every packet goes by
// way of the gateway although the peers are neighbours.
func birdConfig(c Config) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by labctl for each change.")
	line("log stderr all;")
	line("router id %s;", c.RouterID)
	line("timeformat protocol iso long ms;")
	line("timeformat route iso long ms;")
	if c.Timers.GracefulRestart > 0 {
		line("graceful restart wait %d;", seconds(c.Timers.GracefulRestart))
	}
	line("protocol device { scan time 2; }")
	line(`protocol direct { ipv4; interface "eth*"; }`)
	line("protocol kernel {")
	line("  ipv4 { import none; export where source = RTS_BGP; };")
	line("  scan time 2; persist; graceful restart; merge paths on;")
	line("}")
	line("protocol static own {")
	line("  ipv4;")
	for _, p := range c.Originate {
		// It goes to peers only: the kernel's is the agent's.
		line("  route %s blackhole;", p)
	}
	line("}")
	if c.Timers.BFD > 0 {
		line("protocol bfd { interface \"*\" { interval %d ms; multiplier 3; }; }", c.Timers.BFD/time.Millisecond)
	}
	for _, p := range c.Peers {
		birdPeer(line, c, p)
	}
	return b.String()
}

func birdPeer(line func(string, ...any), c Config, p Peer) {
	t := c.Timers
	line("protocol bgp %s {", birdName(p))
	line("  local %s as %d;", p.Local, c.ASN)
	line("  neighbor %s as %d;", p.Addr, p.ASN)
	line("  direct;") // also BFD's port: 3784, as GoBGP's, and not 4784
	if p.Passive {
		line("  passive;")
	}
	line("  hold time %d; keepalive time %d;", seconds(t.Hold), seconds(t.KeepAlive))
	line("  connect delay time 1; connect retry time %d; error wait time 1, 5; error forget time 5;", seconds(t.ConnectRetry))
	if t.GracefulRestart > 0 {
		line("  graceful restart; graceful restart time %d;", seconds(t.GracefulRestart))
	} else {
		line("  graceful restart off;")
	}
	if t.BFD > 0 {
		line("  bfd;")
	}
	if p.Client {
		line("  rr client; rr cluster id %s;", c.ClusterID)
	}
	line("  ipv4 {")
	line("    import all;")
	if c.Transit {
		line("    export where source ~ [ RTS_STATIC, RTS_BGP ];")
	} else {
		line("    export where source = RTS_STATIC;")
	}
	if p.NextHopSelf {
		line("    next hop self ebgp;")
	}
	line("    gateway recursive;")
	line("  };")
	line("}")
}

// birdName is a peer's name as a symbol of bird's.
func birdName(p Peer) string { return "to_" + strings.ReplaceAll(p.Name, "-", "_") }

func seconds(d time.Duration) int { return int(d / time.Second) }
