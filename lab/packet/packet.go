package packet

import (
	"errors"
	"fmt"
	"slices"
)

// LinkType is what a packet's first byte belongs to, by its number in
// capture files (https://www.tcpdump.org/linktypes.html).
type LinkType uint16

const (
	LinkEthernet LinkType = 1
	LinkRaw      LinkType = 101 // begins with the IP header: a TUN or IPIP device
)

// Packet is one decoded packet.
type Packet struct {
	Link   LinkType
	Data   []byte // as captured; not copied, so its owner must let it be
	Layers []Layer
	// Err is why decoding ended early: it wraps ErrTruncated or ErrMalformed.
	// Layers has what came before.
	Err error
}

// Layer is one header with what it carries: Ethernet, VLAN, ARP, IPv4, IPv6,
// ICMP, UDP, TCP, VXLAN, Flannel or Payload.
type Layer interface {
	// Where tells the layer's place in Packet.Data.
	Where() Span
	layer()
}

// Span is where a layer lies in a packet's bytes: its header is
// [Start,Payload), what it carries [Payload,End). Ethernet's padding is
// outside of the layers it follows.
type Span struct {
	Start, Payload, End int
}

// Where makes every struct that holds a Span a layer.
func (s Span) Where() Span { return s }

func (Span) layer() {}

// Payload is what no decoder here knows, or what an application sent.
type Payload struct{ Span }

var (
	// ErrTruncated says that the packet has fewer bytes than its headers tell.
	ErrTruncated = errors.New("truncated")
	// ErrMalformed says that a header contradicts itself.
	ErrMalformed = errors.New("malformed")
)

// Header is the bytes of l's header.
func (p Packet) Header(l Layer) []byte {
	s := l.Where()
	return p.Data[s.Start:s.Payload]
}

// Body is the bytes that l carries.
func (p Packet) Body(l Layer) []byte {
	s := l.Where()
	return p.Data[s.Payload:s.End]
}

// Payload is what the innermost layer carries: an application's bytes.
func (p Packet) Payload() []byte {
	if len(p.Layers) == 0 {
		return nil
	}
	return p.Body(p.Layers[len(p.Layers)-1])
}

// First is the outermost layer of a type: First[IPv4](p) is the header that
// the underlay routes by.
func First[T Layer](p Packet) (T, bool) { return find[T](slices.Values(p.Layers)) }

// Last is the innermost layer of a type: Last[IPv4](p) is the header that the
// container wrote. Packets quoted by an ICMP error do not count.
func Last[T Layer](p Packet) (T, bool) {
	return find[T](func(yield func(Layer) bool) {
		for _, l := range slices.Backward(p.Layers) {
			if !yield(l) {
				return
			}
		}
	})
}

func find[T Layer](layers func(func(Layer) bool)) (T, bool) {
	for l := range layers {
		if t, ok := l.(T); ok {
			return t, true
		}
	}
	var none T
	return none, false
}

// Decoder knows the UDP ports of tunnels. The zero value knows none.
type Decoder struct {
	VXLAN   []uint16 // destination ports
	Flannel []uint16 // flannel's udp backend: an IP packet and nothing else
}

// Tunnels has the usual ports: the kernel's and IANA's for VXLAN, flannel's for
// its udp backend.
func Tunnels() Decoder {
	return Decoder{VXLAN: []uint16{8472, 4789}, Flannel: []uint16{8285}}
}

// Decode decodes with the usual ports of tunnels.
func Decode(link LinkType, data []byte) Packet { return Tunnels().Decode(link, data) }

// Decode decodes data. It never panics, whatever data is.
func (d Decoder) Decode(link LinkType, data []byte) Packet {
	w := walk{Decoder: d, data: data}
	switch link {
	case LinkEthernet:
		w.ethernet(0, len(data))
	case LinkRaw:
		w.ip(0, len(data))
	default:
		w.err = fmt.Errorf("link type %d: %w", link, ErrMalformed)
		w.payload(0, len(data))
	}
	return Packet{Link: link, Data: data, Layers: w.layers, Err: w.err}
}

// maxLayers bounds what a hostile packet can make the decoder do.
const maxLayers = 32

// walk is the state of one Decode. Its methods decode what lies in
// data[start:end].
type walk struct {
	Decoder
	data   []byte
	layers []Layer
	err    error
	// quoted is set inside the quote of an ICMP error.
	quoted bool
	// partial is set inside a first fragment: its headers tell the length of
	// the whole.
	partial bool
}

// add appends a layer, unless there are too many.
func (w *walk) add(l Layer) bool {
	if len(w.layers) >= maxLayers {
		w.fail("layers: more than %d: %w", maxLayers, ErrMalformed)
		return false
	}
	w.layers = append(w.layers, l)
	return true
}

// fail records the first error.
func (w *walk) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// short reports, and records, that fewer than n bytes are there.
func (w *walk) short(what string, start, end, n int) bool {
	if end-start >= n {
		return false
	}
	w.fail("%s: %d of %d bytes: %w", what, max(end-start, 0), n, ErrTruncated)
	return true
}

// limit is where a part of length n that begins at start ends, at most end.
func (w *walk) limit(what string, start, end, n int) int {
	if start+n <= end {
		return start + n
	}
	if !w.partial {
		w.fail("%s: %d of %d bytes: %w", what, end-start, n, ErrTruncated)
	}
	return end
}

func (w *walk) payload(start, end int) {
	if start < end {
		w.add(Payload{Span{start, start, end}})
	}
}
