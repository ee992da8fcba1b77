package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// step is a thing that happens to the lab. do says to whom it did.
type step struct {
	name string
	may  func() bool // nil: always
	do   func(ctx context.Context) (string, error)
}

// steps are all kinds. The first host's agent is never killed, so that there
// is one old enough to have grown.
func (s *soak) steps() []step {
	return []step{
		{"join", func() bool { return len(s.hosts) < s.nodes+2 }, s.join},
		{"flap", nil, s.flap},
		{"kill agent", nil, s.mortal("kill")},
		{"leave", func() bool { return len(s.hosts) > s.nodes-1 }, s.leave},
		{"power", nil, s.mortal("restart")},
		{"compact", nil, func(ctx context.Context) (string, error) { return "", s.fault(ctx, "compact") }},
		{"kill etcd", nil, func(ctx context.Context) (string, error) { return "", s.fault(ctx, "kill", "etcd") }},
		{"stop agent", nil, s.stop},
		{"partition", nil, s.partition},
		{"lose packets", nil, s.lose},
		{"pause agent", nil, func(ctx context.Context) (string, error) { return s.pause(ctx, s.any()) }},
		{"pause etcd", nil, func(ctx context.Context) (string, error) { return s.pause(ctx, "etcd") }},
		{"break", nil, s.damage},
		{"kill both", nil, s.killBoth},
	}
}

// any is some host.
func (s *soak) any() string { return s.hosts[s.rng.IntN(len(s.hosts))] }

// anyMortal is some host but the first.
func (s *soak) anyMortal() string { return s.hosts[1+s.rng.IntN(len(s.hosts)-1)] }

// moment is how long something lasts.
func (s *soak) moment() time.Duration {
	return time.Duration(20+s.rng.IntN(200)) * time.Millisecond
}

// mortal is a fault of a host's that needs nothing besides.
func (s *soak) mortal(kind string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		h := s.anyMortal()
		return h, s.fault(ctx, kind, h)
	}
}

func (s *soak) join(ctx context.Context) (string, error) {
	s.joined++
	h := fmt.Sprintf("node%d", s.joined)
	err := s.node(ctx, "add", h)
	if err == nil {
		s.mu.Lock()
		s.hosts = append(s.hosts, h)
		s.mu.Unlock()
	}
	return h, err
}

func (s *soak) leave(ctx context.Context) (string, error) {
	h := s.anyMortal()
	s.mu.Lock()
	s.hosts = slices.DeleteFunc(slices.Clone(s.hosts), func(x string) bool { return x == h })
	s.mu.Unlock()
	return h, s.node(ctx, "rm", h)
}

func (s *soak) stop(ctx context.Context) (string, error) {
	h := s.anyMortal()
	if err := s.node(ctx, "stop", h); err != nil {
		return h, err
	}
	if err := rest(ctx, s.moment()); err != nil {
		return h, err
	}
	return h, s.node(ctx, "start", h)
}

// flap switches a device off and on, some times over.
func (s *soak) flap(ctx context.Context) (string, error) {
	dev := s.any() + []string{":eth0", ":flannel.1", ":cni0", ":veth1"}[s.rng.IntN(4)]
	for range 1 + s.rng.IntN(3) {
		if err := s.fault(ctx, "link", "down", dev); err != nil {
			return dev, err
		}
		if err := rest(ctx, s.moment()); err != nil {
			return dev, err
		}
		if err := s.fault(ctx, "link", "up", dev); err != nil {
			return dev, err
		}
	}
	return dev, nil
}

// lasting does a fault, and heals it after a moment.
func (s *soak) lasting(ctx context.Context, words ...string) (string, error) {
	what := strings.Join(words[1:], " ")
	if err := s.fault(ctx, words...); err != nil {
		return what, err
	}
	if err := rest(ctx, s.moment()); err != nil {
		return what, err
	}
	return what, s.fault(ctx, "heal")
}

// partition cuts some hosts off from others, or from all and the store.
func (s *soak) partition(ctx context.Context) (string, error) {
	hosts := slices.Clone(s.hosts)
	s.rng.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	n := 1 + s.rng.IntN(len(hosts)-1)
	if s.rng.IntN(2) == 0 {
		return s.lasting(ctx, "partition", strings.Join(hosts[:n], ","))
	}
	return s.lasting(ctx, "partition", strings.Join(hosts[:n], ","), strings.Join(hosts[n:], ","))
}

// lose drops packets, and holds the host to a rate besides.
func (s *soak) lose(ctx context.Context) (string, error) {
	h := s.any()
	if err := s.fault(ctx, "rate", h+":eth0", "20Mbit"); err != nil {
		return h, err
	}
	return s.lasting(ctx, "drop", h+":eth0", fmt.Sprintf("%d%%", 5+s.rng.IntN(60)))
}

func (s *soak) pause(ctx context.Context, process string) (string, error) {
	return s.lasting(ctx, "pause", process)
}

// killBoth kills etcd and an agent, which finds no store when it comes back.
func (s *soak) killBoth(ctx context.Context) (string, error) {
	h := s.anyMortal()
	if err := s.fault(ctx, "kill", "etcd"); err != nil {
		return h, err
	}
	return h, s.fault(ctx, "kill", h)
}

// damages are what somebody might do by hand.
var damages = []string{
	"ip link del flannel.1",
	"ip route flush proto 97",
	"ip neigh flush nud permanent dev flannel.1",
	"bridge fdb flush dev flannel.1 || for m in $(bridge fdb show dev flannel.1 | cut -d' ' -f1); do bridge fdb del $m dev flannel.1; done",
	"ip address flush dev flannel.1",
	"ip link set flannel.1 down",
	"ip link del cni0",
}

func (s *soak) damage(ctx context.Context) (string, error) {
	h, script := s.any(), damages[s.rng.IntN(len(damages))]
	what, _, _ := strings.Cut(script, " ||")
	_, err := s.inside(ctx, h, script)
	return h + ": " + what, err
}
