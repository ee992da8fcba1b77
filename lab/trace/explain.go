package trace

import (
	"fmt"
	"slices"
	"strings"
)

// outcome is how far a packet came.
type outcome struct {
	arrived  bool
	lastSeen string // an interface, or the endpoint that was to send it
	missing  string // where it should have been next
	cause    *Cause
}

// longest is more steps than any packet of a lab takes; a routing loop ends there.
const longest = 1024

// follow lays the steps of one way beside what should happen from m on, and
// writes the reasons into them. answered says that the packet did arrive,
// whatever the tables say.
func (w *walk) follow(steps []*Step, from string, m move, answered bool) outcome {
	o := outcome{lastSeen: from}
	used := map[*Step]bool{}
	find := func(s spot) *Step {
		for _, x := range steps {
			if !used[x] && x.Endpoint == s.endpoint && x.Interface == s.dev && (x.Direction == Out) == s.out && x.Packet.shape() == s.frame.shape() {
				return x
			}
		}
		return nil
	}
	var confirmed, suspect *Cause
	defer func() {
		for _, x := range steps {
			if !used[x] {
				x.Aside = aside(steps, x, o.cause)
			}
		}
	}()
	last := -1
	for range longest {
		if m.end && len(m.faults) == 0 {
			o.arrived = true
			o.missing, o.cause = "", nil
			return o
		}
		var x *Step
		if m.dev != "" {
			x = find(m.spot)
		}
		if x == nil && answered {
			// The packet knows better than the walk.
			if i := slices.IndexFunc(steps, func(s *Step) bool { return !used[s] && slices.Index(steps, s) > last }); i >= 0 {
				x, m.faults = steps[i], nil
				m.why = []Decision{{"unknown", x.Endpoint, "the tables as they are now do not tell why"}}
			}
		}
		if x == nil {
			o.cause = confirmed
			if o.cause == nil && len(m.faults) > 0 {
				o.cause = m.faults[0]
			}
			if o.cause == nil {
				o.cause = suspect
			}
			if m.dev != "" {
				o.missing = m.where()
			}
			return o
		}
		used[x] = true
		last = slices.Index(steps, x)
		x.Why = append(x.Why, m.why...)
		o.lastSeen = x.Where()
		frame := x.Packet
		if len(m.faults) > 0 {
			suspect = m.faults[0]
			if confirmed == nil && (frame.DstMAC != m.frame.DstMAC || frame.Dst != m.frame.Dst) {
				confirmed = suspect
			}
		}
		w.translated(x, m)
		if confirmed != nil {
			frame = m.frame // as it should have been
		}
		m = w.next(spot{x.Endpoint, x.Interface, x.Direction == Out, frame})
	}
	return o
}

// translated remembers that netfilter changed a packet's source where the walk
// did not see why, so that the answer is understood.
func (w *walk) translated(x *Step, m move) {
	is, was := x.Packet.innermost(), m.frame.innermost()
	if is.Src == was.Src || !was.Src.IsValid() || !is.Src.IsValid() {
		return
	}
	x.Why = append(x.Why, Decision{"netfilter", x.Endpoint, fmt.Sprintf("source %s becomes %s: masqueraded", was.Src, is.Src)})
	w.nat = append(w.nat, translation{x.Endpoint, was.Src, is.Src, true})
}

// endpoint is where the packet came to: an interface's, or the endpoint itself.
func (o outcome) endpoint() string {
	endpoint, _, _ := strings.Cut(o.lastSeen, ":")
	return endpoint
}

// aside says why a step is not on the way.
func aside(steps []*Step, x *Step, cause *Cause) string {
	copies := slices.ContainsFunc(steps, func(s *Step) bool {
		return s != x && s.Aside == "" && s.Endpoint == x.Endpoint && s.Direction == x.Direction
	})
	switch {
	case x.Direction == Out && copies:
		return "a copy: the bridge flooded the frame to this port, too"
	case cause != nil:
		return fmt.Sprintf("astray: %s at %s", cause.Code, cause.Where)
	}
	return "a copy that is not for this host"
}

// changes is what a packet has that it had not at the step before.
func changes(was, is Frame) []string {
	found := []string{}
	note := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	switch {
	case was.Inner == nil && is.Inner != nil:
		switch is.Tunnel {
		case "vxlan":
			note("wrapped: vxlan vni %d in udp %d > %d", is.VNI, is.SrcPort, is.DstPort)
		case "udp":
			note("wrapped: flannel udp %d > %d", is.SrcPort, is.DstPort)
		default:
			note("wrapped: %s", is.Tunnel)
		}
		note("outer %s > %s ttl %d length %d", is.Src, is.Dst, is.TTL, is.Len)
		if is.SrcMAC != "" {
			note("outer MAC %s > %s", is.SrcMAC, is.DstMAC)
		}
		if is.Checksum != "" {
			note("outer checksum %s", is.Checksum)
		}
		is = *is.Inner
	case was.Inner != nil && is.Inner == nil:
		note("unwrapped")
		was = *was.Inner
	case was.Inner != nil:
		for _, c := range changes(flat(was), flat(is)) {
			note("outer %s", c)
		}
		was, is = *was.Inner, *is.Inner
	}
	if was.SrcMAC != is.SrcMAC || was.DstMAC != is.DstMAC {
		switch {
		case is.SrcMAC == "":
			note("no MAC: layer 3")
		default:
			note("MAC %s > %s", is.SrcMAC, is.DstMAC)
		}
	}
	if was.Src != is.Src {
		note("source %s -> %s", was.Src, is.Src)
	}
	if was.Dst != is.Dst {
		note("destination %s -> %s", was.Dst, is.Dst)
	}
	if was.TTL != is.TTL {
		note("ttl %d -> %d", was.TTL, is.TTL)
	}
	if was.SrcPort != is.SrcPort || was.DstPort != is.DstPort {
		note("ports %d > %d", is.SrcPort, is.DstPort)
	}
	if was.Fragment && !is.Fragment {
		note("reassembled: connection tracking wants it whole")
	}
	if was.Len != is.Len {
		note("length %d -> %d", was.Len, is.Len)
	}
	if was.Checksum != is.Checksum {
		if is.Checksum == "" {
			note("checksum filled in")
		} else {
			note("checksum %s", is.Checksum)
		}
	}
	if is.Fragment && !was.Fragment {
		note("fragmented: the first of several")
	}
	if is.Aggregate && !was.Aggregate {
		note("offload aggregate: %d bytes, more than the device's MTU", is.Len)
	}
	return found
}

// flat is a frame without what it wraps.
func flat(f Frame) Frame {
	f.Inner = nil
	return f
}
