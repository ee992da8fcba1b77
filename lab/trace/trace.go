package trace

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"labctl/lab"
	"labctl/lab/packet"
	"labctl/nodes"
)

// DefaultWait is how long each try's answer may take.
const DefaultWait = time.Second

// grace is how much later than the answer other sockets may show the last steps.
const grace = 2 * time.Millisecond

// run is one trace being made.
type run struct {
	client  *lab.Client
	plan    *lab.Plan
	status  *lab.Status
	net     *network
	send    *sender
	decoder packet.Decoder
	sights  [tries][]sight
	before  map[string]*nodes.Tables // when the first try was lost
	traffic map[string]map[string]uint64
	refusal error
	trace   *Trace
}

// Run sends a packet and follows it. The error is for traces that could not be
// made; a packet that was lost is a Trace.
func Run(ctx context.Context, c *lab.Client, p Probe) (*Trace, error) {
	r := &run{client: c}
	if err := r.look(ctx, p); err != nil {
		return nil, err
	}
	if err := r.capture(ctx); err != nil {
		return nil, err
	}
	r.explain()
	return r.trace, nil
}

// look finds out what the lab is and whom the packet is for.
func (r *run) look(ctx context.Context, p Probe) error {
	var g errgroup.Group
	g.Go(func() (err error) { r.plan, err = r.client.Plan(ctx); return err })
	g.Go(func() (err error) { r.status, err = r.client.Status(ctx); return err })
	if err := g.Wait(); err != nil {
		return err
	}
	r.net = newNetwork(r.plan, r.status)
	if !r.net.known[p.From] {
		return r.plan.NoSuchEndpoint(p.From)
	}
	if r.net.dead[p.From] {
		return noPower(p.From)
	}
	to, err := r.address(p.To)
	if err != nil {
		return err
	}
	r.trace = &Trace{SchemaVersion: 1, Lab: r.plan.Name, From: p.From, To: p.To, Addr: to, Protocol: p.Protocol, Port: p.Port, Notes: []string{}, Steps: []Step{}}
	if s := r.status.State; s != lab.Ready {
		r.note("the lab is %s%s", s, because(r.status.Reasons))
	}
	for _, n := range r.status.Nodes {
		for _, d := range n.Healed {
			r.note("%s: healed in the last 10 s: %s", d.Endpoint, d.Text)
		}
	}
	r.decoder = decoder(r.plan)
	r.send, err = newSender(ctx, r.client, p, to)
	return err
}

func noPower(endpoint string) error {
	node, _, _ := strings.Cut(endpoint, ".")
	return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: has no power: its node was killed", endpoint), Cure: "labctl node start " + node}
}

func because(reasons []string) string {
	if len(reasons) == 0 {
		return ""
	}
	return ": " + strings.Join(reasons, "; ")
}

func (r *run) note(format string, args ...any) {
	r.trace.Notes = append(r.trace.Notes, fmt.Sprintf(format, args...))
}

// decoder knows the ports of the lab's own tunnel besides the usual ones.
func decoder(p *lab.Plan) packet.Decoder {
	d := packet.Tunnels()
	switch port := tunnelPort(p); {
	case port == 0:
	case p.Backend == "udp":
		d.Flannel = append(d.Flannel, port)
	default:
		d.VXLAN = append(d.VXLAN, port)
	}
	return d
}

// tunnelPort is the UDP port that the network's config names for its tunnel; 0
// for none, or the backend's own.
func tunnelPort(p *lab.Plan) uint16 {
	var config struct {
		Backend struct{ Port uint16 }
	}
	if json.Unmarshal(p.Network, &config) != nil {
		return 0 // its problem is told where the network is read
	}
	return config.Backend.Port
}

// address is an endpoint's, or the address that text is.
func (r *run) address(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		var ok bool
		if a, ok = r.plan.Address(text); !ok {
			for _, n := range r.status.Nodes {
				for _, c := range n.Containers {
					if n.Name+"."+c.Name == text {
						if a, err = netip.ParseAddr(c.IP); r.net.dead[text] && err != nil {
							return a, noPower(text)
						} else if err != nil {
							return a, fmt.Errorf("%s: has no address yet", text)
						}
						ok = true
					}
				}
			}
		}
		if !ok {
			return a, r.plan.NoSuchEndpoint(text)
		}
	}
	if !a.Is4() {
		return a, &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("%s: not an IPv4 address", text), Cure: "give an endpoint or an IPv4 address"}
	}
	return a, nil
}

// capture sends the packet, at most twice, and collects what is seen of it.
func (r *run) capture(ctx context.Context) (err error) {
	defer r.send.file.Close()
	filter, err := marked(r.send.Protocol, r.send.mark)
	if err != nil {
		return err
	}
	var endpoints []string
	for e := range r.net.known {
		if !r.net.dead[e] {
			endpoints = append(endpoints, e)
		}
	}
	ws, missing, err := watch(ctx, r.client, endpoints, filter)
	if err != nil {
		return err
	}
	for _, e := range missing {
		r.note("%s: not watched: it has gone", e)
	}
	if err := r.tries(ctx, ws); err != nil {
		ws.close()
		return err
	}
	if n := ws.dropped(); n > 0 {
		r.note("%d packets did not fit into the capture: steps may be missing", n)
	}
	// Both take the kernel a while.
	var closing sync.WaitGroup
	closing.Go(ws.close)
	r.net.tables, err = r.client.Tables(ctx)
	closing.Wait()
	if err != nil || r.before == nil {
		return err
	}
	st, err := r.client.Status(ctx)
	if err != nil {
		return err
	}
	// What is there now may have been found or reported since the start.
	tables := r.net.tables
	r.status, r.net = st, newNetwork(r.plan, st)
	r.net.tables = tables
	return nil
}

// tries sends the packet until it is answered, and looks at the tables before
// the last try: counters are told by what it adds to them.
func (r *run) tries(ctx context.Context, ws watchers) error {
	for try := range tries {
		answered, err := r.try(ctx, ws, try)
		if err != nil {
			return err
		}
		r.trace.Tries = try + 1
		if answered || try == tries-1 {
			break
		}
		if r.before, err = r.client.Tables(ctx); err != nil {
			return err
		}
		st, err := r.client.Status(ctx)
		if err != nil {
			return err
		}
		r.traffic = drops(st)
	}
	return nil
}

// drops is what agents that carry packets dropped, by node and reason.
func drops(st *lab.Status) map[string]map[string]uint64 {
	found := map[string]map[string]uint64{}
	for _, n := range st.Nodes {
		if n.Traffic != nil {
			found[n.Name] = n.Traffic.Drops
		}
	}
	return found
}

// try sends the packet once and waits for its answer, or for an error that
// somebody sends.
func (r *run) try(ctx context.Context, ws watchers, try int) (answered bool, err error) {
	if r.refusal, err = r.send.send(try); err != nil {
		return false, err
	}
	until := time.Now().Add(r.send.Wait)
	if r.refusal != nil {
		until = time.Now().Add(grace)
	}
	ended := false
	collect := func(x sight) bool {
		f, way, of, ok := r.send.read(r.decoder, x)
		if !ok {
			return false
		}
		r.sights[of] = append(r.sights[of], x)
		if of != try || x.endpoint != r.send.From || x.out || f.Inner != nil || way == Request {
			return false
		}
		answered = answered || way == Answer || f.Kind == "port unreachable" && f.Src == r.send.to
		ended = true
		return true
	}
	if err := ws.collect(ctx, until, collect); err != nil {
		return false, err
	}
	if ended {
		err = ws.collect(ctx, time.Now().Add(grace), func(x sight) bool { collect(x); return false })
	}
	return answered, err
}

// explain makes the trace of what was seen.
func (r *run) explain() {
	t := r.trace
	t.Size = r.send.size()
	try := t.Tries - 1
	all := r.steps(try)
	ways := map[Way][]*Step{}
	for _, s := range all {
		ways[s.Way] = append(ways[s.Way], s)
	}
	w := &walk{network: r.net, state: nodes.New}
	for _, s := range ways[Answer] {
		if s.Endpoint == t.From && s.Direction == In && s.Packet.Inner == nil {
			t.Answer = s.Packet.Kind
			if t.Answer == "" {
				t.Answer = "datagram"
			}
		}
	}
	for _, s := range ways[Problem] {
		if s.Packet.innermost().Kind == "port unreachable" && s.Packet.innermost().Src == t.Addr && s.Endpoint == t.From && t.Protocol != "icmp" {
			t.Answer = "port unreachable"
		}
	}
	o := w.follow(ways[Request], t.From, w.start(t.From, r.send.frame()), t.Answer != "")
	switch {
	case t.Answer != "":
		t.Delivered = true
		r.answers(w, o, ways)
	case o.arrived && t.Protocol == "udp":
		t.Delivered = true
		r.note("the datagram arrived; nothing came back: UDP does not say whether anybody read it")
	case o.arrived:
		o = r.answers(w, o, ways)
		t.LastSeen, t.MissingAt, t.Cause = o.lastSeen, o.missing, o.cause
		r.diagnose(ways, o)
	default:
		t.LastSeen, t.MissingAt, t.Cause = o.lastSeen, o.missing, o.cause
		r.diagnose(ways, o)
	}
	if t.Delivered && t.Tries > 1 {
		r.note("lost once, found at the second try")
	}
	r.number(all)
}

// answers follows what B sent back.
func (r *run) answers(w *walk, o outcome, ways map[Way][]*Step) outcome {
	f := r.send.frame()
	if n := len(ways[Request]); n > 0 {
		f = *ways[Request][n-1].Packet.innermost()
	}
	f.Src, f.Dst, f.SrcPort, f.DstPort = f.Dst, f.Src, f.DstPort, f.SrcPort
	f.TTL, f.SrcMAC, f.DstMAC, f.Checksum = 64, "", "", ""
	switch r.trace.Protocol {
	case "icmp":
		f.Kind = "echo reply"
	case "tcp":
		f.Kind, f.Len = "syn-ack", 44
	}
	answer := ways[Answer]
	w.state = nodes.Established
	if r.trace.Answer == "port unreachable" {
		w.state = nodes.Related
		answer, f.Protocol, f.Kind = ways[Problem], "icmp", r.trace.Answer
		f.SrcPort, f.DstPort = 0, 0
	}
	if len(answer) > 0 {
		first := answer[0].Packet.innermost()
		f.Len, f.Kind, f.DF, f.TTL = first.Len, first.Kind, first.DF, first.TTL
	}
	back := w.follow(answer, o.endpoint(), w.start(o.endpoint(), f), r.trace.Answer != "")
	if back.arrived && r.trace.Answer == "" {
		back.cause = &Cause{Code: Unanswered, Where: o.endpoint(), Evidence: []string{o.endpoint() + ": the packet arrived and no answer was seen"}}
	}
	return back
}

// steps are what was seen of one try, in the order of the kernel's clock.
func (r *run) steps(try int) []*Step {
	seen := slices.Clone(r.sights[try])
	slices.SortStableFunc(seen, func(a, b sight) int {
		if a.endpoint == b.endpoint {
			return cmp.Compare(a.order, b.order)
		}
		return 0
	})
	slices.SortStableFunc(seen, func(a, b sight) int { return cmp.Compare(a.at, b.at) })
	var steps []*Step
	for _, x := range seen {
		f, way, _, ok := r.send.read(r.decoder, x)
		if !ok {
			continue
		}
		s := &Step{Endpoint: x.endpoint, Interface: r.net.device(x.endpoint, x.index), Direction: In, Way: way, Packet: f, at: x.at, data: x.data, length: x.length}
		s.bare = x.bare
		if x.out {
			s.Direction = Out
		}
		if l := r.net.link(s.Endpoint, s.Interface); l != nil && l.Name != "lo" && f.Len > l.MTU && (f.Protocol == "tcp" || f.Protocol == "udp") {
			s.Packet.Aggregate = true
		}
		s.AtUs = float64(x.at-seen[0].at) / 1000
		steps = append(steps, s)
	}
	return steps
}

// number puts the steps into the trace and tells what changed between them.
func (r *run) number(steps []*Step) {
	last := map[Way]*Step{}
	for i, s := range steps {
		s.Number = i + 1
		s.Changed = []string{}
		if p := last[s.Way]; p != nil {
			s.Changed = changes(p.Packet, s.Packet)
		}
		if s.Aside == "" {
			last[s.Way] = s
		}
		if s.Why == nil {
			s.Why = []Decision{}
		}
		r.trace.Steps = append(r.trace.Steps, *s)
	}
}
