package datapath

import "bytes"

// merger makes one packet of those that follow each other in a flow: the
// kernel then takes one way through the stack with all of them, and cuts them
// again only where somebody needs it. It is the opposite of split, and merges
// only what split would make again bit by bit.
//
// It works in place. A message's datagrams lie back to back; data moves
// forward over the headers that are left out:
//
//	| IP TCP data1 | IP TCP data2 | IP TCP data3 |
//	| IP TCP data1 data2 data3 |                        start, end
//
// What is held is written before anything behind it is begun, whose header
// may overwrite its end.
type merger struct {
	// write hands over slot[start:end] and returns an error when the kernel
	// takes no merged packets.
	write func(slot []byte, start, end, count int, h vnetHeader) error
	off   bool // do not merge

	slot       []byte
	start, end int
	count      int // packets; 0 for nothing held
	open       bool
	tcp        bool
	headers    int    // length of all headers
	size       int    // of the data of each packet but the last
	id         uint16 // IP identification of the next
	seq        uint32 // TCP's of the next
	scratch    []byte // for one packet, once merging has failed
}

// add takes the packet slot[at:at+n]. Before at there is room for a header. It
// says whether slot is now what it holds, and in use until flush.
func (m *merger) add(slot []byte, at, n int) bool {
	d := slot[at : at+n]
	if m.count > 0 {
		if m.open && m.follows(d) {
			m.append(d)
			return false
		}
		m.flush()
	}
	m.slot, m.start, m.end, m.count = slot, at, at+n, 1
	m.open = !m.off && m.begin(d)
	return true
}

// holds says whether what is held may be continued.
func (m *merger) holds() bool { return m.count > 0 && m.open && m.end-m.start < nearlyAll }

// nearlyAll is a length from which on little can follow: it is not waited for.
const nearlyAll = 56 << 10

// begin says whether others can be merged with d.
func (m *merger) begin(d []byte) bool {
	if d[0] != 4<<4|ipHeader/4 || be.Uint16(d[6:])&^(dontFragment<<8) != 0 || !goodHeader(d) {
		return false
	}
	m.id = be.Uint16(d[4:]) + 1
	t := d[ipHeader:]
	switch d[9] {
	case protoTCP:
		if len(t) < tcpHeader || t[12]&0xf != 0 || t[13]&^tcpECE != tcpACK {
			return false
		}
		m.tcp = true
		m.headers = ipHeader + int(t[12]>>4)*4
		if m.headers < ipHeader+tcpHeader {
			return false
		}
		m.size = len(d) - m.headers
		m.seq = be.Uint32(t[4:]) + uint32(m.size)
	case protoUDP:
		if len(t) < udpHeader || int(be.Uint16(t[4:])) != len(t) || le.Uint16(t[6:]) == 0 {
			return false
		}
		m.tcp = false
		m.headers = ipHeader + udpHeader
		m.size = len(d) - m.headers
	default:
		return false
	}
	return m.size > 0
}

// follows says whether d is the next packet of what is held.
func (m *merger) follows(d []byte) bool {
	h := m.slot[m.start : m.start+m.headers]
	data := len(d) - m.headers
	switch {
	case data <= 0, data > m.size, m.end-m.start+data > maxPacket, m.end+data > len(m.slot):
		return false
	case be.Uint16(d) != be.Uint16(h), be.Uint16(d[4:]) != m.id, be.Uint32(d[6:])>>8 != be.Uint32(h[6:])>>8, d[9] != h[9]:
		return false
	case be.Uint64(d[12:]) != be.Uint64(h[12:]), be.Uint32(d[20:]) != be.Uint32(h[20:]): // addresses, ports
		return false
	case !goodHeader(d):
		return false
	}
	if !m.tcp {
		if m.count == maxSegments || int(be.Uint16(d[24:])) != len(d)-ipHeader || le.Uint16(d[26:]) == 0 {
			return false
		}
		return (m.count > 1 || goodSum(m.slot[m.start:m.end])) && goodSum(d)
	}
	return (m.count > 1 || goodSum(m.slot[m.start:m.end])) && goodSum(d) &&
		be.Uint32(d[24:]) == m.seq &&
		be.Uint32(d[28:]) == be.Uint32(h[28:]) && // acknowledgement
		d[32] == h[32] && d[33]&^(tcpFIN|tcpPSH) == h[33] &&
		be.Uint16(d[34:]) == be.Uint16(h[34:]) && // window
		be.Uint16(d[38:]) == be.Uint16(h[38:]) &&
		bytes.Equal(d[40:m.headers], h[40:])
}

// goodSum says whether TCP's or UDP's checksum is right. The kernel does not
// look at those of merged packets again: it would have to cut them first.
func goodSum(d []byte) bool {
	return fold(sum(d[ipHeader:], pseudo(d, len(d)-ipHeader))) == 0xffff
}

func (m *merger) append(d []byte) {
	data := d[m.headers:]
	if m.tcp {
		last := d[33] & (tcpFIN | tcpPSH)
		m.slot[m.start+33] |= last
		m.seq += uint32(len(data))
		m.open = last == 0
	}
	m.end += copy(m.slot[m.end:], data)
	m.open = m.open && len(data) == m.size
	m.id++
	m.count++
}

// flush writes what is held.
func (m *merger) flush() {
	if m.count == 0 {
		return
	}
	count := m.count
	m.count = 0
	if count == 1 {
		_ = m.write(m.slot, m.start, m.end, 1, vnetHeader{}) // only merged ones are refused
		return
	}
	h := m.finish()
	if m.write(m.slot, m.start, m.end, count, h) == nil {
		return
	}
	m.off = true
	m.undo(h)
}

// finish makes the headers those of the whole.
func (m *merger) finish() vnetHeader {
	d := m.slot[m.start:m.end]
	be.PutUint16(d[2:], uint16(len(d)))
	setIPChecksum(d)
	t := d[ipHeader:]
	// The kernel goes on with it whole only if the checksum is still to be
	// computed (netif_needs_gso), for which the pseudo header's sum is there.
	h := vnetHeader{headerLen: uint16(m.headers), size: uint16(m.size), flags: needsChecksum, csumStart: ipHeader}
	if m.tcp {
		h.gso, h.csumOffset = gsoTCP4, 16
	} else {
		h.gso, h.csumOffset = gsoUDP, 6
		be.PutUint16(t[4:], uint16(len(t)))
	}
	le.PutUint16(t[h.csumOffset:], fold(pseudo(d, len(t))))
	return h
}

// undo writes the packets that were merged one by one.
func (m *merger) undo(h vnetHeader) {
	d := m.slot[m.start:m.end]
	if m.scratch == nil {
		m.scratch = make([]byte, headroom+maxPacket)
	}
	s, _ := newSplit(d, h)
	for n := s.next(); n > 0; n = s.next() {
		s.put(m.scratch[headroom : headroom+n])
		_ = m.write(m.scratch, headroom, headroom+n, 1, vnetHeader{})
	}
}
