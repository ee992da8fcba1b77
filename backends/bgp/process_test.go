package bgp

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// A speaker lives in a process of its own, born in its namespace: the test
// binary again.
const (
	roleVariable = "LABCTL_BGP_TEST"
	birdVariable = "LABCTL_BGP_TEST_BIRD" // bird's directory
)

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		if err := speak(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	nodestest.Main(m)
}

// speak runs a Host: Configs come in, Reports with all routes go out.
func speak(in io.Reader, out io.Writer) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ns, err := nodes.CurrentNamespace(os.Getenv(roleVariable))
	if err != nil {
		return err
	}
	defer ns.Close()
	dir, protocol := os.Getenv(birdVariable), Protocol
	if dir != "" {
		protocol = BirdProtocol
	}
	stale, err := Earlier(ns, protocol)
	if err != nil {
		return err
	}
	var s Speaker
	if dir != "" {
		if s, err = NewBird(dir, log, len(stale) > 0); err != nil {
			return err
		}
	} else {
		s = NewGoBGP(log, len(stale) > 0)
	}
	h, err := NewHost(ns, s, stale, nil, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Run(ctx); err != nil {
			log.Error("run", "err", err)
		}
	})
	wg.Go(func() {
		enc := json.NewEncoder(out)
		for {
			select {
			case <-ctx.Done():
				return
			case <-h.Changed():
			}
			r, err := h.Detail(ctx)
			if err != nil {
				r.Err = err.Error()
			}
			if enc.Encode(r) != nil {
				return
			}
		}
	})
	dec := json.NewDecoder(in)
	for {
		var c Config
		if err := dec.Decode(&c); err != nil {
			break // the test's end
		}
		h.Set(ctx, c)
	}
	cancel()
	wg.Wait()
	return s.Close()
}

// host is a namespace on a common switch, in which a speaker may run.
type host struct {
	t    *testing.T
	name string
	addr netip.Addr
	ns   *nodes.Namespace
	dir  string // for bird; "" for gobgp

	config Config
	in     *os.File
	proc   *nodes.Process
	done   chan struct{}

	mu     sync.Mutex
	report Report
}

// network is hosts on one switch, at 192.0.2.1 and so on.
func network(t *testing.T, n int) []*host {
	t.Helper()
	nodestest.Require(t, nodestest.Netns, nodestest.Bridge, nodestest.Tool("ip"))
	open := func(name string) *nodes.Namespace {
		ns, err := nodes.NewNamespace(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
		return ns
	}
	lan := open("lan")
	apply(t, lan, nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "br0"}}}})
	st := nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "br0"}}}}
	var hosts []*host
	for i := range n {
		h := &host{t: t, name: fmt.Sprintf("h%d", i+1), addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}
		h.ns = open(h.name)
		apply(t, h.ns, nodes.State{
			Links: []nodes.Link{
				nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}, PeerNamespace: lan, PeerName: h.name},
				nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "lo"}},
			},
			Addrs: []nodes.Addr{{Dev: "eth0", Prefix: netip.PrefixFrom(h.addr, 24)}},
		})
		st.Links = append(st.Links, nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: h.name, Master: "br0"}})
		h.config = Config{ASN: 64512, RouterID: h.addr, Listen: []netip.Addr{h.addr}, Timers: LabTimers,
			Originate: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i + 1), 0}), 26)}}
		hosts = append(hosts, h)
	}
	apply(t, lan, st)
	return hosts
}

func apply(t *testing.T, ns *nodes.Namespace, st nodes.State) {
	t.Helper()
	r, err := nodes.NewReconciler(ns, nodes.Owner{Name: "test", Protocol: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	r.Set(st)
	if _, err := r.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// peer makes two hosts peers of each other.
func peer(a, b *host) {
	a.config.Peers = append(a.config.Peers, Peer{Name: b.name, Addr: b.addr, Local: a.addr, ASN: b.config.ASN, Passive: !Dials(a.addr, b.addr)})
	b.config.Peers = append(b.config.Peers, Peer{Name: a.name, Addr: a.addr, Local: b.addr, ASN: a.config.ASN, Passive: !Dials(b.addr, a.addr)})
}

// mesh makes all hosts peers of each other.
func mesh(hosts []*host) {
	for i, a := range hosts {
		for _, b := range hosts[:i] {
			peer(a, b)
		}
	}
}

// start runs the host's speaker with its configuration.
func (h *host) start() {
	h.t.Helper()
	inR, inW, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		h.t.Fatal(err)
	}
	env := append(os.Environ(), roleVariable+"="+h.name)
	if h.dir != "" {
		env = append(env, birdVariable+"="+h.dir)
	}
	p, err := nodes.Start(h.ns, nodes.Command{Path: "/proc/self/exe", Args: []string{"speaker"}, Env: env, Dir: "/", Stdin: inR, Stdout: outW, Stderr: errW})
	for _, f := range []*os.File{inR, outW, errW} {
		f.Close()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	h.report = Report{}
	h.mu.Unlock()
	h.in, h.proc, h.done = inW, p, make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer outR.Close()
		dec := json.NewDecoder(outR)
		for {
			var r Report
			if dec.Decode(&r) != nil {
				return
			}
			h.mu.Lock()
			h.report = r
			h.mu.Unlock()
		}
	})
	wg.Go(func() {
		defer errR.Close()
		lines := bufio.NewScanner(errR)
		for lines.Scan() {
			h.t.Logf("%s %s: %s", time.Now().Format("05.000"), h.name, lines.Text())
		}
	})
	go func() {
		wg.Wait()
		p.Wait()
		close(h.done)
	}()
	h.set()
	h.t.Cleanup(h.end)
}

// set sends the configuration.
func (h *host) set() {
	h.t.Helper()
	if err := json.NewEncoder(h.in).Encode(h.config); err != nil {
		h.t.Fatal(err)
	}
}

// end ends the speaker as SIGTERM would.
func (h *host) end() {
	if h.proc == nil {
		return
	}
	h.in.Close()
	select {
	case <-h.done:
	case <-time.After(10 * time.Second):
		h.t.Errorf("%s: does not end", h.name)
		h.proc.Kill()
		<-h.done
	}
	h.proc = nil
}

// kill ends the speaker as kill -9 does.
func (h *host) kill() {
	h.proc.Kill()
	h.in.Close()
	<-h.done
	h.proc = nil
}

func (h *host) now() Report {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.report
}

// ip is what ip prints in the host.
func (h *host) ip(argv ...string) string {
	h.t.Helper()
	out, err := nodestest.Run(h.ns, append([]string{"ip"}, argv...)...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// drop makes the host drop what a rule of nftables matches, in its table f.
func (h *host) drop(match string) {
	h.t.Helper()
	h.nft("add table inet f")
	h.nft("add chain inet f in { type filter hook input priority 0; }")
	h.nft("add rule inet f in " + match + " drop")
}

func (h *host) nft(command string) {
	h.t.Helper()
	nodestest.Require(h.t, nodestest.NFT, nodestest.Tool("nft"))
	if _, err := nodestest.Run(h.ns, append([]string{"nft"}, strings.Fields(command)...)...); err != nil {
		h.t.Fatal(err)
	}
}
