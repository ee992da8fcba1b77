package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/fault"
	"labctl/lab/ping"
)

const (
	probeEvery = 2 * time.Millisecond
	probeWait  = 500 * time.Millisecond
	// settle is how long probes go on before and after what is measured.
	settle = 100 * time.Millisecond
	// settleMost is how long a lab may take to be as it was.
	settleMost = 20 * time.Second
)

// probes go from one end of a target to the other while something happens.
type probes struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
	lost   atomic.Int64
	failed atomic.Pointer[error]
}

func (t *target) probe(ctx context.Context) (*probes, error) {
	p, err := t.client.Pinger(ctx, t.From)
	if err != nil {
		return nil, err
	}
	s := &probes{}
	ctx, s.cancel = context.WithCancel(ctx)
	s.wg.Go(func() {
		defer p.Close()
		var wg sync.WaitGroup
		defer wg.Wait()
		tick := time.NewTicker(probeEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			wg.Go(func() {
				// One that is under way when the end comes is waited for.
				res, err := p.Probe(context.WithoutCancel(ctx), ping.Probe{To: t.to.Addr, Size: 8, Wait: probeWait})
				switch {
				case err != nil:
					s.failed.Store(&err)
				case res.Lost != "":
					s.lost.Add(1)
				}
			})
		}
	})
	return s, nil
}

// end is how long nothing came through: as long as the probes that were lost.
func (s *probes) end() (ms float64, err error) {
	s.cancel()
	s.wg.Wait()
	if err := s.failed.Load(); err != nil {
		return 0, *err
	}
	return float64(s.lost.Load()) * probeEvery.Seconds() * 1000, nil
}

// pause waits, and returns early when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// takeRestart kills the agent of the node where the packets come from, or etcd,
// and counts the answers that are lost until it is back.
func takeRestart(name string) func(context.Context, *run, *target, time.Duration) (map[string]float64, error) {
	return func(ctx context.Context, r *run, t *target, _ time.Duration) (map[string]float64, error) {
		pid := func(st *lab.Status) int {
			if name == "etcd-restart" {
				for _, p := range st.Processes {
					if p.Name == "etcd" {
						return p.Pid
					}
				}
				return 0
			}
			for _, n := range st.Nodes {
				if n.Name == host(t.From) {
					return n.AgentPid
				}
			}
			return 0
		}
		st, err := t.client.Status(ctx)
		if err != nil {
			return nil, err
		}
		before := pid(st)
		if before == 0 {
			return nil, fmt.Errorf("%s: %w", name, errAbsent)
		}
		s, err := t.probe(ctx)
		if err != nil {
			return nil, err
		}
		pause(ctx, settle)
		if err = unix.Kill(before, unix.SIGKILL); err == nil {
			err = t.await(ctx, func(st *lab.Status) bool {
				now := pid(st)
				return now != 0 && now != before && st.State == lab.Ready
			})
		}
		pause(ctx, settle)
		ms, perr := s.end()
		if err := errors.Join(err, perr); err != nil {
			return nil, err
		}
		return map[string]float64{name: ms}, ctx.Err()
	}
}

// errAbsent is for labs without what a measurement is about: an agent or an
// etcd of labctl's, faults to play.
var errAbsent = errors.New("the lab has nothing of the kind")

// await polls the lab's status.
func (t *target) await(ctx context.Context, is func(*lab.Status) bool) error {
	ctx, cancel := context.WithTimeout(ctx, settleMost)
	defer cancel()
	for {
		st, err := t.client.Status(ctx)
		if err == nil && is(st) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s: not as it was after %v: %w", t.Name, settleMost, ctx.Err())
		}
		pause(ctx, 10*time.Millisecond)
	}
}

// late is the node that joins and leaves.
const late = "late"

// takeJoin has a node join, until its container answers, and leave again.
func takeJoin(ctx context.Context, r *run, t *target, _ time.Duration) (_ map[string]float64, err error) {
	request := lab.NodeRequest{Action: lab.NodeAdd, Node: late, From: time.Now(), Timeout: settleMost}
	for _, n := range t.File.Spec.Nodes {
		if n.Name == host(t.To) {
			request.Segment = n.Segment
		}
	}
	there := true
	remove := func(ctx context.Context) (*lab.NodeResult, error) {
		there = false
		return t.client.Node(ctx, lab.NodeRequest{Action: lab.NodeRm, Node: late, From: time.Now(), Timeout: settleMost})
	}
	defer func() {
		if there { // the next round must find the lab as this one did
			_, rerr := remove(context.WithoutCancel(ctx))
			err = errors.Join(err, rerr)
		}
	}()
	if _, err := t.client.Node(ctx, request); err != nil {
		return nil, err
	}
	to, err := t.client.EndpointAddress(ctx, late+".c1")
	if err != nil {
		return nil, err
	}
	p, err := t.client.Pinger(ctx, t.From)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	for {
		res, err := p.Probe(ctx, ping.Probe{To: to, Size: 8, Wait: probeWait})
		if err != nil {
			return nil, err
		}
		if res.Lost == "" {
			break
		}
		if time.Since(request.From) > settleMost {
			return nil, fmt.Errorf("%s: the new node's container does not answer: %s", t.Name, res.Lost)
		}
	}
	values := map[string]float64{"join": time.Since(request.From).Seconds() * 1000}
	s, err := t.probe(ctx)
	if err != nil {
		return nil, err
	}
	pause(ctx, settle)
	res, err := remove(ctx)
	pause(ctx, settle)
	ms, perr := s.end()
	if err := errors.Join(err, perr); err != nil {
		return nil, err
	}
	values["leave"], values["leave-lost"] = float64(res.ConvergedMs), ms
	return values, ctx.Err()
}

// takeFaults plays the timeline of faults of the lab's file.
func takeFaults(ctx context.Context, r *run, t *target, _ time.Duration) (map[string]float64, error) {
	if len(t.File.Spec.Faults) == 0 {
		return nil, fmt.Errorf("faults: %w", errAbsent)
	}
	played, err := fault.Play(ctx, t.client, t.File.Spec.Faults, []fault.Path{{From: t.From, To: t.To}})
	if err != nil {
		return nil, err
	}
	lost := 0.0
	for _, o := range played.Paths[0].Outages {
		lost += o.Ms
	}
	return map[string]float64{"faults": played.Paths[0].Longest().Ms, "faults-lost": lost, "faults-ready": played.ReadyMs}, ctx.Err()
}

// FaultsSeconds is how long the longest of the entries' timelines of faults
// lasts, 0 without any.
func FaultsSeconds(entries []Entry) float64 {
	var longest time.Duration
	for _, e := range entries {
		if e.File.Spec == nil {
			continue
		}
		for _, f := range e.File.Spec.Faults {
			longest = max(longest, f.At+f.For)
		}
	}
	return longest.Seconds()
}

// takeMTU searches for the largest packet that passes unfragmented.
func takeMTU(ctx context.Context, r *run, t *target, _ time.Duration) (map[string]float64, error) {
	p, err := t.client.Pinger(ctx, t.From)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	const header, least = 28, 68 // of IP and ICMP; IP's least MTU
	link, low, high := 0, least, least
	for _, h := range t.Path {
		high = max(high, h.MTU)
		if h.Device == host(t.From)+":eth0" {
			link = h.MTU
		}
	}
	if t.Loopback {
		high = ping.MaxSize + header
	}
	for low < high {
		mid := (low + high + 1) / 2
		res, err := p.Probe(ctx, ping.Probe{To: t.to.Addr, Size: mid - header, DF: true, Wait: probeWait})
		if err != nil {
			return nil, err
		}
		if res.Lost == "" {
			low = mid
		} else {
			high = mid - 1
		}
	}
	values := map[string]float64{"mtu": float64(low)}
	if t.Kind != Baseline {
		values["overhead"] = float64(link - low)
	}
	return values, nil
}

// takeMemory is what the agents have for themselves, on average.
func takeMemory(ctx context.Context, r *run, t *target, _ time.Duration) (map[string]float64, error) {
	pids, _, err := t.agents(ctx)
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("memory of agents: %w", errAbsent)
	}
	var sum float64
	for _, pid := range pids {
		mb, err := privateMemory(pid)
		if err != nil {
			return nil, err
		}
		sum += mb
	}
	return map[string]float64{"memory": sum / float64(len(pids))}, nil
}
