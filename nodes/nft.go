package nodes

import "net/netip"

// Table is an nftables table that belongs to the owner whole: whatever else
// is found in it is removed, and a table is replaced in one transaction.
type Table struct {
	Name   string // labctl-...; family inet
	Chains []Chain
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
)

// Chain is a base chain with policy accept.
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
)

// Rule matches when all of its non-zero conditions hold, counts the packet,
// and gives the verdict.
type Rule struct {
	Src, Dst       netip.Prefix // zero: any
	NotSrc, NotDst netip.Prefix // zero: no condition
	InDev, OutDev  string
	NotOutDev      string
	Mark           uint32 // with MarkMask: mark & MarkMask == Mark; MarkMask 0: no condition
	MarkMask       uint32
	Local          bool   // destination is one of the host's own addresses (fib daddr type local)
	Protocol       string // "tcp" or "udp"; "" any
	DstPort        uint16 // needs Protocol
	Verdict        Verdict
	To             netip.AddrPort // DNAT's target
	Comment        string         // shown by nft list ruleset
}
