package bench

import (
	"math"
	"math/rand/v2"
	"time"
)

// world makes runs up: each variant has a true value, trials spread round it,
// and what the machine does else moves all variants of a round alike.
type world struct {
	truth  map[string]float64 // by contestant; "NAME-2" is the null's
	order  []string
	spread float64 // of a trial
	drift  float64 // of a round
	rounds int
}

func (w world) run(rng *rand.Rand) *Result {
	r := &Result{SchemaVersion: 1, Labctl: "test", Started: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC), Seconds: 60,
		Settings: Settings{Topology: "two hosts", LeastRounds: leastRounds, TrialSeconds: 0.3, Measurements: []string{"tcp1"}, Congestion: "cubic"},
		Machine:  Machine{Kernel: "6.18.0", CPU: "Test CPU", Cores: 2},
		Metrics:  []Metric{faster("tcp1", "1 TCP stream", "Gbit/s", "tcp1")}}
	for _, name := range w.order {
		v := Variant{Name: name, Kind: Contestant, From: "node1.c1", To: "node2.c1", Offload: true}
		if of, ok := nullOf(name); ok {
			v.Kind, v.Of = Null, of
		}
		r.Variants = append(r.Variants, v)
	}
	for round := 1; round <= w.rounds; round++ {
		all := math.Exp(w.drift * rng.NormFloat64())
		for _, name := range w.order {
			r.add("tcp1", name, round, w.truth[name]*all*math.Exp(w.spread*rng.NormFloat64()))
		}
	}
	return r
}

// nullOf is the contestant that a second lab's name stands for.
func nullOf(name string) (string, bool) {
	if n := len(name) - 2; n > 0 && name[n:] == "-2" {
		return name[:n], true
	}
	return "", false
}

func four() world {
	return world{order: []string{"host-gw", "vxlan", "udp", "host-gw-2", "calico"}, spread: 0.04, drift: 0.2, rounds: 20,
		truth: map[string]float64{"host-gw": 20, "host-gw-2": 20, "vxlan": 12, "udp": 8, "calico": 20}}
}

func seeded(n uint64) *rand.Rand { return rand.New(rand.NewPCG(n, 42)) }
