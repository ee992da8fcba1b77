package nodes

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// fingerprint is a table's chains and rules, line by line, without what the
// kernel adds (handles) or counts.
type fingerprint []string

// A line is "chain: what comment "text"".
func (f fingerprint) perChain() map[string][]string {
	chains := map[string][]string{}
	for _, line := range f {
		name, rule, _ := strings.Cut(line, ": ")
		chains[name] = append(chains[name], rule)
	}
	return chains
}

// diff says where have differs from want; "" when it does not.
func (want fingerprint) diff(have fingerprint) string {
	w, h := want.perChain(), have.perChain()
	var diff []string
	for _, name := range slices.Sorted(maps.Keys(w)) {
		switch rules := h[name]; {
		case rules == nil && isSet(name):
			diff = append(diff, "no "+name)
		case rules == nil:
			diff = append(diff, "no chain "+name)
		case isSet(name):
			if !slices.Equal(rules, w[name]) {
				diff = append(diff, fmt.Sprintf("%s: has {%s}, want {%s}", name, rules[0], w[name][0]))
			}
		case len(rules) != len(w[name]):
			diff = append(diff, fmt.Sprintf("chain %s: %d rules, want %d", name, len(rules)-1, len(w[name])-1))
		case !slices.Equal(rules, w[name]):
			diff = append(diff, "chain "+name+": changed")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		switch {
		case w[name] != nil:
		case isSet(name):
			diff = append(diff, "unexpected "+name)
		default:
			diff = append(diff, "unexpected chain "+name)
		}
	}
	return strings.Join(diff, ", ")
}

// isSet says of a line's name that it is a set's, not a chain's.
func isSet(name string) bool { return strings.HasPrefix(name, setPrefix) }

const setPrefix = "set "

// members says whether have has the same chains and rules and the same sets,
// so that only the sets' members can be different.
func (want fingerprint) members(have fingerprint) bool {
	w, h := want.perChain(), have.perChain()
	if len(w) != len(h) {
		return false
	}
	for name := range w {
		if h[name] == nil || !isSet(name) && !slices.Equal(w[name], h[name]) {
			return false
		}
	}
	return true
}

// shape says whether have has the same chains, numbers of rules and comments.
func (want fingerprint) shape(have fingerprint) bool {
	rest := func(line string) (string, string) {
		name, rule, _ := strings.Cut(line, ": ")
		_, comment, _ := strings.Cut(rule, "comment ")
		return name, comment
	}
	return slices.EqualFunc(want, have, func(w, h string) bool {
		wn, wc := rest(w)
		hn, hc := rest(h)
		return wn == hn && wc == hc
	})
}

// tables makes the nftables tables what the State says.
func (p *pass) tables() {
	if len(p.want.Tables) == 0 && len(p.r.made.tables) == 0 || p.tablesOK {
		return
	}
	// A Conn that does not last opens its socket for each request, in the
	// namespace of the thread that asks: all of it happens inside.
	err := p.r.ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		have, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
		if err != nil {
			return withoutTables(err)
		}
		there := map[string]bool{}
		for _, t := range have {
			there[t.Name] = true
		}
		want := map[string]bool{}
		for _, t := range p.want.Tables {
			want[t.Name] = true
		}
		for name := range p.r.made.tables {
			if want[name] {
				continue
			}
			if there[name] && !p.do(Change{Remove, "nftables", "table " + name, ""}, "delete", func() error {
				conn.DelTable(inetTable(name))
				return conn.Flush()
			}) {
				continue
			}
			if !p.dry {
				delete(p.r.made.tables, name)
			}
		}
		for _, t := range p.want.Tables {
			if p.ctx.Err() != nil {
				return nil
			}
			if err := p.table(conn, t, there[t.Name]); err != nil {
				p.fail("nftables table "+t.Name, "list", err)
			}
		}
		return nil
	})
	if err != nil {
		p.fail("nftables", "list", err)
	}
}

const tablesCure = "modprobe -a nf_tables nft_chain_nat nft_masq nft_ct (as root), or a kernel that has them"

// withoutTables explains the answer of a kernel that has no nftables to who
// asks for the list: there is no netfilter to ask, or nobody of that kind in it.
func withoutTables(err error) error {
	for _, e := range []error{unix.EPROTONOSUPPORT, unix.EINVAL, unix.EOPNOTSUPP} {
		if errors.Is(err, e) {
			return &MissingError{"nftables (CONFIG_NF_TABLES)", tablesCure, err}
		}
	}
	return err
}

// withoutParts explains the answer of a kernel that has nftables, and does not
// know the family inet (EOPNOTSUPP), or a kind of chain or expression (ENOENT),
// to who makes a table. That a table is not there which is to be changed is
// ENOENT, too.
func withoutParts(err error, there bool) error {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) && !there {
		return &MissingError{"nftables for what the table needs (CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_CT)", tablesCure, err}
	}
	return err
}

func (p *pass) table(conn *nftables.Conn, t Table, there bool) error {
	ch := Change{Add, "nftables", "table " + t.Name, ""}
	want := t.fingerprint()
	write := t.replace
	if there {
		have, err := listTable(conn, t.Name)
		if err != nil {
			return err
		}
		// What the kernel listed after our own commit counts, should it word
		// a rule otherwise than we did.
		diff := want.diff(have)
		if made := p.r.made.tables[t.Name]; diff != "" && slices.Equal(made.want, want) && slices.Equal(made.have, have) {
			diff = ""
		}
		if diff == "" {
			if !p.dry {
				p.r.made.tables[t.Name] = madeTable{want, have}
			}
			return nil
		}
		ch = Change{Modify, "nftables", "table " + t.Name, diff}
		rules := want
		if made := p.r.made.tables[t.Name]; made.have != nil && slices.Equal(made.want.rules(), want.rules()) {
			rules = slices.Concat(made.have.rules(), want.sets())
		}
		if rules.members(have) {
			write = t.refill
		}
	}
	ok := p.do(ch, "replace", func() error {
		write(conn)
		return withoutParts(conn.Flush(), there)
	})
	if !ok {
		return nil
	}
	have, err := listTable(conn, t.Name)
	if err != nil {
		return err
	}
	if !want.shape(have) {
		have = nil // somebody was quicker than the list
	}
	p.r.made.tables[t.Name] = madeTable{want, have}
	return nil
}

// madeTable is a table as it was wanted and as the kernel listed it then.
type madeTable struct{ want, have fingerprint }

func inetTable(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyINet}
}

// replace queues the whole table, so that Flush puts it in the place of the
// old one in one transaction.
func (t Table) replace(conn *nftables.Conn) {
	table := conn.AddTable(inetTable(t.Name)) // so that there is one to delete
	conn.DelTable(table)
	conn.AddTable(table)
	for _, set := range t.Sets {
		// An error is an element's of the wrong size, which Check has told.
		_ = conn.AddSet(set.kernel(table), set.elements())
	}
	chains := make([]*nftables.Chain, len(t.Chains)) // all, before a rule jumps to one
	for i, c := range t.Chains {
		chains[i] = conn.AddChain(c.base(table))
	}
	for i, c := range t.Chains {
		chain := chains[i]
		for _, r := range c.Rules {
			rule := &nftables.Rule{Table: table, Chain: chain, Exprs: r.exprs()}
			if r.Comment != "" {
				rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Comment)
			}
			conn.AddRule(rule)
		}
	}
}

// refill queues the sets' members in the place of those that are there.
func (t Table) refill(conn *nftables.Conn) {
	table := inetTable(t.Name)
	for _, set := range t.Sets {
		k := set.kernel(table)
		conn.FlushSet(k)
		_ = conn.SetAddElements(k, set.elements()) // as in replace
	}
}

func (s Set) kernel(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: s.Name, KeyType: nftables.TypeIPAddr}
}

func (s Set) elements() []nftables.SetElement {
	var out []nftables.SetElement
	for _, a := range s.Addrs {
		out = append(out, nftables.SetElement{Key: a.AsSlice()})
	}
	return out
}

// line is the set's in a fingerprint.
func (s Set) line() string {
	addrs := slices.Clone(s.Addrs)
	slices.SortFunc(addrs, netip.Addr.Compare)
	addrs = slices.Compact(addrs)
	words := make([]string, len(addrs))
	for i, a := range addrs {
		words[i] = a.String()
	}
	return setPrefix + s.Name + ": " + strings.Join(words, " ")
}

// rules is the fingerprint without the sets.
func (f fingerprint) rules() fingerprint {
	return slices.DeleteFunc(slices.Clone(f), isSet)
}

func (f fingerprint) sets() fingerprint {
	return slices.DeleteFunc(slices.Clone(f), func(line string) bool { return !isSet(line) })
}

func (c Chain) base(t *nftables.Table) *nftables.Chain {
	if c.Hook == 0 {
		return &nftables.Chain{Name: c.Name, Table: t}
	}
	accept := nftables.ChainPolicyAccept
	b := &nftables.Chain{Name: c.Name, Table: t, Policy: &accept}
	switch c.Hook {
	case PreroutingNAT:
		b.Type, b.Hooknum, b.Priority = nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest
	case OutputNAT:
		b.Type, b.Hooknum, b.Priority = nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest
	case PostroutingNAT:
		b.Type, b.Hooknum, b.Priority = nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource
	case Forward:
		b.Type, b.Hooknum, b.Priority = nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter
	case Input:
		b.Type, b.Hooknum, b.Priority = nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter
	case PreroutingRaw:
		b.Type, b.Hooknum, b.Priority = nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw
	case Output:
		b.Type, b.Hooknum, b.Priority = nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter
	}
	return b
}

// exprs is the rule in the kernel's terms: load something into register 1,
// compare, and so on; the first comparison that fails ends it. It is written
// exactly as the kernel lists it afterwards.
func (r Rule) exprs() []expr.Any {
	var out []expr.Any
	load := func(e expr.Any, op expr.CmpOp, data []byte) {
		out = append(out, e, &expr.Cmp{Op: op, Register: 1, Data: data})
	}
	meta := func(k expr.MetaKey, op expr.CmpOp, data []byte) { load(&expr.Meta{Key: k, Register: 1}, op, data) }
	mask := func(n uint32, m, data []byte, op expr.CmpOp) {
		out = append(out,
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: m, Xor: make([]byte, n)},
			&expr.Cmp{Op: op, Register: 1, Data: data})
	}
	if f := r.family(); f != 0 {
		meta(expr.MetaKeyNFPROTO, expr.CmpOpEq, []byte{f})
	}
	for _, d := range []struct {
		key  expr.MetaKey
		op   expr.CmpOp
		name string
	}{{expr.MetaKeyIIFNAME, expr.CmpOpEq, r.InDev}, {expr.MetaKeyOIFNAME, expr.CmpOpEq, r.OutDev}, {expr.MetaKeyOIFNAME, expr.CmpOpNeq, r.NotOutDev}} {
		if d.name != "" {
			name := make([]byte, unix.IFNAMSIZ)
			copy(name, d.name)
			meta(d.key, d.op, name)
		}
	}
	if r.MarkMask != 0 {
		out = append(out, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1})
		value := binaryutil.NativeEndian.PutUint32(r.Mark)
		if r.MarkMask == 0xffffffff {
			out = append(out, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: value})
		} else {
			mask(4, binaryutil.NativeEndian.PutUint32(r.MarkMask), value, expr.CmpOpEq)
		}
	}
	if r.State != 0 {
		out = append(out, &expr.Ct{Register: 1, Key: expr.CtKeySTATE})
		mask(4, binaryutil.NativeEndian.PutUint32(uint32(r.State)), make([]byte, 4), expr.CmpOpNeq)
	}
	for _, set := range []struct {
		name   string
		offset uint32
	}{{r.SrcSet, 12}, {r.DstSet, 16}} {
		if set.name != "" {
			out = append(out, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: set.offset, Len: 4},
				&expr.Lookup{SourceRegister: 1, SetName: set.name})
		}
	}
	type address struct {
		p   netip.Prefix
		op  expr.CmpOp
		dst bool
	}
	addresses := []address{{r.Src, expr.CmpOpEq, false}, {r.NotSrc, expr.CmpOpNeq, false}, {r.Dst, expr.CmpOpEq, true}, {r.NotDst, expr.CmpOpNeq, true}}
	for _, p := range r.NotSrcs {
		addresses = append(addresses, address{p, expr.CmpOpNeq, false})
	}
	for _, p := range r.NotDsts {
		addresses = append(addresses, address{p, expr.CmpOpNeq, true})
	}
	for _, a := range addresses {
		if !a.p.IsValid() || a.p.Bits() == 0 && a.op == expr.CmpOpEq {
			continue
		}
		n := uint32(a.p.Addr().BitLen() / 8)
		offset := map[uint32]uint32{4: 12, 16: 8}[n]
		if a.dst {
			offset += n
		}
		out = append(out, &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n})
		value := a.p.Masked().Addr().AsSlice()
		if a.p.IsSingleIP() {
			out = append(out, &expr.Cmp{Op: a.op, Register: 1, Data: value})
		} else {
			mask(n, net.CIDRMask(a.p.Bits(), int(n)*8), value, a.op)
		}
	}
	if r.Local {
		load(&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}, expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL))
	}
	if r.Protocol != "" {
		meta(expr.MetaKeyL4PROTO, expr.CmpOpEq, []byte{protocols[r.Protocol]})
	}
	port := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
	switch {
	case r.DstPortEnd > r.DstPort:
		load(port, expr.CmpOpGte, binary.BigEndian.AppendUint16(nil, r.DstPort))
		out = append(out, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: binary.BigEndian.AppendUint16(nil, r.DstPortEnd)})
	case r.DstPort != 0:
		load(port, expr.CmpOpEq, binary.BigEndian.AppendUint16(nil, r.DstPort))
	}
	out = append(out, &expr.Counter{})
	switch r.Verdict {
	case Accept:
		out = append(out, &expr.Verdict{Kind: expr.VerdictAccept})
	case Drop:
		out = append(out, &expr.Verdict{Kind: expr.VerdictDrop})
	case Return:
		out = append(out, &expr.Verdict{Kind: expr.VerdictReturn})
	case Jump:
		out = append(out, &expr.Verdict{Kind: expr.VerdictJump, Chain: r.Chain})
	case NoTrack:
		out = append(out, &expr.Notrack{})
	case Masquerade:
		out = append(out, &expr.Masq{FullyRandom: true})
	case DNAT:
		nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(r.family()), RegAddrMin: 1, RegAddrMax: 1}
		out = append(out, &expr.Immediate{Register: 1, Data: r.To.Addr().AsSlice()})
		if r.To.Port() != 0 {
			out = append(out, &expr.Immediate{Register: 2, Data: binary.BigEndian.AppendUint16(nil, r.To.Port())})
			nat.RegProtoMin, nat.RegProtoMax, nat.Specified = 2, 2, true
		}
		out = append(out, nat)
	}
	return out
}

// family is the network protocol that the rule is about; 0 for any.
func (r Rule) family() byte {
	if r.SrcSet != "" || r.DstSet != "" {
		return unix.NFPROTO_IPV4
	}
	for _, a := range []netip.Addr{r.Src.Addr(), r.Dst.Addr(), r.NotSrc.Addr(), r.NotDst.Addr(), r.To.Addr()} {
		if a.Is4() {
			return unix.NFPROTO_IPV4
		} else if a.Is6() {
			return unix.NFPROTO_IPV6
		}
	}
	return 0
}

func (t Table) fingerprint() fingerprint {
	var f fingerprint
	chains := slices.Clone(t.Chains)
	slices.SortFunc(chains, func(a, b Chain) int { return strings.Compare(a.Name, b.Name) })
	for _, c := range chains {
		f = append(f, chainLine(c.base(nil)))
		for _, r := range c.Rules {
			f = append(f, ruleLine(c.Name, r.exprs(), r.Comment))
		}
	}
	sets := slices.Clone(t.Sets)
	slices.SortFunc(sets, func(a, b Set) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range sets {
		f = append(f, s.line())
	}
	return f
}

// listTable is the fingerprint of what the kernel has.
func listTable(conn *nftables.Conn, name string) (fingerprint, error) {
	all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(c *nftables.Chain) bool { return c.Table.Name != name })
	slices.SortFunc(all, func(a, b *nftables.Chain) int { return strings.Compare(a.Name, b.Name) })
	var f fingerprint
	for _, c := range all {
		f = append(f, chainLine(c))
		rules, err := conn.GetRules(inetTable(name), c) // none when it is gone meanwhile
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			f = append(f, ruleLine(c.Name, r.Exprs, commentOf(r)))
		}
	}
	sets, err := conn.GetSets(inetTable(name))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(sets, func(a, b *nftables.Set) int { return strings.Compare(a.Name, b.Name) })
	for _, k := range sets {
		if k.Anonymous { // part of a rule
			continue
		}
		elements, err := setElements(conn, k)
		if err != nil {
			return nil, err
		}
		s := Set{Name: k.Name}
		for _, e := range elements {
			if a, ok := netip.AddrFromSlice(e.Key); ok {
				s.Addrs = append(s.Addrs, a)
			}
		}
		f = append(f, s.line())
	}
	return f, nil
}

// setElements are a set's; none when it is gone meanwhile, which GetSetElements
// does not tell from other errors.
func setElements(conn *nftables.Conn, s *nftables.Set) ([]nftables.SetElement, error) {
	elements, err := conn.GetSetElements(s)
	if err != nil {
		if _, gone := conn.GetSetByName(s.Table, s.Name); errors.Is(gone, unix.ENOENT) {
			return nil, nil
		}
	}
	return elements, err
}

func chainLine(c *nftables.Chain) string {
	line := fmt.Sprintf("%s: type %s", c.Name, c.Type)
	if c.Hooknum != nil {
		line += fmt.Sprintf(" hook %d", *c.Hooknum)
	}
	if c.Priority != nil {
		line += fmt.Sprintf(" priority %d", *c.Priority)
	}
	if c.Policy != nil {
		line += fmt.Sprintf(" policy %d", *c.Policy)
	}
	return line
}

func ruleLine(chain string, exprs []expr.Any, comment string) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: ", chain)
	for _, e := range exprs {
		if _, ok := e.(*expr.Counter); ok {
			e = &expr.Counter{} // what it counted does not matter
		}
		fmt.Fprintf(&b, "%T%+v ", e, e)
	}
	fmt.Fprintf(&b, "comment %q", comment)
	return b.String()
}

// commentOf is a rule's comment, "" when it has none. The rule may be anybody's,
// and what is kept beside it is any bytes.
func commentOf(r *nftables.Rule) string {
	for b := r.UserData; len(b) >= 2 && len(b) >= 2+int(b[1]); b = b[2+int(b[1]):] {
		if userdata.Type(b[0]) == userdata.TypeComment {
			return strings.TrimSuffix(string(b[2:2+int(b[1])]), "\x00")
		}
	}
	return ""
}
