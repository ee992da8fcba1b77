package supervisor

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"labctl/backends/calico"
	"labctl/lab"
	"labctl/lab/agent"
	"labctl/nodes"
)

// Whom a node command waits for: those with an agent that runs and is not held.
func TestJoinedAndLeft(t *testing.T) {
	t.Parallel()
	knows := agent.Report{Phase: agent.Running, Subnet: netip.MustParsePrefix("10.1.1.0/24"), Digest: "all", Revision: 7}
	behind := knows
	behind.Digest, behind.Revision = "others", 6
	silent := agent.Report{}
	type other struct {
		report agent.Report
		out    lab.State
		held   bool
	}
	for _, c := range []struct {
		name         string
		self         agent.Report
		selfHeld     bool
		others       []other
		joined, left bool
	}{
		{"all know", knows, false, []other{{report: knows}, {report: knows}}, true, true},
		{"one is behind", knows, false, []other{{report: knows}, {report: behind}}, false, false},
		{"one has not said anything", knows, false, []other{{report: silent}}, false, false},
		{"one that is stopped does not count", knows, false, []other{{report: silent, out: lab.Stopped}, {report: knows}}, true, true},
		{"nor one that is dead", knows, false, []other{{report: silent, out: lab.Dead}}, true, true},
		{"nor one that is held", knows, false, []other{{report: behind, held: true}}, true, true},
		{"it has no lease yet", agent.Report{Phase: agent.Acquiring}, false, nil, false, false},
		{"it has applied nothing yet", agent.Report{Phase: agent.Running, Subnet: knows.Subnet}, false, nil, false, false},
		{"it is held itself", agent.Report{Phase: agent.Running, Subnet: knows.Subnet}, true, []other{{report: behind}}, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			orders := new(mailbox)
			h := &host{wired: true, held: c.selfHeld, agent: &agentProcess{report: c.self, orders: orders}}
			n := &nodeChange{Supervisor: &Supervisor{hosts: []*host{h}}, r: lab.NodeRequest{From: time.Now()}, res: &lab.NodeResult{}}
			for _, o := range c.others {
				n.hosts = append(n.hosts, &host{wired: true, out: o.out, held: o.held, agent: &agentProcess{report: o.report, orders: orders}})
			}
			if got := n.joined(h); got != c.joined {
				t.Errorf("joined() = %v, want %v", got, c.joined)
			}
			if hasLease := n.res.LeaseMs > 0; hasLease != c.self.Subnet.IsValid() {
				t.Errorf("LeaseMs = %d", n.res.LeaseMs)
			}
			if got := n.left(7); got != c.left {
				t.Errorf("left(7) = %v, want %v", got, c.left)
			}
		})
	}
}

// A node for which a pool has no address is given up when all others that run
// have heard what it heard, and want nothing more.
func TestLacking(t *testing.T) {
	t.Parallel()
	has := agent.Report{Phase: agent.Running, Revision: 7}
	lacks := has
	lacks.Exhausted, lacks.Error = true, "node3.c1: no address: all are taken; use a bigger pool"
	behind := has
	behind.Revision = 6
	for _, c := range []struct {
		name  string
		self  agent.Report
		other *host
		want  string
	}{
		{"it has its addresses", has, &host{wired: true, agent: &agentProcess{report: lacks}}, ""},
		{"all are settled", lacks, &host{wired: true, agent: &agentProcess{report: has}}, "node3: node add is done, but node3.c1: no address: all are taken"},
		{"another lacks one, too", lacks, &host{wired: true, agent: &agentProcess{report: lacks}}, "node3: node add is done, but node3.c1: no address: all are taken"},
		{"another has not heard the last", lacks, &host{wired: true, agent: &agentProcess{report: behind}}, ""},
		{"another is being wired", lacks, &host{agent: &agentProcess{report: has}}, ""},
		{"another is stopped", lacks, &host{out: lab.Stopped, agent: &agentProcess{report: behind}}, "node3: node add is done, but node3.c1: no address: all are taken"},
		{"another is held", lacks, &host{held: true, agent: &agentProcess{report: behind}}, "node3: node add is done, but node3.c1: no address: all are taken"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := &host{wired: true, agent: &agentProcess{report: c.self}}
			n := &nodeChange{Supervisor: &Supervisor{plan: &lab.Plan{Calico: &calico.Config{}}, hosts: []*host{c.other, h}}, r: lab.NodeRequest{Action: lab.NodeAdd, Node: "node3"}}
			switch err := n.lacking(h); {
			case err == nil && c.want != "", err != nil && err.Error() != c.want:
				t.Errorf("lacking() = %v, want %q", err, c.want)
			case err != nil && lab.ExitCode(err) != 2:
				t.Errorf("exit status %d, want 2", lab.ExitCode(err))
			}
		})
	}
}

func TestUnplugged(t *testing.T) {
	t.Parallel()
	st := unplugged(nodes.State{
		Links:      []nodes.Link{nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}}, nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "cni0"}}},
		Addrs:      []nodes.Addr{{Dev: "eth0"}, {Dev: "cni0"}},
		Routes:     []nodes.Route{{Dev: "eth0"}, {Dev: "cni0"}},
		Neighbours: []nodes.Neighbour{{Dev: "eth0"}},
	}, "eth0")
	if len(st.Links) != 1 || st.Links[0].LinkName() != "cni0" || len(st.Addrs) != 1 || len(st.Routes) != 1 || len(st.Neighbours) != 0 {
		t.Errorf("unplugged(eth0) = %+v, want cni0 and what is on it", st)
	}
}

func TestPidLevels(t *testing.T) {
	t.Parallel()
	pids, err := pidLevels("self")
	if err != nil || len(pids) == 0 || pids[len(pids)-1] != os.Getpid() {
		t.Errorf("pidLevels(self) = %v, %v, want %d last", pids, err, os.Getpid())
	}
}

// A node command whose caller went away while another had its turn does nothing.
func TestInterruptedBeforeItsTurn(t *testing.T) {
	t.Parallel()
	s := &Supervisor{dir: lab.Dir("/nowhere/x"), log: slog.New(slog.DiscardHandler), verified: true,
		plan: &lab.Plan{Name: "x", Nodes: []lab.NodePlan{{Name: "node1", Agent: true}}}}
	s.moved = sync.NewCond(&s.mu)
	h := &host{endpoint: &endpoint{name: "node1"}, plan: s.plan.Nodes[0], agent: &agentProcess{}}
	s.hosts = []*host{h}
	ours, _ := rpcPair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.node(ctx, ours, lab.NodeRequest{Action: lab.NodeStop, Node: "node1", From: time.Now(), Timeout: time.Minute})
	if lab.ExitCode(err) != 130 || h.out != "" {
		t.Errorf("node stop = %v, and the node is %q; want it interrupted, and left alone", err, h.out)
	}
}
