package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
)

// The goals of calico-routed: ms until a packet has crossed, and the lower end
// of the interval of what its path carries beside the same one made by hand.
const (
	routedUp    = 400
	routedLeast = 0.95
)

// byHand is calico-routed's path from node1.c1 to node2.c1, made of nothing but
// ip's commands: two containers, two hosts that route, one switch. It runs in
// namespaces of its own and prints what iperf3 does. Its first argument names
// what the hosts do besides, as calico-routed's do.
const byHand = `set -e
with=$1
shift
mkdir -p /run/netns
mount -t tmpfs tmpfs /run/netns
for n in c1 h1 lan h2 c2; do
	ip netns add $n
	ip -n $n link set lo up
done
ip netns exec lan sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true
ip -n lan link add br0 up type bridge
for i in 1 2; do
	ip link add eth0 netns c$i type veth peer name veth1 netns h$i
	ip link add eth0 netns h$i type veth peer name h$i netns lan
	ip -n lan link set h$i master br0 up
	ip -n h$i link set eth0 up
	ip -n h$i link set veth1 up
	ip -n c$i link set eth0 up
	ip -n h$i addr add 192.168.100.$i/24 dev eth0
	ip -n h$i addr add 172.17.$i.1/32 dev veth1
	ip -n h$i route add 172.17.$i.2 dev veth1
	ip -n h$i route add 172.17.$((3-i)).0/24 via 192.168.100.$((3-i))
	ip netns exec h$i sysctl -qw net.ipv4.ip_forward=1
	ip -n c$i addr add 172.17.$i.2/32 dev eth0
	ip -n c$i route add 172.17.$i.1 dev eth0
	ip -n c$i route add default via 172.17.$i.1
	ip netns exec c$i sysctl -qw net.ipv4.tcp_congestion_control=reno
	case " $with " in *" rp_filter "*) ip netns exec h$i sysctl -qw net.ipv4.conf.veth1.rp_filter=1 ;; esac
	case " $with " in *" natOutgoing "*) ip netns exec h$i nft '
		add table inet nat
		add chain inet nat post { type nat hook postrouting priority srcnat; }
		add rule inet nat post ip saddr 172.17.0.0/16 ip daddr != 172.17.0.0/16 counter masquerade fully-random' ;; esac
	case " $with " in *" untracked "*) ip netns exec h$i nft '
		add table inet raw
		add chain inet raw pre { type filter hook prerouting priority raw; }
		add rule inet raw pre ip saddr 172.17.0.0/16 ip daddr 172.17.0.0/16 counter notrack' ;; esac
done
ip netns exec c2 iperf3 -s >/dev/null &
until ip netns exec c2 ss -Hltn sport = :5201 | grep -q .; do sleep 0.01; done
exec ip netns exec c1 iperf3 -J -c 172.17.2.2 "$@"
`

// routed measures calico-routed: how soon it is up, and stream by stream what
// its path carries and costs beside the same path made by hand, and what each
// thing that its hosts do besides has of that.
func (b *bench) routed(ctx context.Context) error {
	var ups []sample
	for range b.rounds + 1 {
		s, err := b.lab(ctx, "calico-routed")
		if err != nil {
			return err
		}
		ups = append(ups, s)
	}
	ups = ups[1:] // the first warms up
	fmt.Printf("\ncalico-routed, 3 nodes; milliseconds, %d rounds, median (least - most)\n", b.rounds)
	fmt.Printf("  %-24s %s\n", "t_converged", spread(ups, func(s sample) float64 { return s.Converged }))
	fmt.Printf("  %-24s %s  goal %d\n", "t_first_ping", spread(ups, func(s sample) float64 { return s.FirstPing }), routedUp)
	if os.Geteuid() != 0 {
		fmt.Println("  throughput: not measured: it needs root")
		return nil
	}
	for _, p := range []string{"iperf3", "ss", "unshare", "nft"} {
		if _, err := exec.LookPath(p); err != nil {
			fmt.Printf("  throughput: not measured: %s is not installed\n", p)
			return nil
		}
	}
	return b.routedCarries(ctx)
}

func (b *bench) routedCarries(ctx context.Context) (err error) {
	name := fmt.Sprintf("bench-%d", os.Getpid())
	if _, err := output(ctx, b.labctl, "up", "calico-routed", "--name", name); err != nil {
		return err
	}
	servers, stop := context.WithCancel(ctx)
	defer func() {
		_, down := output(context.WithoutCancel(ctx), b.labctl, "down", name)
		stop()
		err = errors.Join(err, down)
	}()
	if err := unpaced(ctx, b.labctl, name); err != nil {
		return err
	}
	// It ends with the lab.
	if err := exec.CommandContext(servers, b.labctl, "exec", "-l", name, "node2.c1", "--", "iperf3", "-s").Start(); err != nil {
		return err
	}
	if _, err := output(ctx, b.labctl, "exec", "-l", name, "node2.c1", "--", "sh", "-c", "until ss -Hltn sport = :5201 | grep -q .; do sleep 0.01; done"); err != nil {
		return err
	}
	// Sender and receiver have a processor each: which ones the scheduler gives
	// them would decide more than the path does.
	args := []string{"-t", strconv.FormatFloat(b.each.Seconds(), 'f', -1, 64), "-C", congestion, "-A", "0,1"}
	hand := func(with string) []string {
		return append([]string{"unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", byHand, "sh", with}, args...)
	}
	paths := map[string][]string{
		labPath:  append([]string{b.labctl, "exec", "-l", name, "node1.c1", "--", "iperf3", "-J", "-c", "172.17.9.2"}, args...),
		handPath: hand(""),
	}
	order := []string{labPath, handPath}
	for _, with := range []string{"rp_filter", "natOutgoing", "natOutgoing untracked", "rp_filter natOutgoing untracked"} {
		order = append(order, with)
		paths[with] = hand(with)
	}
	shown := slices.Clone(order)
	carried := map[string][]stream{}
	for round := range b.routedRounds + 1 { // the first warms up
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, path := range order {
			out, err := output(ctx, paths[path]...)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			var r iperfReport
			if err := json.Unmarshal(out, &r); err != nil {
				return fmt.Errorf("%s: iperf3: %w", path, err)
			}
			if round > 0 {
				carried[path] = append(carried[path], r.stream())
			}
		}
	}
	fmt.Printf("  container to container on two hosts, 1 TCP stream %s, %d rounds of %v in random order;\n", congestion, b.routedRounds, b.each)
	fmt.Printf("  ratios are of each round to the path made by ip commands alone, with the 95 %% interval of the median;\n")
	fmt.Printf("  the goal: the lower end of calico-routed's Gbit/s at least %.2f\n", routedLeast)
	fmt.Printf("    %-34s %-24s %-22s %s\n", "path", "Gbit/s", "ratio", "CPU time for a byte, ratio")
	for _, path := range shown {
		var gbit, throughput, cost []float64
		for i, s := range carried[path] {
			gbit = append(gbit, s.gbit)
			throughput = append(throughput, s.gbit/carried[handPath][i].gbit)
			cost = append(cost, s.cost/carried[handPath][i].cost)
		}
		fmt.Printf("    %-34s %-24s %-22s %s\n", path, describe(gbit, "%.2f"), ratio(throughput), ratio(cost))
	}
	return nil
}

// The paths that are measured beside those that are named by what they do.
const (
	labPath  = "calico-routed"
	handPath = "by hand"
)

// stream is what one stream came to.
type stream struct {
	gbit float64 // Gbit/s
	cost float64 // CPU time of both ends for a byte; the path's is in it: packets cross in their senders' context
}

func (r iperfReport) stream() stream {
	e := r.End
	cpu := (e.CPU.Host + e.CPU.Remote) / 100 * e.SumReceived.Seconds
	return stream{gbit: e.SumReceived.BitsPerSecond / 1e9, cost: cpu / e.SumReceived.Bytes}
}

// ratio is a median with its interval.
func ratio(v []float64) string {
	low, high := interval(v)
	return fmt.Sprintf("%.3f (%.3f - %.3f)", median(v), low, high)
}

// interval is where the median is with 95 % confidence, whatever the
// distribution: between two of the values, counted in from both ends. Fewer
// than six values have none narrower than all there is.
func interval(v []float64) (low, high float64) {
	v = slices.Clone(v)
	slices.Sort(v)
	n := len(v)
	// How likely are k or fewer of n values below the median?
	k, below := 0, 0.0
	for i := range n / 2 {
		if below += choose(n, i) / math.Pow(2, float64(n)); below > 0.025 {
			break
		}
		k = i
	}
	return v[k], v[n-1-k]
}

func choose(n, k int) float64 {
	c := 1.0
	for i := range k {
		c = c * float64(n-i) / float64(i+1)
	}
	return c
}
