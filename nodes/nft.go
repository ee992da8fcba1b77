package nodes

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Table is an nftables table that belongs to the owner whole: whatever else
// is found in it is removed, and a table is replaced in one transaction.
type Table struct {
	Name   string // labctl-...; family inet
	Chains []Chain
	Sets   []Set
}

// Set is a named set of IPv4 addresses that rules look sources and
// destinations up in. One whose members alone are wrong is mended in place, so
// that the table's counters go on.
type Set struct {
	Name  string
	Addrs []netip.Addr // in any order
}

// Hook is where a base chain is attached.
type Hook int

// The hooks that labctl uses, with the priorities nft gives them.
const (
	PreroutingNAT  Hook = iota + 1 // type nat, hook prerouting, priority dstnat
	OutputNAT                      // type nat, hook output, priority -100
	PostroutingNAT                 // type nat, hook postrouting, priority srcnat
	Forward                        // type filter, hook forward, priority filter
	Input                          // type filter, hook input, priority filter
	Output                         // type filter, hook output, priority filter
	PreroutingRaw                  // type filter, hook prerouting, priority raw: before connection tracking
)

// Chain is a base chain with policy accept or, without a hook, one that rules
// jump to.
type Chain struct {
	Name  string
	Hook  Hook
	Rules []Rule
}

// Verdict ends a rule.
type Verdict int

// The verdicts that labctl uses.
const (
	Accept Verdict = iota + 1
	Drop
	Return
	Masquerade // with fully-random
	DNAT       // to Rule.To
	Jump       // to Rule.Chain; what comes back goes on with the next rule
	NoTrack    // connection tracking passes the packet over
)

// ConnState is what connection tracking says of a packet; several are or-ed.
type ConnState uint32

// The states, with the bits of nft's ct state.
const (
	Invalid     ConnState = 1 << iota // not part of a flow, and cannot begin one
	Established                       // of a flow that was answered
	Related                           // begins a flow that another announced; errors about one
	New                               // begins a flow
)

// protocols are the IP protocols that rules can match, by name.
var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "icmp": unix.IPPROTO_ICMP, "ipip": unix.IPPROTO_IPIP}

// Rule matches when all of its non-zero conditions hold, counts the packet,
// and gives the verdict.
type Rule struct {
	Src, Dst       netip.Prefix // zero: any
	NotSrc, NotDst netip.Prefix // zero: no condition
	InDev, OutDev  string
	NotOutDev      string
	SrcSet, DstSet string         // names of the table's sets that the address must be in
	NotDsts        []netip.Prefix // further ranges that the destination must not be in
	NotSrcs        []netip.Prefix // the same of the source
	State          ConnState      // any of these; 0: no condition
	Mark           uint32         // with MarkMask: mark & MarkMask == Mark; MarkMask 0: no condition
	MarkMask       uint32
	Local          bool   // destination is one of the host's own addresses (fib daddr type local)
	Protocol       string // "tcp", "udp", "icmp" or "ipip"; "" any
	DstPort        uint16 // needs Protocol tcp or udp
	DstPortEnd     uint16 // with DstPort: the last one of a range; 0: DstPort alone
	Verdict        Verdict
	Chain          string         // Jump's target
	To             netip.AddrPort // DNAT's target
	Comment        string         // shown by nft list ruleset
}
