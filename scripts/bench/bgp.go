package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// bgp measures how soon BGP brings routes, and how soon it takes them away.
func (b *bench) bgp(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "labctl-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := func(name, bgp string, nodes int) (string, error) {
		path := dir + "/" + name + ".yaml"
		return path, os.WriteFile(path, fmt.Appendf(nil, "calico: {pool: 10.244.0.0/16, routes: bgp, bgp: {%s}}\nsegments: {lan: {subnet: 192.168.50.0/24}}\ninternet: {subnet: 203.0.113.0/24}\nnodes: %d\n", bgp, nodes), 0o600)
	}
	plain, err := file("plain", "", 3)
	if err != nil {
		return err
	}
	bfd, err := file("bfd", "bfd: 100ms", 3)
	if err != nil {
		return err
	}
	mesh, err := file("mesh", "", 30)
	if err != nil {
		return err
	}

	var ups []sample
	for range b.growth {
		s, err := b.lab(ctx, "calico-bgp")
		if err != nil {
			return err
		}
		ups = append(ups, s)
	}
	made := func(s sample) float64 { return s.Up }
	told := func(s sample) float64 { return s.Converged - s.Up }
	crossed := func(s sample) float64 { return s.FirstPing }
	fmt.Printf("\ncalico-bgp, 3 nodes, median of %d (least - most), ms\n", b.growth)
	fmt.Printf("  everything made                 %s\n", spread(ups, made))
	fmt.Printf("  sessions up, routes written     %s   (GoBGP's first try comes after 1500 to 2000)\n", spread(ups, told))
	fmt.Printf("  first packet across             %s   goal 2500\n", spread(ups, crossed))

	for _, d := range []struct {
		what, file string
		goal       time.Duration
	}{{"lab's timers", plain, 4 * time.Second}, {"BFD every 100 ms", bfd, 700 * time.Millisecond}} {
		var all []float64
		for range b.growth {
			took, err := b.silentDeath(ctx, d.file)
			if err != nil {
				return err
			}
			all = append(all, ms(took))
		}
		fmt.Printf("silent death of a node, routes gone, %s: %s ms, goal %d\n", d.what, spread(all, func(v float64) float64 { return v }), d.goal.Milliseconds())
	}
	sent, lost, err := b.agentRestart(ctx, plain)
	if err != nil {
		return err
	}
	fmt.Printf("agent killed and started again: %d of %d packets lost, goal 0\n", lost, sent)
	s, err := b.lab(ctx, mesh)
	if err != nil {
		return err
	}
	fmt.Printf("30 nodes, 435 sessions: made after %.0f ms, converged after %.0f ms, goal 20000\n", s.Up, s.Converged)
	return nil
}

// bgpLab brings a lab up for the time of f.
func (b *bench) bgpLab(ctx context.Context, file string, f func(name string) error) error {
	name := fmt.Sprintf("bench-%d", os.Getpid())
	if _, err := output(ctx, b.labctl, "up", file, "--name", name); err != nil {
		return err
	}
	err := f(name)
	if _, downErr := output(context.WithoutCancel(ctx), b.labctl, "down", name); err == nil {
		err = downErr
	}
	return err
}

// silentDeath is how long node1 has a route to node3 after that lost its power.
func (b *bench) silentDeath(ctx context.Context, file string) (took time.Duration, err error) {
	err = b.bgpLab(ctx, file, func(name string) error {
		out, err := output(ctx, b.labctl, "status", name, "-o", "json")
		if err != nil {
			return err
		}
		var st struct {
			Nodes []struct{ Subnets []string }
		}
		if err := json.Unmarshal(out, &st); err != nil {
			return err
		}
		block := st.Nodes[2].Subnets[0]
		if strings.Contains(file, "bfd") { // its sessions come a second after BGP's
			const up = `until test $("$0" status "$1" -o json | grep -c '"bfd": true') = 6; do :; done`
			if _, err := output(ctx, "sh", "-c", up, b.labctl, name); err != nil {
				return err
			}
		}
		watch := exec.CommandContext(ctx, b.labctl, "exec", "-l", name, "node1", "--", "sh", "-c", "while ip route show "+block+" | grep -q via; do sleep 0.01; done")
		if err := watch.Start(); err != nil {
			return err
		}
		from := time.Now()
		if _, err := output(ctx, b.labctl, "node", "kill", "-l", name, "node3"); err != nil {
			return err
		}
		err = watch.Wait()
		took = time.Since(from)
		return err
	})
	return took, err
}

var pinged = regexp.MustCompile(`(\d+) packets transmitted, (\d+) received`)

// agentRestart counts packets while the agent of the host that they are for
// dies of SIGKILL and comes back; its sessions are up again when they end.
func (b *bench) agentRestart(ctx context.Context, file string) (sent, lost int, err error) {
	err = b.bgpLab(ctx, file, func(name string) error {
		out, err := output(ctx, b.labctl, "status", name, "-o", "json")
		if err != nil {
			return err
		}
		var st struct{ Nodes []struct{ AgentPid int } }
		if err := json.Unmarshal(out, &st); err != nil {
			return err
		}
		kill := time.AfterFunc(time.Second, func() { _ = syscall.Kill(st.Nodes[1].AgentPid, syscall.SIGKILL) })
		defer kill.Stop()
		// Lost packets are counted here, not by the exit status.
		out, _ = exec.CommandContext(ctx, b.labctl, "ping", "-l", name, "node1.c1", "node2.c1", "-c", "1200", "-i", "10ms", "-W", "1s").CombinedOutput()
		m := pinged.FindSubmatch(out)
		if m == nil {
			return fmt.Errorf("ping: %s", out)
		}
		sent, _ = strconv.Atoi(string(m[1])) // digits
		got, _ := strconv.Atoi(string(m[2]))
		lost = sent - got
		return nil
	})
	return sent, lost, err
}
