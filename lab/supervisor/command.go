package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"labctl/backends"
	"labctl/lab"
	"labctl/lab/agent"
	"labctl/lab/internal/rpc"
)

// commandAgent is somebody's program as a node's agent. It reports nothing:
// what it has done is read from what flannel's contract asks of it, a lease in
// the store and subnet.env. What it should have made in the kernel nobody but
// it knows, so such a node has no drift.
type commandAgent struct {
	name string // flanneld

	// Guarded by Supervisor.mu.
	env   backends.SubnetEnv // as last read
	error string             // why env cannot be used, "" when it can
	lease backends.Lease     // for env's subnet; zero when there is none
	other []backends.Lease   // this host's for other subnets
}

// outside is what the supervisor sees by itself of agents that do not report.
type outside struct {
	first   sync.Once
	wanted  chan struct{} // closed when there is such an agent
	answers sync.Once
	store   chan struct{} // closed when the store has answered for the first time
	files   *notifier     // set by first

	// Guarded by Supervisor.mu: the store's leases, as agents would report them.
	leases int
	digest string
	byHost map[string][]backends.Lease // by PublicIP
}

func newOutside() *outside {
	return &outside{wanted: make(chan struct{}), store: make(chan struct{})}
}

// storeAnswers lets agents begin that would only wait and retry before.
func (o *outside) storeAnswers() { o.answers.Do(func() { close(o.store) }) }

// newCommand describes a node's own agent command. It is started by keep.
func (s *Supervisor) newCommand(h *host) (*agentProcess, error) {
	values := map[string]string{
		"ETCD_ENDPOINTS": strings.Join(s.current().Etcd.Endpoints, ","),
		"ETCD_PREFIX":    backends.DefaultPrefix,
		"IFACE":          h.plan.NIC.Name,
		"PUBLIC_IP":      h.plan.NIC.Addr.Addr().String(),
		"SUBNET_FILE":    s.dir.SubnetEnv(h.name),
		"NODE":           h.name,
		"LABCTL":         ownProgram(),
	}
	argv, env, err := h.plan.Command.Expand(values)
	if err != nil {
		return nil, fmt.Errorf("%s: agent: %w", h.name, err)
	}
	a := &agentProcess{command: &commandAgent{name: h.plan.Command.Name(), error: unwritten}}
	a.process = process{
		name: h.name, ns: h.ns, s: s, state: waiting,
		program: argv[0], view: s.view(h.endpoint), after: s.outside.store,
		argv: argv, env: append(os.Environ(), env...),
	}
	if h.plan.Command.Argv[0] == lab.Self {
		a.argv[0] = "labctl" // as in every other place
	}
	a.started = func(*rpc.Conn) { s.poke() }
	a.ended = s.poke
	// What an earlier life of the lab wrote would count as written now.
	if err := os.Remove(s.dir.SubnetEnv(h.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.outside.first.Do(func() {
		if s.outside.files, err = newNotifier(); err == nil {
			close(s.outside.wanted)
		}
	})
	if err != nil {
		return nil, err
	}
	if s.outside.files == nil {
		return nil, fmt.Errorf("%s: agent: inotify: not there", h.name)
	}
	return a, s.outside.files.add(s.dir.Node(h.name))
}

// unwritten is why a node is not ready whose agent has only begun.
const unwritten = "not written yet"

// ownProgram is a path by which processes of the lab can start labctl.
func ownProgram() string {
	path, err := os.Executable()
	if err == nil {
		named, nerr := os.Stat(path)
		running, rerr := os.Stat("/proc/self/exe")
		if nerr == nil && rerr == nil && os.SameFile(named, running) {
			return path
		}
	}
	// Replaced, or where this user cannot go: the running one has a path, too.
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return path
	}
	return filepath.Join("/proc", self, "exe")
}

// observe follows the store's leases and the files of agents that do not
// report, once there is one, until ctx ends.
func (s *Supervisor) observe(ctx context.Context) {
	for _, begins := range []chan struct{}{s.outside.wanted, s.outside.store} {
		select {
		case <-begins:
		case <-ctx.Done():
			return
		}
	}
	store, err := backends.Dial([]string{"unix://" + s.dir.EtcdSocket()})
	if err != nil {
		s.log.Error("observe", "err", err)
		return
	}
	defer store.Close()
	snapshots := store.Watch(ctx, time.Duration(s.current().LeaseTTL), nil)
	written := make(chan struct{}, 1)
	s.wg.Go(func() {
		if err := s.outside.files.run(ctx, written); err != nil {
			s.log.Error("observe", "err", err)
		}
	})
	for {
		select {
		case snap, ok := <-snapshots:
			if !ok {
				return
			}
			s.learn(snap)
		case <-written:
		}
		for _, h := range s.commands() {
			s.look(h)
		}
		s.poke()
	}
}

// commands are the nodes with an agent of their own.
func (s *Supervisor) commands() []*host {
	s.mu.Lock()
	defer s.mu.Unlock()
	var hosts []*host
	for _, h := range s.hosts {
		if h.agent != nil && h.agent.command != nil {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// learn takes over what the store says.
func (s *Supervisor) learn(snap backends.Snapshot) {
	var all []backends.Lease
	byHost := map[string][]backends.Lease{}
	pool := s.current().Pool
	for _, l := range snap.Leases {
		// Agents do not take in others either.
		if pool.Contains(l.Subnet.Addr()) && l.Subnet.Bits() >= pool.Bits() {
			all = append(all, l)
			byHost[l.PublicIP.String()] = append(byHost[l.PublicIP.String()], l)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outside.leases, s.outside.digest = agent.Digest(all)
	s.outside.byHost = byHost
}

// look reads what a node's agent has written, and wires the containers when
// the subnet is another.
func (s *Supervisor) look(h *host) {
	env, problem := s.readWritten(h)
	s.mu.Lock()
	c := h.agent.command
	c.env, c.error, c.lease, c.other = env, problem, backends.Lease{}, nil
	for _, l := range s.outside.byHost[h.plan.NIC.Addr.Addr().String()] {
		if l.Subnet == env.Subnet.Masked() {
			c.lease = l
		} else {
			c.other = append(c.other, l)
		}
	}
	// Before it has the lease the subnet may still become another.
	rewire := problem == "" && c.lease.Subnet.IsValid() && (!h.wired || h.gateway.Masked() != env.Subnet.Masked() || h.mtu != env.MTU)
	s.mu.Unlock()
	if rewire {
		s.rewire(h)
	}
}

// readWritten is a node's subnet.env, and why it cannot be used.
func (s *Supervisor) readWritten(h *host) (env backends.SubnetEnv, problem string) {
	path := s.dir.SubnetEnv(h.name)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return env, unwritten
	}
	env, err := backends.ReadSubnetEnv(path)
	switch {
	case err != nil:
		return env, err.Error()
	case !env.Subnet.IsValid():
		return env, "has no line FLANNEL_SUBNET=10.244.7.1/24"
	case env.MTU == 0:
		return env, "has no line FLANNEL_MTU=1450"
	}
	return env, ""
}

// reason is why a node with an agent of its own is not ready, "" when it is.
// The caller holds Supervisor.mu.
func (a *agentProcess) reason(file, publicIP string) string {
	c := a.command
	name := "agent " + c.name + ": "
	switch {
	case a.status().State != running:
		return name + processReason(&a.process)
	case c.error == unwritten:
		return fmt.Sprintf("%srunning, %s is %s", name, file, unwritten)
	case c.error != "":
		return fmt.Sprintf("%s%s: %s", name, file, c.error)
	case !c.lease.Subnet.IsValid() && len(c.other) > 0:
		return fmt.Sprintf("%s%s says %s, but in the store %s has %s", name, file, c.env.Subnet.Masked(), publicIP, c.other[0].Subnet)
	case !c.lease.Subnet.IsValid():
		return fmt.Sprintf("%srunning, no lease of %s in the store", name, publicIP)
	}
	return ""
}

// vtepMAC is the MAC that a lease publishes, "" without one.
func vtepMAC(l backends.Lease) string {
	var data struct{ VtepMAC string }
	if json.Unmarshal(l.BackendData, &data) != nil {
		return "" // of a backend without VTEPs
	}
	return data.VtepMAC
}

// pair is where a packet is sent from, and where to.
type pair struct {
	from *endpoint
	to   netip.Addr
	name string
}

// commandPairs are a container of each node with an agent of its own and one of
// each other host: such an agent is ready before it has told the kernel all,
// and nobody but packets can tell when it has.
func (s *Supervisor) commandPairs() []pair {
	lets := s.lets()
	s.mu.Lock()
	defer s.mu.Unlock()
	var hosts []*host
	for _, h := range s.hosts {
		if h.agent != nil && len(h.containers) > 0 {
			hosts = append(hosts, h)
		}
	}
	var pairs []pair
	for i, from := range hosts {
		for _, to := range hosts[i+1:] {
			if from.agent.command == nil && to.agent.command == nil {
				continue
			}
			if x, y := between(from, to, lets); x != nil {
				pairs = append(pairs, pair{x.endpoint, y.addr.Addr(), y.name})
			}
		}
	}
	return pairs
}
