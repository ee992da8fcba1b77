package datapath

// split cuts a packet that is many in one, as the kernel would have:
//
//	IP | TCP | data 1 data 2 ... data n     ->     IP | TCP | data 1,  IP | TCP | data 2, ...
//
// Lengths, IP identification, sequence numbers, flags and checksums are each
// packet's own.
type split struct {
	pkt       []byte
	ip        int // length of the IP header
	headers   int // and of the TCP or UDP header
	size      int // of the data of each packet but the last
	at        int // data that is done
	tcp       bool
	id        uint16
	seq       uint32
	flags     uint8
	ipSum     uint64 // of the IP header without length, identification, checksum
	headerSum uint64 // of what the transport checksum covers and all packets share
}

// newSplit prepares cutting pkt, whose headers it changes. ok is false when it
// is not what h says.
func newSplit(pkt []byte, h vnetHeader) (s split, ok bool) {
	s = split{pkt: pkt, ip: headerLen(pkt), size: int(h.size), id: be.Uint16(pkt[4:])}
	switch h.gso &^ gsoECN {
	case gsoTCP4:
		s.tcp = true
		if pkt[9] != protoTCP || len(pkt) < s.ip+tcpHeader {
			return s, false
		}
		s.headers = s.ip + int(pkt[s.ip+12]>>4)*4
		if s.headers < s.ip+tcpHeader {
			return s, false
		}
	case gsoUDP:
		if pkt[9] != protoUDP {
			return s, false
		}
		s.headers = s.ip + udpHeader
	default:
		return s, false
	}
	if s.size == 0 || len(pkt) < s.headers || fragmented(pkt) {
		return s, false
	}
	le.PutUint16(pkt[2:], 0)
	le.PutUint16(pkt[4:], 0)
	le.PutUint16(pkt[10:], 0)
	s.ipSum = sum(pkt[:s.ip], 0)
	t := pkt[s.ip:s.headers]
	if s.tcp {
		s.seq, s.flags = be.Uint32(t[4:]), t[13]
		be.PutUint32(t[4:], 0)
		t[13] = 0
		le.PutUint16(t[16:], 0)
	} else {
		le.PutUint16(t[4:], 0)
		le.PutUint16(t[6:], 0)
	}
	s.headerSum = sum(t, pseudo(pkt, 0))
	return s, true
}

// next is the length of the next packet, 0 when there is none.
func (s *split) next() int {
	data := len(s.pkt) - s.headers - s.at
	if data <= 0 {
		return 0
	}
	return s.headers + min(data, s.size)
}

const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpPSH = 0x08
	tcpACK = 0x10
	tcpURG = 0x20
	tcpECE = 0x40
	tcpCWR = 0x80
)

// put writes the next packet to dst, which has its length.
func (s *split) put(dst []byte) {
	copy(dst, s.pkt[:s.headers])
	data := s.pkt[s.headers+s.at:]
	data = data[:len(dst)-s.headers]
	copy(dst[s.headers:], data)

	be.PutUint16(dst[2:], uint16(len(dst)))
	be.PutUint16(dst[4:], s.id)
	le.PutUint16(dst[10:], ^fold(s.ipSum+word(len(dst))+word(int(s.id))))

	t := dst[s.ip:]
	length := len(t) // of the transport's header and data
	if s.tcp {
		flags := s.flags
		if s.at > 0 {
			flags &^= tcpCWR
		}
		if s.at+len(data) < len(s.pkt)-s.headers {
			flags &^= tcpFIN | tcpPSH
		}
		t[13] = flags
		be.PutUint32(t[4:], s.seq+uint32(s.at))
		total := sum(data, s.headerSum+word(length)+uint64(le.Uint32(t[4:]))+uint64(flags)<<8)
		le.PutUint16(t[16:], ^fold(total))
	} else {
		be.PutUint16(t[4:], uint16(length))
		// The length counts twice: in the header and in the pseudo header.
		c := ^fold(sum(data, s.headerSum+2*word(length)))
		if c == 0 {
			c = 0xffff // 0 would say that there is no checksum
		}
		le.PutUint16(t[6:], c)
	}
	s.at += len(data)
	s.id++
}
