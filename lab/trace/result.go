package trace

import (
	"fmt"
	"net/netip"

	"labctl/lab"
)

// Trace is the packet's way. Its JSON is stable: fields are only ever added.
type Trace struct {
	SchemaVersion int        `json:"schemaVersion"`
	Lab           string     `json:"lab"`
	From          string     `json:"from"`
	To            string     `json:"to"`
	Addr          netip.Addr `json:"addr"`
	Protocol      string     `json:"protocol"` // icmp, tcp or udp
	Port          uint16     `json:"port,omitempty"`
	Size          int        `json:"size"` // bytes of the IP packet
	Delivered     bool       `json:"delivered"`
	// Answer is what came back: "echo reply", "syn-ack", "reset", "port unreachable", "datagram"; "" for nothing.
	Answer string   `json:"answer,omitempty"`
	Tries  int      `json:"tries"`
	Notes  []string `json:"notes"`
	Steps  []Step   `json:"steps"`
	// LastSeen and MissingAt are interfaces; "" for a packet that was delivered.
	LastSeen  string `json:"lastSeen,omitempty"`
	MissingAt string `json:"missingAt,omitempty"`
	Cause     *Cause `json:"cause,omitempty"`
}

// Direction is how a packet passes an interface.
type Direction string

// The two directions, as seen from the namespace.
const (
	In  Direction = "in"
	Out Direction = "out"
)

// Way is which packet a step saw.
type Way string

// The probe itself, what B answered, and an error that somebody on the way sent.
const (
	Request Way = "request"
	Answer  Way = "answer"
	Problem Way = "error"
)

// Step is the packet seen at one interface.
type Step struct {
	Number    int       `json:"number"`
	AtUs      float64   `json:"atUs"` // microseconds since the first
	Endpoint  string    `json:"endpoint"`
	Interface string    `json:"interface"`
	Direction Direction `json:"direction"`
	Way       Way       `json:"way"`
	Packet    Frame     `json:"packet"`
	// Changed is what is not as it was at the step before.
	Changed []string `json:"changed"`
	// Why is what decided that the packet came here.
	Why []Decision `json:"why"`
	// Aside says why a step is not on the packet's way: a copy that a bridge
	// flooded.
	Aside string `json:"aside,omitempty"`

	data   []byte // the captured bytes
	length int    // of the whole packet
	bare   bool   // begins with the IP header
	at     int64  // nanoseconds since 1970
}

// Where is the step's interface, node1:eth0.
func (s Step) Where() string { return s.Endpoint + ":" + s.Interface }

// Decision is a table's entry, or another reason, that decided.
type Decision struct {
	Kind  string `json:"kind"` // route, neighbour, fdb, netfilter, policy, lease, tunnel, bridge, veth, deliver
	Where string `json:"where"`
	Text  string `json:"text"`
}

// Cause is why the packet did not arrive.
type Cause struct {
	Code     Code     `json:"code"`
	Where    string   `json:"where"` // the endpoint that is to be mended
	Evidence []string `json:"evidence"`
	// Policy is the network policy that dropped it, with the code policy-drop.
	Policy *PolicyDrop `json:"policy,omitempty"`
}

// PolicyDrop is what a network policy dropped a packet by, on the node that
// Cause.Where names.
type PolicyDrop struct {
	Name      string        `json:"name"`
	Direction lab.Direction `json:"direction"`      // Egress at the sender's node, Ingress at the receiver's
	Rule      int           `json:"rule,omitempty"` // the rule that denies it, from 1; 0: none allows it
}

// Code names a cause.
type Code string

// The causes that trace knows.
const (
	MissingRoute    Code = "missing-route"
	BlackholeRoute  Code = "blackhole-route"
	WrongRoute      Code = "wrong-route"
	WrongNeighbour  Code = "wrong-neighbour"
	WrongFDB        Code = "wrong-fdb"
	VNIMismatch     Code = "vni-mismatch"
	ForwardOff      Code = "ip-forward-off"
	RPFilter        Code = "rp-filter"
	NFTDrop         Code = "nft-drop"
	PortFiltered    Code = "port-filtered"
	PolicyDropped   Code = "policy-drop"
	LegacyIPTables  Code = "iptables-legacy"
	TCDrop          Code = "tc-drop"
	XDPDrop         Code = "xdp-drop"
	LinkDown        Code = "link-down"
	MTUTooSmall     Code = "mtu-too-small"
	AgentDead       Code = "agent-dead"
	AgentDrop       Code = "agent-drop"
	ContainerGone   Code = "container-gone"
	NodeDead        Code = "node-dead"
	HostUnreachable Code = "host-unreachable"
	NoProxyARP      Code = "no-proxy-arp"
	TTLExpired      Code = "ttl-expired"
	Unanswered      Code = "no-answer"
	Unknown         Code = "unknown"
)

// Frame is a packet's headers, the outermost first.
type Frame struct {
	SrcMAC string     `json:"srcMAC,omitempty"`
	DstMAC string     `json:"dstMAC,omitempty"`
	Src    netip.Addr `json:"src,omitzero"`
	Dst    netip.Addr `json:"dst,omitzero"`
	TTL    int        `json:"ttl,omitempty"`
	Len    int        `json:"len,omitempty"` // of the IP packet
	DF     bool       `json:"df,omitempty"`
	// Protocol is icmp, tcp, udp or ipip.
	Protocol string `json:"protocol,omitempty"`
	SrcPort  uint16 `json:"srcPort,omitempty"`
	DstPort  uint16 `json:"dstPort,omitempty"`
	// Kind tells the message: "echo request", "syn" ...
	Kind     string `json:"kind,omitempty"`
	Fragment bool   `json:"fragment,omitempty"` // the first of several
	// Checksum is "offloaded" when the device, which there is none, was to fill it in.
	Checksum string `json:"checksum,omitempty"`
	// Aggregate: longer than the device's MTU, cut later (GSO) or joined before (GRO).
	Aggregate bool `json:"aggregate,omitempty"`
	// Tunnel is what wraps Inner: vxlan, udp (flannel's, port 8285) or ipip.
	Tunnel string `json:"tunnel,omitempty"`
	VNI    int    `json:"vni,omitempty"`
	Inner  *Frame `json:"inner,omitempty"`
}

// innermost is the packet that the endpoint sent.
func (f *Frame) innermost() *Frame {
	for f.Inner != nil {
		f = f.Inner
	}
	return f
}

// shape tells frames apart by what wraps what.
func (f Frame) shape() string {
	if f.Inner == nil {
		return ""
	}
	return f.Tunnel + ">" + f.Inner.shape()
}

// String is the frame on one line.
func (f Frame) String() string {
	s := ""
	if f.DstMAC != "" {
		s = fmt.Sprintf("%s > %s, ", f.SrcMAC, f.DstMAC)
	}
	port := func(a netip.Addr, p uint16) string {
		if p == 0 {
			return a.String()
		}
		return netip.AddrPortFrom(a, p).String()
	}
	s += fmt.Sprintf("%s > %s", port(f.Src, f.SrcPort), port(f.Dst, f.DstPort))
	switch {
	case f.Tunnel == "vxlan":
		s += fmt.Sprintf(", vxlan vni %d", f.VNI)
	case f.Tunnel == "udp":
		s += ", flannel udp"
	case f.Tunnel != "":
		s += ", " + f.Tunnel
	default:
		s += " " + f.Protocol
		if f.Kind != "" {
			s += " " + f.Kind
		}
	}
	s += fmt.Sprintf(", ttl %d, length %d", f.TTL, f.Len)
	if f.DF {
		s += ", DF"
	}
	if f.Fragment {
		s += ", first fragment"
	}
	if f.Checksum != "" {
		s += ", checksum " + f.Checksum
	}
	if f.Aggregate {
		s += ", offload aggregate: more than one packet on a real wire"
	}
	if f.Inner != nil {
		s += " [" + f.Inner.String() + "]"
	}
	return s
}
