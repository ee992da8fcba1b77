package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"labctl/lab"
	"labctl/lab/iperf"
)

// measurement is something that a trial does, and the figures that it gives.
type measurement struct {
	name    string
	about   string
	metrics []Metric
	least   int  // rounds
	once    bool // no rounds beyond them, and no warm-up
	// baselines says that those are measured, too. They have fewer rounds: they
	// are a scale, and not ranked.
	baselines bool
	disturbs  bool          // the lab is expected not to be well meanwhile
	turn      time.Duration // a round's trials are under way at once, each going on for so long; 0: one after the other
	cost      time.Duration // of a trial, about; 0: the trial's time
	take      func(ctx context.Context, r *run, t *target, length time.Duration) (map[string]float64, error)
}

// baselineRounds is how many rounds a baseline has: enough for an interval.
const baselineRounds = intervalLeast

// ramp is the beginning of each trial, which does not count: TCP finds its
// speed.
const ramp = 40 * time.Millisecond

// Names of the measurements that are made when nobody asks for others.
func DefaultMeasurements() []string { return []string{"tcp1", "rr"} }

// measurements are all there are.
func measurements(s Settings) []measurement {
	cpu := quicker("cpu", "CPU of the whole machine", "µs/MB", "tcp1")
	cpu.Better, cpu.Worse = "cheaper", "dearer"
	several := fmt.Sprintf("tcp%d", s.Streams)
	streams := fmt.Sprintf("%d TCP streams", s.Streams)
	latency := func(name, title string) []Metric {
		return []Metric{quicker(name, title+", median", "µs", name), part(name+"-p90", title+", 90 %", "µs", name),
			part(name+"-p99", title+", 99 %", "µs", name), part(name+"-p99.9", title+", 99.9 %", "µs", name)}
	}
	mtu := part("mtu", "largest packet that passes whole", "bytes", "mtu")
	mtu.Less = false
	overhead := part("overhead", "less than the hosts' link", "bytes", "mtu")
	memory := quicker("memory", "private memory of an agent", "MB", "memory")
	memory.Plain = true
	blackout := func(name, title string) measurement {
		m := quicker(name, title, "ms", name)
		m.Step = probeEvery.Seconds() * 1000
		return measurement{name: name, least: leastRounds, once: true, disturbs: true, metrics: []Metric{m}}
	}
	join, agent, etcd := blackout("join", "node joins: until its container answers"), blackout("agent-restart", "an agent is killed: answers lost"), blackout("etcd-restart", "etcd is killed: answers lost")
	join.about = "a node joins and leaves"
	leave := quicker("leave", "node leaves: until all others dropped it", "ms", "join")
	leave.Step = 1
	lost := part("leave-lost", "node leaves: answers lost between the others", "ms", "join")
	join.metrics = append(join.metrics, leave, lost)
	join.take, join.cost = takeJoin, time.Second
	faults := blackout("faults", "the lab's faults are played: longest time without an answer")
	faults.metrics = append(faults.metrics, part("faults-lost", "all time without an answer", "ms", "faults"), part("faults-ready", "after the last fault: until all is as before", "ms", "faults"))
	faults.about, faults.take, faults.cost = "the lab's faults are played", takeFaults, inSeconds(s.FaultsSeconds)+time.Second
	agent.about, agent.take, agent.cost = agent.metrics[0].Title, takeRestart("agent-restart"), 1500*time.Millisecond
	etcd.about, etcd.take, etcd.cost = etcd.metrics[0].Title, takeRestart("etcd-restart"), 2500*time.Millisecond
	return []measurement{
		{name: "tcp1", about: "1 TCP stream, and the CPU that it costs", baselines: true, turn: slice, least: leastRounds,
			metrics: []Metric{faster("tcp1", "1 TCP stream", "Gbit/s", "tcp1"), cpu,
				part("cpu-user", "the machine's user time", "µs/MB", "tcp1"), part("cpu-system", "its system time", "µs/MB", "tcp1"),
				part("cpu-softirq", "its time in softirqs", "µs/MB", "tcp1"), part("cpu-agents", "the agents' processes, all of their time", "µs/MB", "tcp1")}, take: takeStream},
		{name: "rr", about: "requests of 64 bytes that are answered, one after the other", baselines: true, turn: turn, least: leastRounds,
			metrics: append(latency("rr", "request and answer"), withoutVerdict(faster("rr-rate", "requests answered", "/s", "rr"))), take: takeRequests("rr", iperf.RequestParams{})},
		{name: several, about: streams, least: leastRounds,
			metrics: []Metric{faster(several, streams, "Gbit/s", several)}, take: takeTCP(several, s.Streams)},
		{name: "rr-fixed", about: fmt.Sprintf("the same at %g a second", s.RequestRate), least: leastRounds,
			metrics: latency("rr-fixed", fmt.Sprintf("request and answer at %g/s", s.RequestRate)), take: takeRequests("rr-fixed", iperf.RequestParams{Rate: s.RequestRate})},
		{name: "crr", about: "a connection for each request", turn: turn, least: leastRounds,
			metrics: []Metric{faster("crr", "connections, each with a request and its answer", "/s", "crr")}, take: takeConnections},
		{name: "pps", about: "the highest rate of 64-byte datagrams with a loss of 0.5 % at most", least: leastRounds, cost: 2500 * time.Millisecond,
			metrics: []Metric{faster("pps", "64-byte datagrams, at most 0.5 % lost", "k/s", "pps")}, take: takePackets},
		{name: "mtu", about: "the largest packet that passes whole", least: 1, once: true, cost: 100 * time.Millisecond, baselines: true,
			metrics: []Metric{mtu, overhead}, take: takeMTU},
		{name: "memory", about: "private memory of the agents", least: 1, once: true, cost: 50 * time.Millisecond,
			metrics: []Metric{memory}, take: takeMemory},
		join, agent, etcd, faults,
	}
}

func withoutVerdict(m Metric) Metric {
	m.Plain = true
	return m
}

// choose finds the measurements of the names; "all" is all.
func choose(s Settings) ([]measurement, error) {
	all := measurements(s)
	if slices.Equal(s.Measurements, []string{"all"}) {
		return slices.DeleteFunc(all, func(m measurement) bool { return m.name == "faults" && s.FaultsSeconds == 0 }), nil
	}
	if slices.Contains(s.Measurements, "faults") && s.FaultsSeconds == 0 {
		return nil, &lab.Failure{Kind: lab.Usage, Err: errors.New("measurement faults: no lab that is compared has a timeline of them"), Cure: "name a lab file with faults: in it"}
	}
	var chosen []measurement
	for _, name := range s.Measurements {
		i := slices.IndexFunc(all, func(m measurement) bool { return m.name == name })
		if i < 0 {
			var names []string
			for _, m := range all {
				names = append(names, m.name)
			}
			return nil, &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("measurement %q: not known", name), Cure: "there are " + strings.Join(names, ", ") + ", or all"}
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// takeStream measures one stream and what it costs: in slices that take up a turn
// each, or, where agents carry the packets, whole in one turn. Those have to find
// their way back to the processors each time, which takes longer than a slice.
func takeStream(ctx context.Context, r *run, t *target, length time.Duration) (map[string]float64, error) {
	agents, carry, err := t.agents(ctx)
	if err != nil {
		return nil, err
	}
	if !carry {
		return takeSlices(ctx, r, t, agents, length)
	}
	if t.seat != nil {
		t.seat.take(ctx, time.Now())
	}
	sum, used, err := streams(ctx, r, t, agents, length, 1)
	if err != nil {
		return nil, err
	}
	if t.seat == nil {
		r.used = r.used.plus(used)
	}
	return streamValues(sum.BitsPerSecond/8, sum.Bytes, used), nil
}

// streamValues are the metrics of tcp1, of a speed in bytes a second and what
// sending so many bytes has cost.
func streamValues(speed float64, bytes int64, used usage) map[string]float64 {
	perMB := 1e6 / (float64(bytes) / 1e6)
	return map[string]float64{"tcp1": speed * 8 / 1e9,
		"cpu": used.busy() * perMB, "cpu-user": used.user * perMB, "cpu-system": used.system * perMB,
		"cpu-softirq": (used.softirq + used.irq) * perMB, "cpu-agents": used.agents * perMB}
}

// takeSlices measures one stream in slices, and what its turns cost.
func takeSlices(ctx context.Context, r *run, t *target, agents []int, length time.Duration) (map[string]float64, error) {
	var used, before usage
	var uerr error
	read := func() (u usage) {
		u, err := readUsage(agents)
		uerr = firstOf(uerr, err)
		return u
	}
	p := iperf.SliceParams{Duration: length, Omit: ramp, Slice: slice, Congestion: r.result.Settings.Congestion, Rest: t.Slow, Pin: r.processors}
	if t.seat == nil {
		before = read()
	} else {
		had := false
		p.Turn = func(ctx context.Context) {
			if had {
				used = used.plus(read().since(before))
			}
			had = true
			t.seat.take(ctx, time.Now())
			before = read()
		}
	}
	s, err := iperf.RunSlices(ctx, t.from, t.to, p)
	used = used.plus(read().since(before))
	if err := firstOf(err, uerr); err != nil {
		return nil, err
	}
	if t.seat == nil {
		r.used = r.used.plus(used)
	}
	return streamValues(middle(s.Speeds), s.Bytes, used), nil
}

// middle is the mean of the middle half. A few slices are hit by what others do
// for longer than they last, and would decide on the mean of all.
func middle(values []float64) float64 {
	v := slices.Sorted(slices.Values(values))
	v = v[len(v)/4 : len(v)-len(v)/4]
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// takeTCP measures several streams.
func takeTCP(name string, several int) func(context.Context, *run, *target, time.Duration) (map[string]float64, error) {
	return func(ctx context.Context, r *run, t *target, length time.Duration) (map[string]float64, error) {
		agents, _, err := t.agents(ctx)
		if err != nil {
			return nil, err
		}
		sum, used, err := streams(ctx, r, t, agents, length, several)
		if err != nil {
			return nil, err
		}
		r.used = r.used.plus(used)
		return map[string]float64{name: sum.BitsPerSecond / 1e9}, nil
	}
}

// streams sends without a break, and says what that has cost.
func streams(ctx context.Context, r *run, t *target, agents []int, length time.Duration, n int) (iperf.Sample, usage, error) {
	p := iperf.Params{Duration: length, Omit: ramp, Interval: max(length, ramp), Streams: n, Congestion: r.result.Settings.Congestion, Rest: t.Slow, Pin: r.processors}
	var before, after usage
	var uerr error
	rep, err := iperf.Run(ctx, t.from, t.to, p, nil, func(i iperf.Interval) {
		u, err := readUsage(agents)
		if err != nil {
			uerr = err
		}
		if i.Omitted {
			before = u
		} else {
			after = u
		}
	})
	switch err := firstOf(err, uerr); {
	case err != nil:
		return iperf.Sample{}, usage{}, err
	case rep.Interrupted:
		return iperf.Sample{}, usage{}, ctx.Err()
	case !rep.Delivered():
		return iperf.Sample{}, usage{}, fmt.Errorf("%s: %s -> %s: nothing arrived", t.Name, t.From, t.To)
	}
	return rep.Sum, after.since(before), nil
}

// agents are the pids of the agents of the nodes at the two ends, and whether they
// carry the packets.
func (t *target) agents(ctx context.Context) (pids []int, carry bool, err error) {
	if t.Kind == Baseline {
		return nil, false, nil
	}
	st, err := t.client.Status(ctx)
	if err != nil {
		return nil, false, err
	}
	for _, n := range st.Nodes {
		if n.AgentPid != 0 && (n.Name == host(t.From) || n.Name == host(t.To)) {
			pids = append(pids, n.AgentPid)
			carry = carry || n.Traffic != nil
		}
	}
	return pids, carry, nil
}

func takeRequests(name string, p iperf.RequestParams) func(context.Context, *run, *target, time.Duration) (map[string]float64, error) {
	return func(ctx context.Context, r *run, t *target, length time.Duration) (map[string]float64, error) {
		p := p
		req, err := r.requests(ctx, t, p, length)
		if err != nil {
			return nil, err
		}
		times := req.Times
		slices.Sort(times)
		r.addLatencies(name, t.Name, times)
		us := func(part float64) float64 { return quantile(times, part) }
		values := map[string]float64{name: us(0.5), name + "-p90": us(0.9), name + "-p99": us(0.99), name + "-p99.9": us(0.999)}
		if name == "rr" {
			values["rr-rate"] = float64(len(times)) / req.Seconds
		}
		return values, nil
	}
}

func takeConnections(ctx context.Context, r *run, t *target, length time.Duration) (map[string]float64, error) {
	req, err := r.requests(ctx, t, iperf.RequestParams{Connect: true}, length)
	if err != nil {
		return nil, err
	}
	return map[string]float64{"crr": float64(len(req.Times)) / req.Seconds}, nil
}

// requests runs requests on a target and counts what the machine did, unless
// that is done for all trials of the round.
func (r *run) requests(ctx context.Context, t *target, p iperf.RequestParams, length time.Duration) (*iperf.Requests, error) {
	p.Duration, p.Omit, p.Bytes, p.Congestion = length, ramp, r.result.Settings.RequestBytes, r.result.Settings.Congestion
	if len(r.processors) > 0 {
		// One for both: to wake an idle processor takes longer than the path, and
		// whether it has to be is chance.
		p.Pin = r.processors[:1]
	}
	if t.Slow > 0 {
		p.Drag = t.Slow / (1 - t.Slow)
	}
	var req *iperf.Requests
	var err error
	if t.seat != nil {
		p.Turn = t.seat.take
		req, err = iperf.RunRequests(ctx, t.from, t.to, p, nil)
	} else {
		req, err = r.counted(ctx, t, func(begun func()) (*iperf.Requests, error) {
			return iperf.RunRequests(ctx, t.from, t.to, p, begun)
		})
	}
	if err != nil {
		return nil, err
	}
	if len(req.Times) == 0 {
		return nil, fmt.Errorf("%s: %s -> %s: no request was answered", t.Name, t.From, t.To)
	}
	return req, nil
}

// counted counts what the machine does from when do calls begun until it ends.
func (r *run) counted(ctx context.Context, t *target, do func(begun func()) (*iperf.Requests, error)) (*iperf.Requests, error) {
	agents, _, err := t.agents(ctx)
	if err != nil {
		return nil, err
	}
	var before usage
	var uerr error
	req, err := do(func() { before, uerr = readUsage(agents) })
	if err != nil {
		return nil, err
	}
	after, err := readUsage(agents)
	if uerr != nil || err != nil {
		return nil, fmt.Errorf("%s: %w", t.Name, firstOf(uerr, err))
	}
	r.used = r.used.plus(after.since(before))
	return req, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// quantile of sorted times, in microseconds.
func quantile(sorted []time.Duration, part float64) float64 {
	i := int(math.Ceil(part*float64(len(sorted)))) - 1
	return float64(sorted[min(max(i, 0), len(sorted)-1)]) / float64(time.Microsecond)
}

// What a rate of datagrams must be to count.
const (
	packetBytes = 64
	lossMost    = 0.005
	packetStep  = 1.15 // between two rates that are tried
	packetFirst = 20_000
	packetTries = 12
)

// takePackets searches the highest rate with little loss, from the rate of the
// round before: up until one is lost, or down until one is not.
func takePackets(ctx context.Context, r *run, t *target, length time.Duration) (map[string]float64, error) {
	try := func(rate float64) (float64, bool, error) {
		p := iperf.Params{UDP: true, Duration: length, Interval: length, Streams: 1, Length: packetBytes, Rate: uint64(rate * packetBytes * 8), Pin: r.processors}
		rep, err := iperf.Run(ctx, t.from, t.to, p, nil, nil)
		if err != nil {
			return 0, false, err
		}
		if rep.Interrupted {
			return 0, false, ctx.Err()
		}
		u := rep.Sum.UDP
		got := float64(u.Packets-u.Lost) / rep.Seconds
		// What the sender could not send is not what the path carries.
		return got, float64(u.Lost) <= lossMost*float64(u.Packets) && got > rate*0.98, nil
	}
	rate := r.rates[t.Name]
	if rate == 0 {
		rate = packetFirst
	}
	best, direction := 0.0, 0
	for range packetTries {
		got, passed, err := try(rate)
		if err != nil {
			return nil, err
		}
		if passed {
			best = max(best, got)
			if direction < 0 {
				break
			}
			direction = 1
			rate *= packetStep
			continue
		}
		if direction > 0 {
			break
		}
		direction = -1
		rate /= packetStep
	}
	if best == 0 {
		return nil, fmt.Errorf("%s: %s -> %s: at %.0f datagrams a second still more than %.1f %% are lost", t.Name, t.From, t.To, rate, 100*lossMost)
	}
	r.rates[t.Name] = best
	return map[string]float64{"pps": best / 1000}, nil
}

// Names are those of all measurements.
func Names(s Settings) []string {
	var names []string
	for _, m := range measurements(s) {
		names = append(names, m.name)
	}
	return names
}

// Metrics are the figures that the settings' measurements give.
func Metrics(s Settings) ([]Metric, error) {
	chosen, err := choose(s)
	var all []Metric
	for _, m := range chosen {
		all = append(all, m.metrics...)
	}
	return all, err
}

// What settings may be at most.
const (
	trialLeast = 0.05
	trialMost  = 60
	rateMost   = 1e6
)

// CheckSettings refuses what cannot be measured.
func CheckSettings(s Settings, budget time.Duration) error {
	wrong := func(cure, format string, args ...any) error {
		return &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf(format, args...), Cure: cure}
	}
	switch {
	case !(s.TrialSeconds >= trialLeast && s.TrialSeconds <= trialMost):
		return wrong("give seconds, such as 0.3", "--trial %g: not between %g and %d", s.TrialSeconds, trialLeast, trialMost)
	case s.Streams < 2 || s.Streams > iperf.MaxStreams:
		return wrong("one stream is tcp1", "--streams %d: not between 2 and %d", s.Streams, iperf.MaxStreams)
	case !(s.RequestRate >= 1 && s.RequestRate <= rateMost):
		return wrong("give requests a second, such as 2000", "--rate %g: not between 1 and %g", s.RequestRate, rateMost)
	case budget < 0:
		return wrong("give a duration such as 1m", "--budget %v: no time to measure anything", budget)
	case len(s.Measurements) == 0:
		return wrong("there are "+strings.Join(Names(s), ", ")+", or all", "--metrics: none is named")
	}
	for i, name := range s.Measurements {
		if slices.Contains(s.Measurements[:i], name) {
			return wrong("name it once", "--metrics: %s is named twice", name)
		}
	}
	_, err := choose(s)
	return err
}
