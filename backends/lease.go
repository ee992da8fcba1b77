package backends

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Lease says that one host owns Subnet. The byte slices are shared between
// copies and are never written to.
type Lease struct {
	Subnet        netip.Prefix
	PublicIP      netip.Addr      // where to send packets for Subnet; the owner's identity
	PublicIPv6    netip.Addr      // zero in an IPv4 network
	BackendType   string          // as stored: udp's is ""
	BackendData   json.RawMessage // what peers need beside PublicIP; nil for none
	BackendV6Data json.RawMessage
	// Reserved is true for a key without TTL, which stays until somebody
	// deletes it: flannel's reservation.
	Reserved bool
	// Expires is when the lease ends unless it is renewed. It is known for
	// one's own lease only ([Held.Lease]); for others it would cost a call each.
	Expires  time.Time
	Revision int64 // the store's revision at the last change of this lease
	// ID is etcd's lease that keeps the key, 0 when Reserved.
	ID int64
}

// Attrs is the part of the lease that its owner publishes as the key's value.
func (l Lease) Attrs() Attrs {
	return Attrs{l.PublicIP, l.PublicIPv6, l.BackendType, l.BackendData, l.BackendV6Data}
}

// Attrs is the value of a lease's key.
type Attrs struct {
	PublicIP      netip.Addr
	PublicIPv6    netip.Addr
	BackendType   string // "" for udp: flannel omits it
	BackendData   json.RawMessage
	BackendV6Data json.RawMessage
}

// attrsJSON fixes the order of the keys. PublicIPv6 is always there, as null
// when there is none; flannel's own readers do not care, people who compare
// with etcdctl do.
type attrsJSON struct {
	PublicIP      netip.Addr
	PublicIPv6    *netip.Addr
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`
}

// Encode is the value byte for byte as flannel writes it:
//
//	{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{...}}
func (a Attrs) Encode() ([]byte, error) {
	if !a.PublicIP.Is4() {
		return nil, fmt.Errorf("lease value: PublicIP %v is not an IPv4 address", a.PublicIP)
	}
	j := attrsJSON{a.PublicIP, nil, a.BackendType, a.BackendData, a.BackendV6Data}
	if a.PublicIPv6.IsValid() {
		j.PublicIPv6 = &a.PublicIPv6
	}
	data, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("lease value: %w", err)
	}
	return data, nil
}

// Equal reports whether a and b are stored as the same value.
func (a Attrs) Equal(b Attrs) bool {
	return a.PublicIP == b.PublicIP && a.PublicIPv6 == b.PublicIPv6 && a.BackendType == b.BackendType &&
		bytes.Equal(a.BackendData, b.BackendData) && bytes.Equal(a.BackendV6Data, b.BackendV6Data)
}

// DecodeAttrs reads a value. Unknown keys are ignored. A value without
// PublicIP is an error: flannel reads it as 0.0.0.0, which no packet reaches.
func DecodeAttrs(data []byte) (Attrs, error) {
	var j struct {
		PublicIP      string
		PublicIPv6    *string
		BackendType   string
		BackendData   json.RawMessage
		BackendV6Data json.RawMessage
	}
	if err := json.Unmarshal(data, &j); err != nil {
		return Attrs{}, fmt.Errorf("lease value: %w", err)
	}
	a := Attrs{BackendType: j.BackendType, BackendData: present(j.BackendData), BackendV6Data: present(j.BackendV6Data)}
	var err error
	if j.PublicIP == "" {
		return Attrs{}, fmt.Errorf("lease value: no PublicIP")
	}
	if a.PublicIP, err = netip.ParseAddr(j.PublicIP); err != nil || !a.PublicIP.Is4() {
		return Attrs{}, fmt.Errorf("lease value: PublicIP %q is not an IPv4 address", j.PublicIP)
	}
	if j.PublicIPv6 != nil {
		if a.PublicIPv6, err = netip.ParseAddr(*j.PublicIPv6); err != nil || !a.PublicIPv6.Is6() || a.PublicIPv6.Is4In6() || a.PublicIPv6.Zone() != "" {
			return Attrs{}, fmt.Errorf("lease value: PublicIPv6 %q is not an IPv6 address", *j.PublicIPv6)
		}
	}
	return a, nil
}

// present is data, or nil for none. The compact form makes two spellings of
// one value equal.
func present(data json.RawMessage) json.RawMessage {
	if len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return nil
	}
	var b bytes.Buffer
	if json.Compact(&b, data) != nil {
		return bytes.Clone(data)
	}
	return b.Bytes()
}

// newLease joins a key and its value.
func newLease(subnet netip.Prefix, a Attrs, id, revision int64) Lease {
	return Lease{
		Subnet: subnet, PublicIP: a.PublicIP, PublicIPv6: a.PublicIPv6,
		BackendType: a.BackendType, BackendData: a.BackendData, BackendV6Data: a.BackendV6Data,
		Reserved: id == 0, ID: id, Revision: revision,
	}
}

func sortLeases(leases []Lease) {
	slices.SortFunc(leases, func(a, b Lease) int { return comparePrefix(a.Subnet, b.Subnet) })
}

// comparePrefix orders by address, then the larger network first, so that of
// two prefixes that overlap the containing one comes first.
func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
