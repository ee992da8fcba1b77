package capture

import (
	"bufio"
	"encoding/binary"
	"io"
	"time"
)

// Writer writes a pcapng file
// (https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-02.html): one
// section with all interfaces, then packets as they come, then what each
// interface counted. It is not safe for concurrent use.
type Writer struct {
	out   *bufio.Writer
	under counter
	block []byte
	whole int64
}

// counter counts what has reached the file.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// Types of blocks, and the options that we write.
const (
	sectionHeader, interfaceDescription, interfaceStatistics, enhancedPacket = 0x0a0d0d0a, 1, 5, 6

	optEnd, optComment                  = 0, 1
	sectionApplication                  = 4
	ifName, ifMAC, ifRes, ifFilter      = 2, 6, 9, 11
	packetFlags                         = 2
	statStart, statEnd                  = 2, 3
	statReceived, statDropped           = 4, 5
	nanoseconds                    byte = 9 // 10^-9
)

// NewWriter writes the beginning of a file. filter is told to its readers.
func NewWriter(w io.Writer, interfaces []Interface, filter string) (*Writer, error) {
	pw := &Writer{under: counter{w: w}}
	pw.out = bufio.NewWriterSize(&pw.under, 1<<18)
	pw.begin(sectionHeader)
	pw.u32(0x1a2b3c4d) // tells the byte order
	pw.u16(1)          // version 1.0
	pw.u16(0)
	pw.u64(^uint64(0)) // length not known
	pw.option(sectionApplication, []byte("labctl"))
	if err := pw.end(); err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		pw.begin(interfaceDescription)
		pw.u16(uint16(i.Link))
		pw.u16(0)
		pw.u32(0) // packets are whole
		pw.option(ifName, []byte(i.String()))
		if len(i.MAC) == 6 {
			pw.option(ifMAC, i.MAC)
		}
		pw.option(ifRes, []byte{nanoseconds})
		if filter != "" {
			pw.option(ifFilter, append([]byte{0}, filter...))
		}
		if err := pw.end(); err != nil {
			return nil, err
		}
	}
	return pw, pw.Flush()
}

// Write adds a packet.
func (w *Writer) Write(p Packet) error {
	w.begin(enhancedPacket)
	w.u32(uint32(p.Interface))
	w.time(p.Time)
	w.u32(uint32(len(p.Data)))
	w.u32(uint32(p.Len))
	w.padded(p.Data)
	if p.Comment != "" {
		w.option(optComment, []byte(p.Comment))
	}
	w.option(packetFlags, binary.LittleEndian.AppendUint32(nil, p.Direction.flags()))
	return w.end()
}

// flags are direction and way of reception (epb_flags).
func (d Direction) flags() uint32 {
	const inbound, outbound, unicast, multicast, broadcast, promiscuous = 1, 2, 1 << 2, 2 << 2, 3 << 2, 4 << 2
	switch d {
	case In:
		return inbound | unicast
	case Broadcast:
		return inbound | broadcast
	case Multicast:
		return inbound | multicast
	case OtherHost:
		return inbound | promiscuous
	case Out:
		return outbound
	}
	return 0
}

// Statistics adds what each interface counted, in the order of interfaces.
func (w *Writer) Statistics(stats []Stats, from, to time.Time) error {
	for i, s := range stats {
		w.begin(interfaceStatistics)
		w.u32(uint32(i))
		w.time(to)
		w.option(statStart, stamp(from))
		w.option(statEnd, stamp(to))
		w.option(statReceived, binary.LittleEndian.AppendUint64(nil, s.Packets+s.Drops))
		w.option(statDropped, binary.LittleEndian.AppendUint64(nil, s.Drops))
		if err := w.end(); err != nil {
			return err
		}
	}
	return w.Flush()
}

// Flush hands all that was written to the file.
func (w *Writer) Flush() error {
	if err := w.out.Flush(); err != nil {
		return err
	}
	w.whole = w.under.n
	return nil
}

// Whole is how many bytes are surely whole blocks: where to cut a file whose
// disk is full.
func (w *Writer) Whole() int64 { return w.whole }

// begin starts a block; its length is known at its end.
func (w *Writer) begin(typ uint32) {
	w.block = w.block[:0]
	w.u32(typ)
	w.u32(0)
}

// end closes the options, if there are any, and the block.
func (w *Writer) end() error {
	w.u16(optEnd)
	w.u16(0)
	n := uint32(len(w.block) + 4)
	w.u32(n)
	binary.LittleEndian.PutUint32(w.block[4:], n)
	_, err := w.out.Write(w.block)
	return err
}

func (w *Writer) u16(v uint16) { w.block = binary.LittleEndian.AppendUint16(w.block, v) }
func (w *Writer) u32(v uint32) { w.block = binary.LittleEndian.AppendUint32(w.block, v) }
func (w *Writer) u64(v uint64) { w.block = binary.LittleEndian.AppendUint64(w.block, v) }

// padded appends b and zeros up to a multiple of 4.
func (w *Writer) padded(b []byte) {
	w.block = append(w.block, b...)
	for len(w.block)%4 != 0 {
		w.block = append(w.block, 0)
	}
}

// option appends one; what is longer than its length field can tell is cut.
func (w *Writer) option(code uint16, value []byte) {
	value = value[:min(len(value), 1<<16-1)]
	w.u16(code)
	w.u16(uint16(len(value)))
	w.padded(value)
}

// time appends nanoseconds since 1970, the upper half first.
func (w *Writer) time(t time.Time) { w.block = append(w.block, stamp(t)...) }

func stamp(t time.Time) []byte {
	n := uint64(t.UnixNano())
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(n>>32)), uint32(n))
}
