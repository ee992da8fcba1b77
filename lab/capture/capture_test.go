package capture

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/packet"
	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// inNamespace opens sockets in the one namespace of a test.
type inNamespace struct{ ns *nodes.Namespace }

func (s inNamespace) Socket(_ context.Context, _ string, domain, typ, proto int) (*os.File, error) {
	var f *os.File
	err := s.ns.Do(func() error {
		fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
		if err == nil {
			f = os.NewFile(uintptr(fd), "socket")
		}
		return err
	})
	return f, err
}

// loopback is a namespace whose lo is up, with that interface.
func loopback(t *testing.T) (inNamespace, Interface) {
	t.Helper()
	nodestest.Require(t, nodestest.Netns)
	ns, err := nodes.NewNamespace("box")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	s := inNamespace{ns}
	f, err := s.Socket(t.Context(), "box", unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	up, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	up.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.SIOCSIFFLAGS, up); err != nil {
		t.Fatal(err)
	}
	found, err := Find(t.Context(), s, "box:lo")
	if err != nil || len(found) != 1 {
		t.Fatalf("Find(box:lo) = %v, %v", found, err)
	}
	return s, found[0]
}

// send sends n datagrams of size bytes each to the discard port.
func (s inNamespace) send(t *testing.T, n, size int) {
	t.Helper()
	f, err := s.Socket(t.Context(), "box", unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range n {
		// Nobody listens: the answer to the one before is the error of the next.
		err := unix.Sendto(int(f.Fd()), make([]byte, size), 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 9})
		if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			t.Fatal(err)
		}
	}
}

func toDiscard(p Packet) bool {
	u, ok := packet.Last[packet.UDP](packet.Decode(packet.LinkEthernet, p.Data))
	return ok && u.DstPort == 9
}

// Everything is seen once, in the order in which it was sent, and what was
// sent before the end is there at the end.
func TestRun(t *testing.T) {
	t.Parallel()
	s, lo := loopback(t)
	c, err := Open(t.Context(), s, []Interface{lo}, Options{Memory: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	const n = 50
	for size := range n {
		s.send(t, 1, size)
	}
	cancel()
	var sizes []int
	last := c.Started()
	if err := c.Run(ctx, func(batch []Packet) error {
		for _, p := range batch {
			if p.Time.Before(last) {
				t.Errorf("packet at %v after one at %v", p.Time, last)
			}
			last = p.Time
			if toDiscard(p) {
				sizes = append(sizes, p.Len-42)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(sizes) != n {
		t.Fatalf("%d datagrams seen, want %d", len(sizes), n)
	}
	for i, size := range sizes {
		if size != i {
			t.Errorf("datagram %d has %d bytes, want %d", i, size, i)
		}
	}
	if st := c.Stats(); st[0].Packets < n || st[0].Drops != 0 {
		t.Errorf("stats = %+v, want %d packets or more, and no drops", st, n)
	}
}

func TestErrorsEndRun(t *testing.T) {
	t.Parallel()
	s, lo := loopback(t)
	c, err := Open(t.Context(), s, []Interface{lo}, Options{Memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.send(t, 1, 1)
	if err := c.Run(t.Context(), func(batch []Packet) error {
		if len(batch) > 0 {
			return unix.ENOSPC
		}
		return nil
	}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("Run = %v, want the function's error", err)
	}
	if err := c.Run(t.Context(), func([]Packet) error { return ErrStop }); err != nil {
		t.Errorf("Run = %v, want no error at ErrStop", err)
	}
}

// A ring that nobody reads overflows, and says by how much.
func TestDropsAreCounted(t *testing.T) {
	t.Parallel()
	s, lo := loopback(t)
	c, err := Open(t.Context(), s, []Interface{lo}, Options{Memory: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const n = 1000
	s.send(t, n, 1400)
	seen := 0
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx, func(batch []Packet) error {
		seen += len(batch)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if st := c.Stats()[0]; seen == 0 || seen >= n || st.Drops < n/2 {
		t.Errorf("%d seen, %+v; want most of %d dropped", seen, st, n)
	}
}

// A filter is there before the first packet.
func TestFilter(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("tcpdump"))
	s, lo := loopback(t)
	filter, err := Compile(t.Context(), "udp and greater 142", 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), s, []Interface{lo}, Options{Memory: 1 << 20, Filter: filter})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.send(t, 20, 99)
	s.send(t, 20, 100)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var seen int
	if err := c.Run(ctx, func(batch []Packet) error {
		seen += len(batch)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if seen != 20 {
		t.Errorf("%d packets passed the filter, want 20", seen)
	}
}

// Of a packet that is cut the length on the wire is known still.
func TestCut(t *testing.T) {
	t.Parallel()
	s, lo := loopback(t)
	c, err := Open(t.Context(), s, []Interface{lo}, Options{Memory: 1 << 20, Filter: Cut(60)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s.send(t, 1, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx, func(batch []Packet) error {
		for _, p := range batch {
			if toDiscard(p) && (len(p.Data) != 60 || p.Len != 1042) {
				t.Errorf("%d bytes of %d, want 60 of 1042", len(p.Data), p.Len)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if st := c.Stats()[0]; st.Packets == 0 {
		t.Error("nothing was seen")
	}
}

// Twenty sockets are closed in the time of a few.
func TestCloseAtOnce(t *testing.T) {
	t.Parallel()
	s, lo := loopback(t)
	const bound = 150 * time.Millisecond
	best := time.Hour
	for range 10 { // other tests run at the same time
		ifs := make([]Interface, 20)
		for i := range ifs {
			ifs[i] = lo
		}
		c, err := Open(t.Context(), s, ifs, Options{Memory: 1})
		if err != nil {
			t.Fatal(err)
		}
		from := time.Now()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("second Close = %v", err)
		}
		if best = min(best, time.Since(from)); best < bound {
			break
		}
	}
	t.Logf("%v", best)
	if best >= bound {
		t.Errorf("20 sockets closed in %v at best, want less than %v", best, bound)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	s, _ := loopback(t)
	if found, err := Find(t.Context(), s, "box"); err != nil || len(found) != 0 {
		t.Errorf("Find(box) = %v, %v; want nothing, since loopback must be named", found, err)
	}
	_, err := Find(t.Context(), s, "box:l0")
	f, ok := errors.AsType[*lab.Failure](err)
	if !ok || f.Kind != lab.Usage || !strings.Contains(err.Error(), "box:l0: no such interface") || !strings.Contains(f.Cure, "lo") {
		t.Errorf("Find(box:l0) = %v, want no such interface, and a cure with lo", err)
	}
}

func TestAggregate(t *testing.T) {
	t.Parallel()
	i := Interface{MTU: 1500}
	for size, want := range map[int]bool{60: false, 1514: false, 1518: false, 1519: true, 65000: true} {
		if got := i.Aggregate(Packet{Len: size}); got != want {
			t.Errorf("Aggregate of %d bytes = %v, want %v", size, got, want)
		}
	}
}

func TestParseProgram(t *testing.T) {
	t.Parallel()
	got, err := parseProgram("2\n40 0 0 12\n6 0 0 262144\n")
	if err != nil || len(got) != 2 || got[0] != (unix.SockFilter{Code: 40, K: 12}) {
		t.Errorf("parseProgram = %v, %v", got, err)
	}
	for _, bad := range []string{"", "0\n", "1\nx\n", "2\n6 0 0 0\n", "1\n6 0 0 0\n6 0 0 0\n", "1\n6 0 0\n", "1\n6 0 0 0 0\n", "1\n6 0 300 0\n",
		// The kernel is told the length in 16 bits: of this it would see 6, 0, 0, 0 alone.
		"65537\n" + strings.Repeat("6 0 0 0\n", 65537)} {
		if p, err := parseProgram(bad); err == nil {
			t.Errorf("parseProgram(%.40q) = %v, want an error", bad, p)
		}
	}
}

func TestCompileRefusesWhatTcpdumpRefuses(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Tool("tcpdump"))
	_, err := Compile(t.Context(), "no such thing", 0)
	if f, ok := errors.AsType[*lab.Failure](err); !ok || f.Kind != lab.Usage || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("Compile = %v, want tcpdump's own words", err)
	}
	// Only Ethernet has it: elsewhere nothing passes.
	filters, err := Compile(t.Context(), "ether host 02:00:00:00:00:01", 0)
	if err != nil || len(filters[packet.LinkRaw]) != 1 {
		t.Errorf("Compile(ether host) = %v, %v", filters, err)
	}
}
