package datapath

import (
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// plainHeader is an outer header of one byte, a 4.
type plainHeader struct{}

func (plainHeader) Len() int                          { return 1 }
func (plainHeader) Put(b []byte, _ [4]byte, _ []byte) { b[0] = 4 }
func (plainHeader) Strip(message []byte) (int, bool)  { return 1, len(message) > 0 && message[0] == 4 }

// wired is a receiver of messages that a raw socket gave. written returns what
// it wrote to its device since the last call.
func wired(t testing.TB, mtu int) (r *receiver, written func() [][]byte) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	p := &Path{log: slog.New(slog.DiscardHandler), config: Config{MTU: mtu, VerifySource: true, Wire: Wire{Header: plainHeader{}}}, tun: &tun{name: "tun", fd: fds[0]}}
	p.Set(Self{netip.IPv4Unspecified(), Everything()}, []Peer{{Addr: netip.AddrFrom4([4]byte{192, 168, 50, 2}), Sends: Everything()}})
	buf := make([]byte, maxPacket)
	return newReceiver(p), func() (all [][]byte) {
		for {
			n, _, err := unix.Recvfrom(fds[1], buf, unix.MSG_DONTWAIT)
			if err == unix.EAGAIN {
				return all
			}
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, append([]byte(nil), buf[:n]...))
		}
	}
}

// takeFrom2 gives the receiver a message of its only peer's.
func (r *receiver) takeFrom2(message []byte) {
	r.first = 0
	r.prepare(r.msgs[:1])
	copy(r.slots[0][headroom:], message)
	r.msgs[0].n = uint32(len(message))
	r.msgs[0].Controllen = 0
	r.names[0].set(addrOf(netip.AddrFrom4([4]byte{192, 168, 50, 2})), 0)
	r.message(r.table.Load(), 0)
	r.m.flush()
}

// What the kernel merged, or was not going to cut before the next device, is
// cut where the device's MTU is; what only lacks its checksum gets it.
func TestUnfinishedMessage(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		mtu := rapid.IntRange(576, 1480).Draw(rt, "mtu")
		r, written := wired(t, mtu)
		f := drawFlow(rt)
		id, seq := rapid.Uint16().Draw(rt, "id"), rapid.Uint32().Draw(rt, "seq")
		data := drawData(rt, 6000)
		tcp := rapid.Bool().Draw(rt, "tcp")
		var pkt []byte
		if tcp {
			pkt = f.tcp(id, seq, tcpACK|tcpPSH, data)
			f.partial(pkt, 36)
		} else {
			pkt = f.udp(id, data)
			f.partial(pkt, 26)
		}
		r.takeFrom2(append([]byte{4}, pkt...))
		var want [][]byte
		switch size := mtu - 40 - len(f.options); {
		case tcp:
			for at := 0; at < len(data); at += size {
				flags := byte(tcpACK)
				if at+size >= len(data) {
					flags |= tcpPSH
				}
				want = append(want, f.tcp(id, seq+uint32(at), flags, data[at:min(at+size, len(data))]))
				id++
			}
		case len(pkt) <= mtu:
			want = append(want, f.udp(id, data))
		default:
			if n := r.in.drops[tooBig].n.Load(); n != 1 {
				rt.Errorf("%d drops of a datagram that may be many, want 1", n)
			}
		}
		got := written()
		if len(got) != len(want) {
			rt.Fatalf("%d packets, want %d; %v", len(got), len(want), r.Traffic())
		}
		for i := range want {
			if string(got[i]) != string(want[i]) {
				rt.Errorf("packet %d: %x, want %x", i, got[i], want[i])
			}
		}
	})
}

// FuzzReceive holds what must be true whatever a peer sends: what the device is
// given is whole IPv4 packets that fit, and everything else is counted.
func FuzzReceive(f *testing.F) {
	flow := flow4{src: [4]byte{10, 244, 2, 2}, dst: [4]byte{10, 244, 1, 2}, sport: 1, dport: 2, ttl: 64, df: true}
	long := flow.tcp(7, 1, tcpACK, make([]byte, 5000))
	flow.partial(long, 36)
	short := flow.udp(7, []byte("hello"))
	flow.partial(short, 26)
	for _, p := range [][]byte{nil, {0x45}, {0x60}, long, short, flow.tcp(7, 1, tcpACK, nil)[:30], flow.udp(7, nil)} {
		f.Add(append([]byte{4}, p...))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) == 0 || len(message) > maxPacket {
			return
		}
		const mtu = 1480
		r, written := wired(t, mtu)
		r.takeFrom2(message)
		got := written()
		for _, p := range got {
			// What is finished may be longer: fragments that were put together.
			if why := checkPacket(p); why != accepted || len(p) > mtu && (len(got) > 1 || unfinished(p)) {
				t.Errorf("%x: of %d packets one is %x: %s", message, len(got), p, why.name())
			}
		}
		if tr := r.Traffic(); len(got) == 0 && len(tr.Drops) != 1 || tr.In.Packets != uint64(len(got)) {
			t.Errorf("%x: %d packets, counted %+v", message, len(got), tr)
		}
	})
}
