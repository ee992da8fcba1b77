package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// backends measures flannel's backends side by side, container to container on
// two hosts. All labs are up at once; in each round every one is measured
// once, in random order, so that what else the machine does hits all alike.
type backends struct {
	labctl string
	rounds int
	each   time.Duration // how long one stream lasts
	prefix string        // of the labs' names
	labs   map[string]*benchLab
}

// The labs that are compared, by what they are called in the table.
const (
	udp    = "udp"
	plain  = "udp plain"
	vxlan  = "vxlan"
	hostgw = "host-gw"
	udp0   = "udp, offloads off"
	vxlan0 = "vxlan, offloads off"
)

// benchLab is one lab of the comparison.
type benchLab struct {
	name    string
	to      string // the other container's address
	agents  []int  // pids
	samples map[string][]float64
}

func (b *backends) run(ctx context.Context) (err error) {
	b.prefix = fmt.Sprintf("bench-%d", os.Getpid())
	b.labs = map[string]*benchLab{}
	servers, stop := context.WithCancel(context.Background())
	defer func() {
		for _, l := range b.labs {
			if _, e := output(context.Background(), b.labctl, "down", l.name); e != nil {
				err = errors.Join(err, e)
			}
		}
		stop()
	}()
	kinds := map[string]string{
		udp: "Backend: {Type: udp}", plain: "Backend: {Type: udp, Level: plain}",
		vxlan: "Backend: {Type: vxlan}", hostgw: "Backend: {Type: host-gw}",
		udp0: "Backend: {Type: udp}", vxlan0: "Backend: {Type: vxlan}",
	}
	for kind, backend := range kinds {
		if err := b.up(ctx, servers, kind, backend); err != nil {
			return err
		}
	}
	fmt.Printf("machine: %s, %s, %d cores, %s\n", kernel(), cpu(), runtime.NumCPU(), time.Now().Format("2006-01-02"))
	fmt.Printf("container to container on two hosts, underlay MTU 1500, iperf3, TCP %s; %d rounds of %v, in random order\n\n", congestion, b.rounds, b.each)
	if err := b.measureAll(ctx); err != nil {
		return err
	}
	b.print()
	return nil
}

// congestion is set and not inherited: with another algorithm the figures are others.
const congestion = "cubic"

// unpaced keeps the pacing of BBR, where that is the machine's default, out of
// the figures: a socket that begins with it is paced by timers for good, also
// after iperf3's -C has chosen another algorithm, which it does once connected.
// Reno is what every namespace may choose.
func unpaced(ctx context.Context, labctl, lab string) error {
	for _, end := range []string{"node1.c1", "node2.c1"} {
		if _, err := output(ctx, labctl, "exec", "-l", lab, end, "--", "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno"); err != nil {
			return err
		}
	}
	return nil
}

// up starts a lab and the server in its second host's container.
func (b *backends) up(ctx, servers context.Context, kind, backend string) error {
	offload := "on"
	if strings.HasSuffix(kind, "off") {
		offload = "off"
	}
	file, err := os.CreateTemp("", "bench-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := fmt.Fprintf(file, `name: bench
network: {Network: 10.244.0.0/16, %s}
segments: {lan: {subnet: 192.168.50.0/24, offload: %s}}
nodes: {node1: {subnet: 10.244.1.0/24}, node2: {subnet: 10.244.2.0/24}}
`, backend, offload); err != nil {
		return err
	}
	l := &benchLab{name: fmt.Sprintf("%s-%d", b.prefix, len(b.labs)), to: "10.244.2.2", samples: map[string][]float64{}}
	out, err := output(ctx, b.labctl, "up", file.Name(), "--name", l.name, "-o", "json")
	if err != nil {
		return err
	}
	b.labs[kind] = l
	if err := unpaced(ctx, b.labctl, l.name); err != nil {
		return err
	}
	var st struct {
		Nodes []struct{ AgentPid int }
	}
	if err := json.Unmarshal(out, &st); err != nil {
		return err
	}
	for _, n := range st.Nodes {
		l.agents = append(l.agents, n.AgentPid)
	}
	// It ends with the lab.
	if err := exec.CommandContext(servers, b.labctl, "exec", "-l", l.name, "node2.c1", "--", "iperf3", "-s").Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, err = output(ctx, b.labctl, "exec", "-l", l.name, "node1.c1", "--", "iperf3", "-c", l.to, "-n", "1K"); err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond) // for the server to listen
	}
}

// measurement is one figure of one lab.
type measurement struct {
	kind, what string
	take       func(context.Context, *benchLab) error
}

func (b *backends) measureAll(ctx context.Context) error {
	var all []measurement
	add := func(what string, take func(context.Context, *benchLab) error, kinds ...string) {
		for _, k := range kinds {
			all = append(all, measurement{k, what, take})
		}
	}
	add(tcp1, b.tcp(tcp1, 1), udp, plain, vxlan, hostgw, udp0, vxlan0)
	add(tcp4, b.tcp(tcp4, 4), udp, vxlan, hostgw)
	add(kpps, b.packets, udp, vxlan, hostgw)
	add(flood, b.flood, udp, vxlan, hostgw)
	for _, l := range b.labs {
		if err := b.memory(l); err != nil {
			return err
		}
	}
	// A warm-up, not counted, and one round more for each.
	for round := range b.rounds + 1 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, m := range all {
			if err := m.take(ctx, b.labs[m.kind]); err != nil {
				return fmt.Errorf("%s: %s: %w", m.kind, m.what, err)
			}
		}
		if round == 0 {
			for _, l := range b.labs {
				for what := range l.samples {
					if what != memory {
						l.samples[what] = nil
					}
				}
			}
		}
		fmt.Fprintf(os.Stderr, "\rround %d of %d", round, b.rounds)
	}
	fmt.Fprintln(os.Stderr)
	return nil
}

// ratios are those of each round.
func (b *backends) ratios(what, over, under string) []float64 {
	var r []float64
	for i, v := range b.labs[over].samples[what] {
		r = append(r, v/b.labs[under].samples[what][i])
	}
	return r
}

// print shows the table: ratios first, what they are made of below.
func (b *backends) print() {
	fmt.Printf("%-52s %-22s %8s %6s\n", "RATIO, MEDIAN OF ROUNDS (LEAST - MOST)", "MEASURED", "AT LEAST", "AIM")
	row := func(what string, v []float64, format, least, aim string) {
		fmt.Printf("%-52s %-22s %8s %6s\n", what, describe(v, format), least, aim)
	}
	row("udp / vxlan, 1 TCP stream", b.ratios(tcp1, udp, vxlan), "%.2f", "0.90", "1.05")
	row("udp / vxlan, 4 TCP streams", b.ratios(tcp4, udp, vxlan), "%.2f", "0.90", "1.05")
	row("udp / vxlan, 1 TCP stream, all offloads off", b.ratios(tcp1, udp0, vxlan0), "%.2f", "1.1", "1.3")
	row("udp / host-gw, 1 TCP stream", b.ratios(tcp1, udp, hostgw), "%.2f", "0.75", "0.9")
	row("udp gso / udp plain, 1 TCP stream", b.ratios(tcp1, udp, plain), "%.1f", "10", "20")
	row("udp / vxlan, 64-byte UDP packets received a second", b.ratios(kpps, udp, vxlan), "%.2f", "1.2", "1.6")
	var more []float64
	for i, v := range b.labs[udp].samples[flood] {
		more = append(more, v-b.labs[vxlan].samples[flood][i])
	}
	row("udp less vxlan, flood ping, us", more, "%.0f", "95", "40")
	row("idle agent of udp, private MB (least of its lab)", b.labs[udp].samples[memory], "%.1f", "12", "8")

	fmt.Printf("\n%-22s %-24s %-24s %-18s %-16s %-14s\n", "MEDIAN", "1 TCP STREAM, GBIT/S", "CPU S/GBIT (AGENTS)", "4 STREAMS, GBIT/S", "64-BYTE KPPS", "FLOOD PING, US")
	for _, k := range []string{hostgw, vxlan, udp, plain, vxlan0, udp0} {
		l := b.labs[k]
		cell := func(what, format string) string {
			if len(l.samples[what]) == 0 {
				return "-"
			}
			return fmt.Sprintf(format, median(l.samples[what]))
		}
		fmt.Printf("%-22s %-24s %-24s %-18s %-16s %-14s\n", k, describe(l.samples[tcp1], "%.2f"),
			cell(cpuAll, "%.3f")+cell(cpuAgents, " (%.3f)"), cell(tcp4, "%.1f"), cell(kpps, "%.0f"), cell(flood, "%.1f"))
	}
	fmt.Println("\nCPU is that of the whole machine, softirq included, while the stream ran; of it, the agents' own.")
	fmt.Println("Offloads off: TSO, GSO, GRO and transmit checksums on every veth of the lab.")
}

// describe is the median with the range.
func describe(v []float64, format string) string {
	if len(v) == 0 {
		return "-"
	}
	return fmt.Sprintf(format+" ("+format+" - "+format+")", median(v), slices.MinFunc(v, cmp.Compare[float64]), slices.Max(v))
}
