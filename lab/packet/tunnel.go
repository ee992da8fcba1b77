package packet

// VXLAN is a tunnel's header (RFC 7348); an Ethernet frame follows.
//
//	 0         1         2         3         4
//	+---------+---------+---------+---------+
//	| 0x08    | reserved                    |
//	+---------+---------+---------+---------+
//	| VNI                         | reserved|
//	+---------+---------+---------+---------+
type VXLAN struct {
	Span
	VNI uint32
}

func (w *walk) vxlan(start, end int) {
	const header = 8
	if w.short("vxlan", start, end, header) {
		return
	}
	b := w.data[start:]
	if b[0]&0x08 == 0 {
		w.payload(start, end) // something else on its port
		return
	}
	v := VXLAN{Span{start, start + header, end}, uint32(b[4])<<16 | uint32(b[5])<<8 | uint32(b[6])}
	if w.add(v) {
		w.ethernet(v.Payload, end)
	}
}

// Flannel is the boundary between a datagram of flannel's udp backend and the
// IP packet in it: it has no bytes of its own.
type Flannel struct{ Span }

func (w *walk) flannel(start, end int) {
	if end-start < 20 || w.data[start]>>4 != 4 && w.data[start]>>4 != 6 {
		w.payload(start, end) // something else on its port
		return
	}
	if w.add(Flannel{Span{start, start, end}}) {
		w.ip(start, end)
	}
}
