package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"labctl/backends/calico"
	"labctl/nodes"
)

// calicoSystem is Calico: blocks of addresses for the host, one of them for
// each container that the supervisor tells of, and Felix's routes.
type calicoSystem struct {
	*Agent
	store  *calico.Store
	config calico.Config
	last   map[string]netip.Addr // the containers' addresses, by name
	bgp    *speaker              // nil where routes come from the store
	host   calico.Host           // as of the last set
	ipip   *calico.IPIPPath      // nil where the kernel wraps, or nothing is wrapped
}

var _ system = (*calicoSystem)(nil)

func (c *calicoSystem) join(ctx context.Context, client *clientv3.Client) (nodes.Owner, error) {
	c.store = calico.NewStore(client)
	var err error
	if c.config, err = c.store.WaitConfig(ctx); err != nil {
		return nodes.Owner{}, err
	}
	c.Log.Info("network config", "pool", c.config.Pool, "blockSize", c.config.BlockSize, "encapsulation", c.config.Encapsulation, "routes", c.config.Routes)
	c.update(func(r *Report) { r.Phase = Assigning })
	c.settle(ctx)
	if c.config.Routes == calico.BGP {
		if c.bgp, err = c.newSpeaker(); err != nil {
			return nodes.Owner{}, err
		}
		c.beside = append(c.beside, func(ctx context.Context) error { return c.bgp.run(ctx, c.Agent) })
	}
	if err := c.openTunnel(); err != nil {
		return nodes.Owner{}, err
	}
	o := nodes.Owner{Name: "labctl agent", Protocol: calico.Protocol}
	if dev := c.config.Encapsulation.Device(); dev != "" {
		o.Exclusive = []string{dev}
	}
	return o, ctx.Err()
}

// openTunnel finds out who wraps packets where that is by IPIP: the kernel, or
// a path of our own.
func (c *calicoSystem) openTunnel() error {
	if c.config.Encapsulation.Device() != calico.IPIPDevice {
		return nil
	}
	ns, err := nodes.CurrentNamespace(c.Node)
	if err != nil {
		return err
	}
	defer ns.Close()
	devices, err := ns.Devices()
	if err != nil {
		return err
	}
	if calico.IPIPInKernel(devices) {
		c.update(func(r *Report) { r.Tunnel = calico.KernelIPIP })
		return nil
	}
	c.update(func(r *Report) { r.Tunnel = calico.UserspaceIPIP })
	c.ipip, err = calico.OpenIPIP(c.config, c.underlay, c.Log)
	return c.opened(c.ipip, err)
}

// node is this host as the others are to know it. tunnel is the address of its
// tunnel device, invalid without one.
func (c *calicoSystem) node(tunnel netip.Addr) calico.Node {
	n := calico.Node{Name: c.Node, Address: c.underlay.Prefix}
	if tunnel.IsValid() {
		n.Tunnel, n.Device = tunnel, c.config.Encapsulation.Device()
	}
	return n
}

// containers are those of the last order.
func (c *calicoSystem) containers() []Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Containers
}

// claims are what the tunnel device, if there is one, and the containers ask
// for: the address that the order names, or the one that they have had, even if
// the store has forgotten. The device is first, as it is in a host's life.
func (c *calicoSystem) claims(containers []Container) []calico.Claim {
	var all []calico.Claim
	if name := c.config.Encapsulation.TunnelName(); name != "" {
		all = append(all, calico.Claim{Name: name, Addr: c.last[name]})
	}
	for _, k := range containers {
		a := k.Addr
		if !a.IsValid() {
			a = c.last[k.Name]
		}
		all = append(all, calico.Claim{Name: k.Name, Addr: a})
	}
	return all
}

// parts are the addresses for claims: the tunnel device's, and the containers'.
func (c *calicoSystem) parts(addrs []netip.Addr) (tunnel netip.Addr, containers []netip.Addr) {
	if c.config.Encapsulation.TunnelName() == "" {
		return netip.Addr{}, addrs
	}
	return addrs[0], addrs[1:]
}

// settle takes addresses for all containers and registers them. What cannot be
// done now is told, and tried again when the store says something new.
func (c *calicoSystem) settle(ctx context.Context) {
	containers := c.containers()
	claims := c.claims(containers)
	addrs, err := c.store.Assign(ctx, c.config, c.Node, claims)
	if _, exhausted := errors.AsType[*calico.ExhaustedError](err); exhausted && c.last != nil {
		// Perhaps somebody else has what was ours before.
		c.last = nil
		claims = c.claims(containers)
		addrs, err = c.store.Assign(ctx, c.config, c.Node, claims)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		c.complain("blocks", err)
		if addrs == nil {
			return
		}
	}
	tunnel, own := c.parts(addrs)
	if err := c.store.Register(ctx, c.node(tunnel), c.workloads(containers, own)); err != nil {
		c.complain("blocks", err)
		return
	}
	c.last = map[string]netip.Addr{}
	for i, a := range addrs {
		if a.IsValid() {
			c.last[claims[i].Name] = a
		}
	}
	if err == nil {
		c.update(func(*Report) { c.trouble, c.exhausted = "", false })
	}
}

// workloads are the containers that have an address. addrs is in their order.
func (c *calicoSystem) workloads(containers []Container, addrs []netip.Addr) []calico.Workload {
	var all []calico.Workload
	for i, k := range containers {
		if addrs[i].IsValid() {
			all = append(all, calico.Workload{Host: c.Node, Name: k.Name, Addr: addrs[i], Dev: k.Dev})
		}
	}
	return all
}

// settled says whether the store has all that is ours.
func (c *calicoSystem) settled(snap calico.Snapshot) bool {
	containers := c.containers()
	claims := c.claims(containers)
	met, err := snap.Met(c.Node, claims)
	if err != nil {
		c.complain("blocks", err)
	}
	tunnel, own := c.parts(snap.Addresses(c.Node, claims))
	return met && snap.Registered(c.node(tunnel), c.workloads(containers, own))
}

// follow keeps the store and the kernel in step with each other and with the
// containers.
func (c *calicoSystem) follow(ctx context.Context) error {
	snapshots := c.store.Watch(ctx)
	var snap calico.Snapshot
	var pace pacer
	var due <-chan time.Time // set while a snapshot waits for the rest of its flock
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case s, ok := <-snapshots:
			if !ok {
				return ctx.Err()
			}
			snap = s
			if d := pace.wait(len(s.Nodes), c.expected()); d > 0 && c.settled(snap) {
				if due == nil {
					due = time.After(d)
				}
				continue
			}
		case <-due:
		case <-c.ordered:
		case <-c.bgp.heard():
			if snap.Revision > 0 {
				c.await(snap)
				c.carry()
			}
			continue
		}
		due = nil
		if snap.Revision == 0 {
			continue
		}
		if snap.ConfigErr != nil {
			c.complain("blocks", snap.ConfigErr)
			continue
		}
		if !c.settled(snap) {
			c.settle(ctx) // what it writes comes back as a snapshot
		}
		c.set(snap)
		pace.set()
	}
}

// set gives the reconciler what the store asks for.
func (c *calicoSystem) set(snap calico.Snapshot) {
	h := calico.Host{Config: c.config, Name: c.Node, Underlay: c.underlay, Blocks: snap.BlocksOf(c.Node), Path: c.ipip != nil}
	var has []Container
	containers := c.containers()
	tunnel, own := c.parts(snap.Addresses(c.Node, c.claims(containers)))
	h.Tunnel = tunnel
	for i, a := range own {
		if k := containers[i]; a.IsValid() {
			h.Locals = append(h.Locals, calico.Local{Addr: a, Dev: k.Dev})
			has = append(has, Container{k.Name, k.Dev, a})
		}
	}
	remotes, problems := snap.Remotes(c.Node)
	h.Remotes = remotes
	if c.bgp != nil {
		c.announce(snap)
		c.await(snap)
	}
	c.host = h
	c.carry()
	st, more := calico.Desired(h)
	problems = append(problems, more...)
	for _, p := range snap.Problems {
		problems = append(problems, p)
	}
	for _, p := range problems {
		c.Log.Warn("store", "err", p)
	}
	c.update(func(r *Report) {
		r.Phase, r.MTU = Running, c.config.MTU(c.underlay)
		r.Blocks, r.Containers = h.Blocks, has
		if c.config.Encapsulation.Device() == calico.VXLANDevice {
			r.VTEPMAC = calico.VTEPMAC(c.Node).String()
		}
	})
	c.want(st, fingerprint(snap), problems)
}

// carry tells the path of our own, if there is one, where to carry packets: to
// those that there are routes to.
func (c *calicoSystem) carry() {
	if c.ipip == nil {
		return
	}
	h := c.host
	if c.bgp != nil {
		h.Remotes = c.bgp.learned()
	}
	c.ipip.Set(h)
}

// fingerprint is of all that routes follow from, the same on every host.
func fingerprint(snap calico.Snapshot) leasesKnown {
	sum := sha256.New()
	for _, n := range snap.Nodes {
		fmt.Fprintln(sum, n.Name, n.Address, n.Tunnel)
		for _, b := range snap.BlocksOf(n.Name) {
			fmt.Fprintln(sum, b)
		}
	}
	for _, b := range snap.Borrowed() {
		fmt.Fprintln(sum, b.Addr, b.Host)
	}
	return leasesKnown{count: len(snap.Nodes), digest: hex.EncodeToString(sum.Sum(nil)[:8]), revision: snap.Revision}
}
