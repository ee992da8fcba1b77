package trace

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"labctl/nodes"
)

// telling are the counters that say something about a packet that was lost.
var telling = []string{
	"IpInHdrErrors", "IpInAddrErrors", "IpInDiscards", "IpOutDiscards", "IpOutNoRoutes", "IpExtInNoRoutes", "IpFragFails", "IpReasmFails",
	"IpExtInTruncatedPkts", "TcpExtIPReversePathFilter", "UdpNoPorts", "UdpInErrors", "UdpInCsumErrors", "IcmpOutDestUnreachs", "IcmpOutTimeExcds", "TcpInCsumErrors",
}

// diagnose completes the cause of a packet that did not arrive.
func (r *run) diagnose(ways map[Way][]*Step, o outcome) {
	t := r.trace
	if t.MissingAt == "" {
		t.MissingAt = r.destination(o)
	}
	here, _, _ := strings.Cut(t.LastSeen, ":")
	counted := r.counted()
	if t.Cause == nil {
		t.Cause = r.guess(here, counted)
	}
	add := func(lines ...string) {
		for _, l := range lines {
			if !slices.Contains(t.Cause.Evidence, l) {
				t.Cause.Evidence = append(t.Cause.Evidence, l)
			}
		}
	}
	if r.refusal != nil {
		add(fmt.Sprintf("%s: send: %v", t.From, r.refusal))
	}
	for _, s := range ways[Problem] {
		if f := s.Packet.innermost(); s.Endpoint == t.From && s.Direction == In {
			add(fmt.Sprintf("%s says to %s: icmp %s", f.Src, f.Dst, f.Kind))
		}
	}
	for _, e := range []string{t.Cause.Where, here} {
		for _, c := range counted {
			if c.endpoint == e {
				add(c.String())
			}
		}
	}
	if len(t.Cause.Evidence) == 0 {
		add(fmt.Sprintf("%s: tables, rules and counters tell nothing; look with labctl tcpdump %s", here, t.LastSeen))
	}
}

// destination is the interface that a packet was for.
func (r *run) destination(o outcome) string {
	for _, i := range r.net.withAddr(r.trace.Addr) {
		return i.String()
	}
	return r.trace.To
}

// count is what a counter grew by between two tries.
type count struct {
	endpoint, what string
	by             uint64
	rule           *nodes.TableRule // that counted, nil for another counter
}

func (c count) String() string { return fmt.Sprintf("%s: %s +%d", c.endpoint, c.what, c.by) }

// counted is what the second try added to the counters.
func (r *run) counted() (found []count) {
	if r.before == nil {
		return nil
	}
	for _, endpoint := range slices.Sorted(maps.Keys(r.net.tables)) {
		now, was := r.net.tables[endpoint], r.before[endpoint]
		if was == nil {
			continue
		}
		grew := func(what string, now, was uint64) {
			if now > was {
				found = append(found, count{endpoint: endpoint, what: what, by: now - was})
			}
		}
		for _, name := range telling {
			grew(name, now.Counters[name], was.Counters[name])
		}
		for _, l := range now.Links {
			if w := was.Link(l.Name); w != nil {
				grew(l.Name+" rx dropped", l.RxDrop, w.RxDrop)
				grew(l.Name+" tx dropped", l.TxDrop, w.TxDrop)
				for i, q := range l.Qdiscs {
					if i < len(w.Qdiscs) && w.Qdiscs[i].Kind == q.Kind {
						grew(tcDropped+q.Kind+" of "+l.Name, q.Drops, w.Qdiscs[i].Drops)
					}
				}
			}
		}
		for i, rule := range now.Rules {
			if takes(rule) && rule.Packets != nil && i < len(was.Rules) && was.Rules[i].Packets != nil {
				n := len(found)
				grew("nftables: "+rule.String(), *rule.Packets, *was.Rules[i].Packets)
				for k := range found[n:] {
					found[n+k].rule = &now.Rules[i]
				}
			}
		}
	}
	now := drops(r.status)
	for _, node := range slices.Sorted(maps.Keys(now)) {
		for _, reason := range slices.Sorted(maps.Keys(now[node])) {
			if was := r.traffic[node][reason]; now[node][reason] > was {
				found = append(found, count{endpoint: node, what: agentDropped + reason, by: now[node][reason] - was})
			}
		}
	}
	return found
}

// What counters of these begin with.
const (
	agentDropped = "agent dropped: "
	tcDropped    = "tc dropped: "
)

// takes says of a rule that it ends packets.
func takes(r nodes.TableRule) bool {
	return r.Verdict == "drop" || r.Verdict == "reject" || r.Verdict == "policy drop"
}

// guess names a cause by counters alone, where the tables tell none.
func (r *run) guess(here string, counted []count) *Cause {
	for _, c := range counted {
		code := Code("")
		switch {
		case c.rule != nil:
			return dropCause(c.endpoint, *c.rule)
		case strings.HasPrefix(c.what, agentDropped):
			code = AgentDrop
		case c.what == "TcpExtIPReversePathFilter":
			code = RPFilter
		case strings.HasPrefix(c.what, tcDropped):
			code = TCDrop
		}
		if code != "" {
			return &Cause{Code: code, Where: c.endpoint, Evidence: []string{c.String()}}
		}
	}
	for _, rule := range r.rules(here) {
		if takes(rule) && rule.Packets == nil { // one that counts has counted nothing
			return &Cause{Code: NFTDrop, Where: here, Evidence: []string{fmt.Sprintf("%s: nftables, perhaps: %s", here, rule)}}
		}
	}
	if c := r.unread(here); c != nil {
		return c
	}
	return &Cause{Code: Unknown, Where: here}
}

// unread names what drops packets without telling labctl of it, where there is
// such a thing: a program on the device where the packet is missing, before
// anybody can see it there; iptables-legacy's tables where it was seen last.
func (r *run) unread(here string) *Cause {
	endpoint, device, _ := strings.Cut(r.trace.MissingAt, ":")
	if t := r.net.tables[endpoint]; t != nil {
		if l := t.Link(device); l != nil && l.XDP != 0 {
			return &Cause{Code: XDPDrop, Where: endpoint, Evidence: []string{
				fmt.Sprintf("%s: XDP program %d sees packets before anybody else and may drop them: bpftool prog show id %d", r.trace.MissingAt, l.XDP, l.XDP)}}
		}
	}
	if t := r.net.tables[here]; t != nil && len(t.LegacyTables) > 0 {
		return &Cause{Code: LegacyIPTables, Where: here, Evidence: []string{
			fmt.Sprintf("%s: iptables-legacy has %s loaded, perhaps with a rule that drops it: labctl exec %s -- iptables-legacy -vnL", here, strings.Join(t.LegacyTables, ", "), here)}}
	}
	return nil
}

func (r *run) rules(endpoint string) []nodes.TableRule {
	if t := r.net.tables[endpoint]; t != nil {
		return t.Rules
	}
	return nil
}
