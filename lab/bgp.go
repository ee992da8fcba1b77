package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"labctl/backends/bgp"
	"labctl/backends/calico"
)

// defaultAS is Calico's.
const defaultAS = 64512

// The programs that speak BGP.
const (
	GoBGP = "gobgp"
	Bird  = bgp.BirdProgram
)

// hasBGP says whether routes come by BGP.
func (l *layout) hasBGP() bool { return l.calico != nil && l.calico.Routes == calico.BGP }

// bgpTimers are the file's with the defaults filled in; nil without BGP.
func (l *layout) bgpTimers() *bgp.Timers {
	if !l.hasBGP() {
		return nil
	}
	t := bgp.LabTimers
	s := l.Calico.BGP
	if s == nil {
		return &t
	}
	if s.Timers == "calico" {
		t = bgp.CalicoTimers
	}
	if s.HoldTime > 0 {
		t.Hold, t.KeepAlive = s.HoldTime, max(s.HoldTime/3, time.Second).Truncate(time.Second)
	}
	t.KeepAlive = cmp.Or(s.KeepAlive, t.KeepAlive)
	if s.GracefulRestart != nil {
		t.GracefulRestart = *s.GracefulRestart
	}
	t.BFD = s.BFD
	return &t
}

// nodeSpeaker is a node's speaker, nil without BGP.
func (l *layout) nodeSpeaker(n NodeSpec) *SpeakerPlan {
	if !l.hasBGP() {
		return nil
	}
	p := &SpeakerPlan{Program: cmp.Or(n.Speaker, GoBGP), ASN: uint32(n.AS), ClusterID: n.Reflector}
	for _, r := range l.routers {
		if p.ASN == 0 && r.AS != 0 && slices.Contains(r.Segments, l.segmentOf(n)) {
			p.ASN = uint32(r.AS)
		}
	}
	if p.ASN == 0 && l.Calico.BGP != nil {
		p.ASN = uint32(l.Calico.BGP.AS)
	}
	p.ASN = cmp.Or(p.ASN, defaultAS)
	return p
}

// routerSpeaker is a router's, nil for one that does not speak.
func (l *layout) routerSpeaker(r RouterSpec) *SpeakerPlan {
	if !l.hasBGP() || r.AS == 0 {
		return nil
	}
	return &SpeakerPlan{Program: cmp.Or(r.Speaker, GoBGP), ASN: uint32(r.AS)}
}

// checkBGP validates what is about BGP.
func (v *validator) checkBGP() {
	s := v.Calico.BGP
	if s != nil && !v.hasBGP() && !v.bad("calico.bgp") {
		v.add("calico.bgp", "calico: bgp: routes do not come by BGP here", "add routes: bgp, or remove it")
	}
	if s != nil {
		v.bgpTimes(s)
	}
	for _, r := range v.routers {
		if (r.AS != 0 || r.Speaker != "") && !v.hasBGP() {
			v.add(join("routers", r.Name), fmt.Sprintf("router %s: a BGP speaker, and routes do not come by BGP here", r.Name), "add calico: {routes: bgp}, or remove as and speaker")
		} else if r.Speaker != "" && r.AS == 0 {
			v.add(join("routers", r.Name)+".speaker", fmt.Sprintf("router %s: a speaker without an AS", r.Name), "add as: 65000")
		}
	}
	wraps := v.hasBGP() && v.calico.Encapsulation.Device() != ""
	for _, r := range v.routers {
		if r.AS != 0 && wraps {
			v.add(join("routers", r.Name), fmt.Sprintf("router %s: a BGP speaker, which would be the next hop of routes into hosts' tunnels, and has none", r.Name), "remove as and speaker, or use encapsulation: None")
		}
	}
	for _, n := range v.Nodes {
		path := join("nodes", n.Name)
		if n.Speaker == Bird && wraps {
			v.add(path+".speaker", fmt.Sprintf("%s: bird writes its routes itself, and none into tunnels; Calico's own bird is patched to", n.Name), "use speaker: gobgp, or encapsulation: None")
		}
		if (n.Speaker != "" || n.AS != 0 || n.Reflector.IsValid()) && !v.hasBGP() {
			v.add(path, fmt.Sprintf("%s: speaker, as and reflector are for labs whose routes come by BGP", n.Name), "add calico: {routes: bgp}, or remove them")
		}
		if n.Reflector.IsValid() && !n.Reflector.Is4() {
			v.add(path+".reflector", fmt.Sprintf("%s: cluster id %s is not written as an IPv4 address", n.Name, n.Reflector), "write 1.0.0.1")
		}
	}
}

func (v *validator) bgpTimes(s *BGPSpec) {
	var graceful time.Duration
	if s.GracefulRestart != nil {
		graceful = *s.GracefulRestart
	}
	for _, t := range []struct {
		key         string
		value       time.Duration
		least, most time.Duration
	}{
		{"holdTime", s.HoldTime, 3 * time.Second, 65535 * time.Second},
		{"keepAlive", s.KeepAlive, time.Second, 21845 * time.Second},
		{"gracefulRestart", graceful, time.Second, 4095 * time.Second},
	} {
		path := "calico.bgp." + t.key
		switch {
		case t.value == 0 || v.bad(path):
		case t.value < t.least || t.value > t.most || t.value%time.Second != 0:
			v.add(path, fmt.Sprintf("calico: bgp: %s: %v is not in whole seconds from %v to %v", t.key, t.value, t.least, t.most), "BGP's messages have seconds")
		}
	}
	if b := s.BFD; b != 0 && !v.bad("calico.bgp.bfd") && (b < 10*time.Millisecond || b > 10*time.Second || b%time.Millisecond != 0) {
		v.add("calico.bgp.bfd", fmt.Sprintf("calico: bgp: bfd: %v is not in milliseconds from 10ms to 10s", b), "write 100ms")
	}
	if t := v.bgpTimers(); t != nil && t.KeepAlive >= t.Hold {
		v.add("calico.bgp.keepAlive", fmt.Sprintf("calico: bgp: keepAlive: %v is no less than the hold time %v", t.KeepAlive, t.Hold), "a third of it is usual")
	}
}

// Speakers are the configurations of all BGP speakers of a lab but for the
// routes that they originate, by endpoint. Who is whose peer:
//
//   - routers on a common segment;
//   - a node and the routers on its segment: in one AS it is their client, and
//     has them as next hops;
//   - nodes without such a router: each with each (a mesh), but when the AS has
//     reflectors, only if one of the two is one.
func (p *Plan) Speakers() map[string]bgp.Config {
	if p.BGP == nil {
		return nil
	}
	var all []speaker
	routed := map[string]bool{} // segments with a router that speaks
	for _, r := range p.Routers {
		if r.Speaker != nil {
			all = append(all, speaker{r.Name, r.Speaker, r.NICs, true})
			for _, n := range r.NICs {
				routed[n.Segment] = true
			}
		}
	}
	reflected := map[uint32]bool{}
	for _, n := range p.Nodes {
		if n.Speaker == nil {
			continue
		}
		all = append(all, speaker{n.Name, n.Speaker, []NICPlan{n.NIC}, false})
		if n.Speaker.ClusterID.IsValid() {
			reflected[n.Speaker.ASN] = true
		}
	}
	configs := map[string]bgp.Config{}
	for _, s := range all {
		c := bgp.Config{ASN: s.ASN, RouterID: s.nics[0].Addr.Addr(), ClusterID: s.ClusterID, Transit: s.router || s.ClusterID.IsValid(), Peers: []bgp.Peer{}, Timers: *p.BGP}
		if s.router {
			c.ClusterID = c.RouterID
		}
		for _, n := range s.nics {
			c.Listen = append(c.Listen, n.Addr.Addr())
		}
		for _, o := range all {
			if o.name == s.name {
				continue
			}
			mine, theirs, ok := meet(s, o, routed, reflected)
			if !ok {
				continue
			}
			c.Peers = append(c.Peers, bgp.Peer{
				Name: o.name, Addr: theirs, Local: mine, ASN: o.ASN, Passive: !bgp.Dials(mine, theirs),
				Client:      s.ASN == o.ASN && !o.router && (s.router || s.ClusterID.IsValid() && o.ClusterID != s.ClusterID),
				NextHopSelf: s.router && !o.router && s.ASN == o.ASN,
			})
		}
		configs[s.name] = c
	}
	return configs
}

type speaker struct {
	name string
	*SpeakerPlan
	nics   []NICPlan
	router bool
}

// meet says whether two speakers are peers, and at which addresses.
func meet(a, b speaker, routed map[string]bool, reflected map[uint32]bool) (mine, theirs netip.Addr, ok bool) {
	if !a.router && !b.router {
		if routed[a.nics[0].Segment] || routed[b.nics[0].Segment] {
			return
		}
		if a.ASN == b.ASN && reflected[a.ASN] && !a.ClusterID.IsValid() && !b.ClusterID.IsValid() {
			return
		}
		// In one AS, nodes may have routers between them.
		if a.ASN == b.ASN || a.nics[0].Segment == b.nics[0].Segment {
			return a.nics[0].Addr.Addr(), b.nics[0].Addr.Addr(), true
		}
		return
	}
	for _, x := range a.nics {
		for _, y := range b.nics {
			if x.Segment == y.Segment {
				return x.Addr.Addr(), y.Addr.Addr(), true
			}
		}
	}
	return
}

// describe is a speaker in a line.
func (s *SpeakerPlan) describe() string {
	if s == nil {
		return ""
	}
	words := []string{s.Program, fmt.Sprintf("AS %d", s.ASN)}
	if s.ClusterID.IsValid() {
		words = append(words, "cluster "+s.ClusterID.String())
	}
	return strings.Join(words, " ")
}

func describeTimers(t *bgp.Timers) string {
	if t == nil {
		return ""
	}
	return fmt.Sprintf("hold %v, keepAlive %v, gracefulRestart %v, bfd %v", t.Hold, t.KeepAlive, t.GracefulRestart, t.BFD)
}

// NeedsBird says which endpoints speak by bird.
func (p *Plan) NeedsBird() []string {
	var names []string
	for _, r := range p.Routers {
		if r.Speaker != nil && r.Speaker.Program == Bird {
			names = append(names, r.Name)
		}
	}
	for _, n := range p.Nodes {
		if n.Speaker != nil && n.Speaker.Program == Bird {
			names = append(names, n.Name)
		}
	}
	return names
}
