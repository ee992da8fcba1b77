package nodes

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableRule is an nftables rule that can end a packet's way or change it, or a
// base chain's policy (Conds empty).
type TableRule struct {
	Family   string `json:"family"` // ip, inet ...
	Table    string `json:"table"`
	Chain    string `json:"chain"`
	Hook     string `json:"hook,omitempty"` // prerouting, input, forward, output, postrouting; "" for a chain that is jumped to
	Priority int    `json:"priority,omitempty"`
	Conds    []Cond `json:"conds,omitempty"`
	// Verdict is drop, reject, accept, notrack, masquerade, snat, dnat, jump NAME ...
	Verdict string `json:"verdict"`
	Comment string `json:"comment,omitempty"`
	// Packets is what the rule counted; nil without a counter.
	Packets *uint64 `json:"packets,omitempty"`
}

// Cond is one condition of a rule. What is "iif", "oif" (a device's name),
// "network OFFSET", "transport OFFSET" (bytes of the header), "l4proto", "nfproto",
// "ct state", or something else that cannot be told from a packet.
type Cond struct {
	What string `json:"what"`
	Not  bool   `json:"not,omitempty"`
	// Op is "" for equal; ">=" and "<=" compare as numbers, most significant byte first.
	Op    string `json:"op,omitempty"`
	Mask  []byte `json:"mask,omitempty"`
	Value []byte `json:"value"`
	// Set is the name of a set that the value must be one of; its members are Values.
	Set    string   `json:"set,omitempty"`
	Values [][]byte `json:"values,omitempty"`
}

// Packet is what a rule can be matched with.
type Packet struct {
	In, Out            string // devices
	Protocol           byte
	Network, Transport []byte // headers
	// State is what connection tracking says of it; 0 when that is not known.
	State ConnState
}

// Matches says whether the rule takes the packet. sure is false when the rule
// asks for what a Packet does not tell; then the answer is that for the rest.
func (r TableRule) Matches(p Packet) (matches, sure bool) {
	sure = true
	if r.Family != "ip" && r.Family != "inet" && r.Family != "bridge" {
		return false, true
	}
	for _, c := range r.Conds {
		have, known := c.load(p)
		if !known {
			sure = false
			continue
		}
		if len(c.Mask) > 0 {
			have = slices.Clone(have)
			for i := range min(len(have), len(c.Mask)) {
				have[i] &= c.Mask[i]
			}
		}
		if c.holds(have) == c.Not {
			return false, true
		}
	}
	return true, sure
}

// holds compares a value, whatever Not says.
func (c Cond) holds(have []byte) bool {
	switch {
	case c.Set != "":
		return slices.ContainsFunc(c.Values, func(v []byte) bool { return bytes.Equal(v, have) })
	case c.Op == ">=":
		return bytes.Compare(have, c.Value) >= 0
	case c.Op == "<=":
		return bytes.Compare(have, c.Value) <= 0
	}
	return bytes.Equal(have, c.Value)
}

// load is what the condition compares.
func (c Cond) load(p Packet) (value []byte, known bool) {
	var offset int
	size := len(c.Value)
	if c.Set != "" {
		if len(c.Values) == 0 {
			return nil, true // of which nothing is a member
		}
		size = len(c.Values[0])
	}
	header := func(b []byte) ([]byte, bool) {
		if offset+size > len(b) {
			return nil, false
		}
		return b[offset : offset+size], true
	}
	name := func(dev string) ([]byte, bool) {
		b := make([]byte, size) // a beginning of it, or more than a name can have
		copy(b, dev)
		return b, true
	}
	switch c.What {
	case "iif":
		return name(p.In)
	case "oif":
		return name(p.Out)
	case "l4proto":
		return []byte{p.Protocol}, true
	case "nfproto":
		return []byte{unix.NFPROTO_IPV4}, true
	case "ethertype", "link 12":
		return []byte{0x08, 0x00}, true
	case "ct state":
		return binaryutil.NativeEndian.PutUint32(uint32(p.State)), p.State != 0
	}
	if n, _ := fmt.Sscanf(c.What, "network %d", &offset); n == 1 {
		return header(p.Network)
	}
	if n, _ := fmt.Sscanf(c.What, "transport %d", &offset); n == 1 {
		return header(p.Transport)
	}
	return nil, false
}

// String is the rule as nft names it, with its counter.
func (r TableRule) String() string {
	s := fmt.Sprintf("table %s %s, chain %s", r.Family, r.Table, r.Chain)
	if r.Hook != "" {
		s += " (hook " + r.Hook + ")"
	}
	if len(r.Conds) == 0 && strings.HasPrefix(r.Verdict, "policy") {
		return s + ": " + r.Verdict
	}
	s += ": "
	for _, c := range r.Conds {
		s += c.String() + " "
	}
	s += r.Verdict
	if r.Comment != "" {
		s += fmt.Sprintf(" comment %q", r.Comment)
	}
	return s
}

// String is the condition in nft's words as far as they are short.
func (c Cond) String() string {
	op := " "
	if c.Not {
		op = " != "
	}
	if c.Op != "" {
		op = " " + c.Op + " "
	}
	value := fmt.Sprintf("%#x", c.Value)
	what := c.What
	switch {
	case c.Set != "":
		if name := map[string]string{"network 12": "ip saddr", "network 16": "ip daddr"}[what]; name != "" {
			what = name
		}
		value = "@" + c.Set
	case what == "ct state" && len(c.Mask) == 4:
		return "ct state " + ConnState(binaryutil.NativeEndian.Uint32(c.Mask)).String()
	case what == "iif" || what == "oif":
		what, value = what+"name", fmt.Sprintf("%q", bytes.TrimRight(c.Value, "\x00"))
	case (what == "network 12" || what == "network 16") && len(c.Value) == 4:
		what = map[string]string{"network 12": "ip saddr", "network 16": "ip daddr"}[what]
		value = fmt.Sprintf("%d.%d.%d.%d", c.Value[0], c.Value[1], c.Value[2], c.Value[3])
		ones := 0
		for _, b := range c.Mask {
			for ; b&0x80 != 0; b <<= 1 {
				ones++
			}
		}
		if len(c.Mask) == 4 {
			value += fmt.Sprintf("/%d", ones)
		}
	case (what == "network 12" || what == "network 16") && len(c.Value) < 4:
		what = map[string]string{"network 12": "ip saddr", "network 16": "ip daddr"}[what]
		var parts []string
		for i := range 4 {
			if i < len(c.Value) {
				parts = append(parts, fmt.Sprint(c.Value[i]))
			} else {
				parts = append(parts, "0")
			}
		}
		value = fmt.Sprintf("%s/%d", strings.Join(parts, "."), 8*len(c.Value))
	case what == "transport 2" && len(c.Value) == 2:
		what, value = "dport", fmt.Sprint(int(c.Value[0])<<8|int(c.Value[1]))
	case what == "transport 0" && len(c.Value) == 2:
		what, value = "sport", fmt.Sprint(int(c.Value[0])<<8|int(c.Value[1]))
	case (what == "l4proto" || what == "network 9") && len(c.Value) == 1:
		what, value = "protocol", protocolName(c.Value[0])
	case what == "nfproto" || what == "ethertype" || what == "link 12":
		return "ipv4"
	case len(c.Value) == 0:
		return what
	}
	return what + op + value
}

// String is the states in nft's words.
func (s ConnState) String() string {
	var words []string
	for i, word := range []string{"invalid", "established", "related", "new"} {
		if s&(1<<i) != 0 {
			words = append(words, word)
		}
	}
	return strings.Join(words, ",")
}

func protocolName(p byte) string {
	for name, n := range protocols {
		if n == p {
			return name
		}
	}
	return fmt.Sprint(p)
}

var families = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyBridge: "bridge",
	nftables.TableFamilyARP: "arp", nftables.TableFamilyNetdev: "netdev",
}

var hooks = []string{"prerouting", "input", "forward", "output", "postrouting"}

// tableRules lists the thread's namespace's, with an error those that can be
// read.
func tableRules() ([]TableRule, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	var out []TableRule
	var errs []error
	sets := setReader{conn: conn, read: map[string][][]byte{}}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyINet, nftables.TableFamilyBridge} {
		chains, err := conn.ListChainsOfTableFamily(family)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", families[family], err))
		}
		for _, c := range chains {
			base := TableRule{Family: families[c.Table.Family], Table: c.Table.Name, Chain: c.Name}
			if c.Hooknum != nil && int(*c.Hooknum) < len(hooks) {
				base.Hook = hooks[*c.Hooknum]
			}
			if c.Priority != nil {
				base.Priority = int(*c.Priority)
			}
			rules, err := conn.GetRules(c.Table, c) // none when it is gone meanwhile
			if err != nil {
				errs = append(errs, fmt.Errorf("%s %s %s: %w", base.Family, base.Table, base.Chain, err))
			}
			for _, r := range rules {
				out = append(out, sets.fill(c.Table, tableRule(base, r)))
			}
			if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
				base.Verdict = "policy drop"
				out = append(out, base)
			}
		}
	}
	return out, errors.Join(errs...)
}

// setReader reads the members of sets that rules name, each set once.
type setReader struct {
	conn *nftables.Conn
	read map[string][][]byte // by table and name; nil for one that has intervals or cannot be read
}

// fill gives the conditions that look into a set its members. Those of other
// kinds than plain values are made such that cannot be told from a packet.
func (s setReader) fill(t *nftables.Table, r TableRule) TableRule {
	for i, c := range r.Conds {
		if c.Set == "" {
			continue
		}
		key := families[t.Family] + " " + t.Name + " " + c.Set
		values, ok := s.read[key]
		if !ok {
			values = s.members(t, c.Set)
			s.read[key] = values
		}
		if values == nil {
			c = Cond{What: c.What + " @" + c.Set, Not: c.Not}
		}
		c.Values = values
		r.Conds[i] = c
	}
	return r
}

func (s setReader) members(t *nftables.Table, name string) [][]byte {
	set, err := s.conn.GetSetByName(t, name)
	if err != nil || set.Interval || set.IsMap {
		return nil
	}
	elements, err := s.conn.GetSetElements(set)
	if err != nil {
		return nil
	}
	values := [][]byte{}
	for _, e := range elements {
		values = append(values, e.Key)
	}
	return values
}

// tableRule reads a rule's expressions: registers that are loaded, masked and
// compared become conditions.
func tableRule(base TableRule, r *nftables.Rule) TableRule {
	base.Comment = commentOf(r)
	var what string
	var mask []byte
	loads := 0 // since something was compared
	load := func(w string) { what, loads = w, loads+1 }
	cond := func(value []byte, not bool) {
		base.Conds = append(base.Conds, Cond{What: what, Not: not, Mask: mask, Value: value})
		mask, loads = nil, 0
	}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Meta:
			if e.SourceRegister {
				break // it sets it
			}
			name := map[expr.MetaKey]string{expr.MetaKeyIIFNAME: "iif", expr.MetaKeyOIFNAME: "oif", expr.MetaKeyL4PROTO: "l4proto",
				expr.MetaKeyNFPROTO: "nfproto", expr.MetaKeyMARK: "mark",
				expr.MetaKeyPROTOCOL: "ethertype"}[e.Key]
			if name == "" {
				name = fmt.Sprintf("meta %d", e.Key)
			}
			load(name)
		case *expr.Payload:
			load(fmt.Sprintf("%s %d", map[expr.PayloadBase]string{expr.PayloadBaseLLHeader: "link", expr.PayloadBaseNetworkHeader: "network",
				expr.PayloadBaseTransportHeader: "transport"}[e.Base], e.Offset))
		case *expr.Bitwise:
			mask = e.Mask
		case *expr.Cmp:
			if (e.Op == expr.CmpOpGte || e.Op == expr.CmpOpLte) && mask == nil {
				op := map[expr.CmpOp]string{expr.CmpOpGte: ">=", expr.CmpOpLte: "<="}[e.Op]
				base.Conds = append(base.Conds, Cond{What: what, Op: op, Value: e.Data})
				loads = 0
				break
			}
			if what == "mark" && len(e.Data) == 4 {
				what = fmt.Sprintf("mark %#x", binaryutil.NativeEndian.Uint32(e.Data))
				cond(nil, e.Op == expr.CmpOpNeq)
				break
			}
			if e.Op != expr.CmpOpEq && e.Op != expr.CmpOpNeq {
				what = "range of " + what
			}
			cond(e.Data, e.Op == expr.CmpOpNeq)
		case *expr.Counter:
			n := e.Packets
			base.Packets = &n
		case *expr.Ct:
			switch {
			case e.SourceRegister:
			case e.Key == expr.CtKeySTATE:
				load("ct state")
			default:
				load("ct")
			}
		case *expr.Fib:
			load("fib")
		case *expr.Lookup:
			if loads > 1 { // a set of pairs, or of more
				what = "several of a packet's fields, the last " + what + ","
			}
			base.Conds = append(base.Conds, Cond{What: what, Not: e.Invert, Mask: mask, Set: e.SetName})
			mask, loads = nil, 0
		case *expr.Match:
			what = "match " + e.Name
			cond(nil, false)
		case *expr.Range:
			what = "range of " + what
			cond(nil, false)
		case *expr.Limit:
			what = "limit"
			cond(nil, false)
		case *expr.Verdict:
			base.Verdict = verdictName(e)
		case *expr.Reject:
			base.Verdict = "reject"
		case *expr.Notrack:
			base.Verdict = "notrack"
		case *expr.Masq:
			base.Verdict = "masquerade"
		case *expr.NAT:
			base.Verdict = map[expr.NATType]string{expr.NATTypeSourceNAT: "snat", expr.NATTypeDestNAT: "dnat"}[e.Type]
		case *expr.Target:
			base.Verdict = strings.ToLower(e.Name)
		}
	}
	return base
}

func verdictName(v *expr.Verdict) string {
	switch v.Kind {
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return "return"
	case expr.VerdictJump:
		return "jump " + v.Chain
	case expr.VerdictGoto:
		return "goto " + v.Chain
	}
	return ""
}
