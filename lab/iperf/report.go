package iperf

import (
	"net/netip"
)

// Report is what `labctl iperf -o json` prints. Fields are only ever added.
type Report struct {
	SchemaVersion int            `json:"schemaVersion"`
	Engine        string         `json:"engine"`   // labctl, iperf3
	Protocol      string         `json:"protocol"` // tcp, udp
	From          string         `json:"from"`     // A, which connects
	To            string         `json:"to"`       // B, which listens
	Address       netip.AddrPort `json:"address"`  // where B listens
	Reverse       bool           `json:"reverse"`  // data go from B to A
	Length        int            `json:"length"`   // bytes of a write or datagram
	Congestion    string         `json:"congestion,omitempty"`
	Rate          uint64         `json:"targetBitsPerSecond"` // of each stream, 0: none
	Omit          float64        `json:"omitSeconds"`
	Seconds       float64        `json:"seconds"` // measured
	Interrupted   bool           `json:"interrupted"`
	Intervals     []Interval     `json:"intervals"`
	Streams       []Sample       `json:"streams"` // all of the measured time
	Sum           Sample         `json:"sum"`     // of all streams
	CPU           CPU            `json:"cpu"`
}

// Interval is one line of the live output, for each stream.
type Interval struct {
	Start   float64  `json:"start"` // seconds; the measured time begins at 0
	End     float64  `json:"end"`
	Omitted bool     `json:"omitted"`
	Streams []Sample `json:"streams"`
	Sum     Sample   `json:"sum"`
}

// Sample is what a stream did in some time.
type Sample struct {
	ID                int        `json:"id,omitempty"` // from 1; of a sum none
	Bytes             int64      `json:"bytes"`        // that arrived
	BitsPerSecond     float64    `json:"bitsPerSecond"`
	SentBytes         int64      `json:"sentBytes"` // that the sending socket took
	SentBitsPerSecond float64    `json:"sentBitsPerSecond"`
	TCP               *TCPSample `json:"tcp,omitempty"`
	UDP               *UDPSample `json:"udp,omitempty"`
}

// TCPSample is what the sender's kernel tells (TCP_INFO).
type TCPSample struct {
	Retransmits int64   `json:"retransmits"`
	CwndBytes   int64   `json:"cwndBytes"` // at the end
	RTTMs       float64 `json:"rttMs"`     // smoothed, at the end; of a sum the mean
}

// UDPSample is what the receiver made of sequence numbers and timestamps.
type UDPSample struct {
	Packets     int64   `json:"packets"` // that should have arrived
	Lost        int64   `json:"lost"`
	LostPercent float64 `json:"lostPercent"`
	OutOfOrder  int64   `json:"outOfOrder"` // arrived after a later one
	Duplicates  int64   `json:"duplicates"`
	// SocketDrops of the lost ones came as far as the receiving socket, which
	// was full.
	SocketDrops int64   `json:"socketDrops"`
	JitterMs    float64 `json:"jitterMs"` // RFC 3550, at the end; of a sum the mean
}

// per sets the rates.
func (s *Sample) per(seconds float64) {
	if seconds > 0 {
		s.BitsPerSecond = float64(s.Bytes) * 8 / seconds
		s.SentBitsPerSecond = float64(s.SentBytes) * 8 / seconds
	}
	if s.UDP != nil {
		s.UDP.LostPercent = 0
		if s.UDP.Packets > 0 {
			s.UDP.LostPercent = 100 * float64(s.UDP.Lost) / float64(s.UDP.Packets)
		}
	}
}

// sum adds up samples of the same time.
func sum(all []Sample, seconds float64) Sample {
	var t Sample
	n := float64(max(len(all), 1))
	for _, s := range all {
		t.Bytes += s.Bytes
		t.SentBytes += s.SentBytes
		if s.TCP != nil {
			if t.TCP == nil {
				t.TCP = &TCPSample{}
			}
			t.TCP.Retransmits += s.TCP.Retransmits
			t.TCP.CwndBytes += s.TCP.CwndBytes
			t.TCP.RTTMs += s.TCP.RTTMs / n
		}
		if s.UDP != nil {
			if t.UDP == nil {
				t.UDP = &UDPSample{}
			}
			t.UDP.Packets += s.UDP.Packets
			t.UDP.Lost += s.UDP.Lost
			t.UDP.OutOfOrder += s.UDP.OutOfOrder
			t.UDP.Duplicates += s.UDP.Duplicates
			t.UDP.SocketDrops += s.UDP.SocketDrops
			t.UDP.JitterMs += s.UDP.JitterMs / n
		}
	}
	t.per(seconds)
	return t
}
