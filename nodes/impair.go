package nodes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Impairment is what is wrong with one device, on purpose. Packets count as the
// kernel hands them on: with offloads on, one may be many on a wire.
type Impairment struct {
	Dev  string
	Down bool // switched off, as by ip link set down
	// Drop is how many of 100 packets that arrive an nftables rule drops. (Those
	// that leave it could drop, too, but then the kernel tells the sender.)
	Drop float64
	// Block drops what arrives from these.
	Block []Source
	// The rest is about what leaves. Rate is what a token bucket (tbf) lets pass, in bits a second; 0 for all.
	Rate int64
	// Delay, Jitter, Loss and Reorder are netem's: how long each packet is held
	// back, how much that varies, how many of 100 are lost, and how many go
	// at once in place of being held back.
	Delay, Jitter time.Duration
	Loss, Reorder float64
}

// Source is a neighbour's MAC, or addresses; one of them is set.
type Source struct {
	MAC net.HardwareAddr
	Net netip.Prefix
}

func (s Source) String() string {
	if s.MAC != nil {
		return s.MAC.String()
	}
	return s.Net.String()
}

// netem says whether the impairment needs that queueing discipline.
func (i Impairment) netem() bool { return i.Delay > 0 || i.Jitter > 0 || i.Loss > 0 || i.Reorder > 0 }

// MissingError says which part of the kernel is needed and this one has not.
type MissingError struct {
	What string // "nftables (CONFIG_NF_TABLES)"
	Cure string
	Err  error // what the kernel said
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("this kernel has no %s: %v", e.What, e.Err)
}
func (e *MissingError) Unwrap() error { return e.Err }

// The queueing disciplines of an Impairer are known by these handles, which tc
// shows as 1ab0: and 1ab1:. netem is the root, or else tbf is.
const (
	netemHandle = 0x1ab0 << 16
	tbfHandle   = 0x1ab1 << 16
)

// faultTable is its nftables table, of family netdev. It has the chain drop-DEV
// for each device with Drop and block-DEV for each with Block.
const faultTable = "labctl-fault"

// Impairer impairs the devices of one namespace. It is level-triggered as a
// Reconciler is: Apply looks at what is there and changes what differs, and
// nothing else, so that one impairment can come or go beside others. Both may
// work in one namespace; what is Down the Reconciler must be told (KeepDown).
// It is safe for concurrent use.
type Impairer struct {
	ns *Namespace

	mu     sync.Mutex            // guards all below, and is held during Apply
	down   map[string]bool       // devices that were switched off here
	shaped map[string]Impairment // what the queueing disciplines were made for
	table  bool                  // there may be one
}

// NewImpairer makes one for ns, which stays the caller's.
func NewImpairer(ns *Namespace) *Impairer {
	return &Impairer{ns: ns, down: map[string]bool{}, shaped: map[string]Impairment{}}
}

// Apply makes the impairments those that are wanted, one for each device at
// most. A device that is not there is an error (ENODEV) after the rest is done.
func (m *Impairer) Apply(want []Impairment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(want) == 0 && len(m.down)+len(m.shaped) == 0 && !m.table {
		return nil
	}
	h, err := openHandle(m.ns)
	if err != nil {
		return fmt.Errorf("%s: open netlink socket: %w", m.ns.name, err)
	}
	defer h.Close()
	links, err := dump(h.LinkList)
	if err != nil {
		return fmt.Errorf("%s: list links: %w", m.ns.name, err)
	}
	byName := map[string]netlink.Link{}
	for _, l := range links {
		byName[l.Attrs().Name] = l
	}
	var errs []error
	fail := func(dev string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s:%s: %w", m.ns.name, dev, err))
		}
	}
	wanted := map[string]Impairment{}
	for _, w := range want {
		if byName[w.Dev] == nil {
			fail(w.Dev, errNoDevice)
			continue
		}
		wanted[w.Dev] = w
	}
	for dev := range m.down {
		if l := byName[dev]; l != nil && !wanted[dev].Down {
			if err := h.LinkSetUp(l); err != nil {
				fail(dev, fmt.Errorf("set link up: %w", err))
				continue
			}
		}
		if !wanted[dev].Down {
			delete(m.down, dev)
		}
	}
	// What shapes packets goes before what stops them.
	for _, dev := range slices.Sorted(maps.Keys(byName)) {
		if w, had := wanted[dev], m.shaped[dev]; w.netem() || w.Rate > 0 || had.Dev != "" {
			fail(dev, m.shape(h, byName[dev], w))
		}
	}
	maps.DeleteFunc(m.shaped, func(dev string, _ Impairment) bool { return byName[dev] == nil })
	if err := m.ns.Do(func() error { return m.rules(wanted) }); err != nil {
		errs = append(errs, fmt.Errorf("%s: nftables: %w", m.ns.name, err))
	}
	for _, dev := range slices.Sorted(maps.Keys(wanted)) {
		if !wanted[dev].Down {
			continue
		}
		m.down[dev] = true
		if l := byName[dev]; l.Attrs().Flags&net.FlagUp != 0 {
			if err := h.LinkSetDown(l); err != nil {
				fail(dev, fmt.Errorf("set link down: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}

// shape makes a device's queueing disciplines what w asks for: netem with the
// token bucket inside, or one of them, or what the kernel had before.
func (m *Impairer) shape(h *netlink.Handle, l netlink.Link, w Impairment) error {
	have, err := dump(func() ([]netlink.Qdisc, error) { return h.QdiscList(l) })
	if err != nil {
		return fmt.Errorf("list queueing disciplines: %w", err)
	}
	var ours []netlink.Qdisc // the root first
	for _, q := range have {
		a := q.Attrs()
		switch {
		case a.Handle == netemHandle || a.Handle == tbfHandle:
			ours = append(ours, q)
		case a.Parent == netlink.HANDLE_ROOT && a.Handle != 0:
			return fmt.Errorf("has a queueing discipline of somebody's: %s %x:", q.Type(), a.Handle>>16)
		}
	}
	slices.SortFunc(ours, func(a, b netlink.Qdisc) int { return int(a.Attrs().Handle>>16) - int(b.Attrs().Handle>>16) })
	want := w.qdiscs(l)
	same := slices.EqualFunc(ours, want, func(a, b netlink.Qdisc) bool {
		return a.Attrs().Handle == b.Attrs().Handle && a.Attrs().Parent == b.Attrs().Parent && a.Type() == b.Type()
	})
	last := m.shaped[l.Attrs().Name]
	if same && last.sameShape(w) {
		return nil
	}
	verb, do := "change", h.QdiscChange
	if !same {
		if len(ours) > 0 {
			if err := h.QdiscDel(ours[0]); err != nil {
				return fmt.Errorf("delete %s: %w", ours[0].Type(), err)
			}
		}
		delete(m.shaped, l.Attrs().Name)
		verb, do = "add", h.QdiscAdd
	}
	for _, q := range want {
		if err := do(q); err != nil {
			err = fmt.Errorf("%s %s: %w", verb, q.Type(), err)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
				err = &MissingError{fmt.Sprintf("%s (CONFIG_NET_SCH_%s)", q.Type(), strings.ToUpper(q.Type())), "modprobe sch_" + q.Type() + " (as root), or a kernel that has it", err}
			}
			return err
		}
	}
	if len(want) > 0 {
		m.shaped[l.Attrs().Name] = w
	}
	return nil
}

func (i Impairment) sameShape(o Impairment) bool {
	return i.Rate == o.Rate && i.Delay == o.Delay && i.Jitter == o.Jitter && i.Loss == o.Loss && i.Reorder == o.Reorder
}

const (
	// psched is the kernel's unit of time for queueing disciplines.
	psched = 64 * time.Nanosecond
	// bucketTime is how long a token bucket takes to fill: below some
	// milliseconds timers are too coarse for the rate to be reached.
	bucketTime = 10 * time.Millisecond
	// leastBucket holds a jumbo frame.
	leastBucket = 9216
	// queueTime is how long a packet waits for tokens before packets are
	// dropped, as tc's latency.
	queueTime = 50 * time.Millisecond
	// netemLimit is the number of packets that netem holds: enough for 10 Gbit/s
	// of full-sized packets held back for 100 ms.
	netemLimit = 100_000
)

// qdiscs are what the impairment takes, the root first.
func (i Impairment) qdiscs(l netlink.Link) []netlink.Qdisc {
	var all []netlink.Qdisc
	parent := uint32(netlink.HANDLE_ROOT)
	if i.netem() {
		all = append(all, netlink.NewNetem(
			netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netemHandle, Parent: parent},
			netlink.NetemQdiscAttrs{Latency: uint32(i.Delay.Microseconds()), Jitter: uint32(i.Jitter.Microseconds()), Limit: netemLimit,
				Loss: float32(i.Loss), ReorderProb: float32(i.Reorder)}))
		parent = netemHandle | 1
	}
	if i.Rate > 0 {
		bytes := uint64(i.Rate) / 8
		burst := max(bytes*uint64(bucketTime)/uint64(time.Second), leastBucket)
		limit := burst + bytes*uint64(queueTime)/uint64(time.Second)
		all = append(all, &netlink.Tbf{
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: tbfHandle, Parent: parent},
			Rate:       bytes, Limit: uint32(min(limit, math.MaxInt32)),
			Buffer: uint32(min(burst*uint64(time.Second)/bytes/uint64(psched), math.MaxUint32)),
		})
	}
	return all
}

// rules makes the nftables table of the thread's namespace. A chain whose rules
// are as wanted is left alone, with what they have counted.
func (m *Impairer) rules(wanted map[string]Impairment) error {
	want := map[string]faultChain{}
	for dev, w := range wanted {
		if w.Drop > 0 {
			want["drop-"+dev] = faultChain{dev, []faultRule{w.dropRule()}}
		}
		if len(w.Block) > 0 {
			c := faultChain{dev: dev}
			for _, s := range w.Block {
				c.rules = append(c.rules, s.rule())
			}
			want["block-"+dev] = c
		}
	}
	if len(want) == 0 && !m.table {
		return nil
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := &nftables.Table{Name: faultTable, Family: nftables.TableFamilyNetdev}
	if len(want) == 0 {
		conn.AddTable(table) // so that there is one to delete
		conn.DelTable(table)
		err := conn.Flush()
		m.table = err != nil
		return err
	}
	have := map[string]*nftables.Chain{}
	if m.table {
		all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Table.Name == faultTable {
				have[c.Name] = c
			}
		}
	}
	m.table = true
	conn.AddTable(table)
	for name, c := range have {
		if _, ok := want[name]; !ok {
			conn.FlushChain(c)
			conn.DelChain(c)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		c := want[name]
		chain := have[name]
		if chain != nil {
			rules, err := conn.GetRules(table, chain)
			if err != nil {
				return err
			}
			if slices.EqualFunc(rules, c.rules, func(have *nftables.Rule, want faultRule) bool {
				return commentOf(have) == want.comment
			}) {
				continue
			}
			conn.FlushChain(chain)
		} else {
			accept := nftables.ChainPolicyAccept
			chain = conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookIngress,
				Priority: nftables.ChainPriorityFilter, Policy: &accept, Device: c.dev})
		}
		for _, r := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(r.exprs, &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}),
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
		}
	}
	if err := conn.Flush(); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) {
			return &MissingError{"nftables hook for devices (CONFIG_NF_TABLES_NETDEV), or no nft_numgen (CONFIG_NFT_NUMGEN)", "modprobe nft_numgen (as root), or a kernel that has them", err}
		}
		return err
	}
	return nil
}

// faultChain is a chain of the table.
type faultChain struct {
	dev   string
	rules []faultRule
}

// faultRule is what has to hold for a packet to be dropped. The comment tells
// it from all others.
type faultRule struct {
	exprs   []expr.Any
	comment string
}

// dropModulus is the number of equal parts that a packet's lot is one of.
const dropModulus = 10_000

func (i Impairment) dropRule() faultRule {
	parts := uint32(math.Round(i.Drop * dropModulus / 100))
	return faultRule{
		exprs: []expr.Any{
			&expr.Numgen{Register: 1, Modulus: dropModulus, Type: unix.NFT_NG_RANDOM},
			// Less than compares bytes, the highest first.
			&expr.Byteorder{SourceRegister: 1, DestRegister: 1, Op: expr.ByteorderHton, Len: 4, Size: 4},
			&expr.Cmp{Op: expr.CmpOpLt, Register: 1, Data: []byte{byte(parts >> 24), byte(parts >> 16), byte(parts >> 8), byte(parts)}},
		},
		comment: fmt.Sprintf("labctl fault: %g of 100", i.Drop),
	}
}

func (s Source) rule() faultRule {
	r := faultRule{comment: "labctl fault: from " + s.String()}
	if s.MAC != nil {
		r.exprs = []expr.Any{
			&expr.Meta{Key: expr.MetaKeyIIFTYPE, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint16(nil, unix.ARPHRD_ETHER)},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: s.MAC},
		}
		return r
	}
	n := uint32(s.Net.Addr().BitLen() / 8)
	offset, ethertype := uint32(12), []byte{0x08, 0x00}
	if s.Net.Addr().Is6() {
		offset, ethertype = 8, []byte{0x86, 0xdd}
	}
	r.exprs = []expr.Any{
		&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: ethertype},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: n},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: n, Mask: net.CIDRMask(s.Net.Bits(), int(n)*8), Xor: make([]byte, n)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: s.Net.Masked().Addr().AsSlice()},
	}
	return r
}

// Dropped counts the packets that rules have dropped, by "drop-DEV"
// and "block-DEV".
func (m *Impairer) Dropped() (map[string]uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	count := map[string]uint64{}
	if !m.table {
		return count, nil
	}
	err := m.ns.Do(func() error {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Table.Name != faultTable {
				continue
			}
			rules, err := conn.GetRules(c.Table, c)
			if err != nil {
				return err
			}
			for _, r := range rules {
				for _, e := range r.Exprs {
					if n, ok := e.(*expr.Counter); ok {
						count[c.Name] += n.Packets
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("%s: nftables: %w", m.ns.name, err)
	}
	return count, err
}
