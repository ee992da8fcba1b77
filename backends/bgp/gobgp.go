package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// GoBGP is a speaker inside this process: github.com/osrg/gobgp.
type GoBGP struct {
	server  *server.BgpServer // another one only before peers
	log     *listener
	serving sync.WaitGroup
	stop    context.CancelFunc // of the server's events; nil before it is started
	changed chan struct{}
	// restarted says that the kernel still has routes of an earlier speaker
	// here, which goes on forwarding (RFC 4724's restarting speaker).
	restarted bool

	setting sync.Mutex // held by Set; guards the block below
	config  Config     // that holds; zero before the first
	export  bool       // the export policy is set
	paths   map[netip.Prefix]bool

	mu       sync.Mutex          // guards the block below
	peers    map[netip.Addr]Peer // nil before the server is started
	closed   bool
	flushing sync.WaitGroup // flushSilent's; none is added once closed
}

var _ Speaker = (*GoBGP)(nil)

// NewGoBGP starts a speaker that has nothing to say yet. restarted says that
// the kernel still holds what an earlier one wrote.
func NewGoBGP(log *slog.Logger, restarted bool) *GoBGP {
	g := &GoBGP{changed: make(chan struct{}, 1), restarted: restarted, paths: map[netip.Prefix]bool{}}
	g.log = newListener(log, g.wake)
	g.serve()
	return g
}

// serve begins a server, which listens nowhere yet.
func (g *GoBGP) serve() {
	level := &slog.LevelVar{}
	level.Set(slog.LevelDebug) // the listener chooses
	g.server = server.NewBgpServer(server.LoggerOption(slog.New(g.log), level))
	g.serving.Go(g.server.Serve)
	// It cannot be stopped before it serves, and answers nothing before.
	_, _ = g.server.GetBgp(context.Background(), &api.GetBgpRequest{})
}

// Name is gobgp.
func (*GoBGP) Name() string { return "gobgp" }

// WritesKernel is false: GoBGP knows nothing of the kernel.
func (*GoBGP) WritesKernel() bool { return false }

// Changed receives after each change.
func (g *GoBGP) Changed() <-chan struct{} { return g.changed }

func (g *GoBGP) wake() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// Set brings the server to the configuration: what is new is added, what is
// gone removed, and what differs made anew.
func (g *GoBGP) Set(ctx context.Context, c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	g.setting.Lock()
	defer g.setting.Unlock()
	if g.stop == nil {
		if err := g.start(ctx, c); err != nil {
			return err
		}
		// Should what follows fail, the next Set goes on from here.
		g.config.ASN, g.config.RouterID, g.config.Listen = c.ASN, c.RouterID, slices.Clone(c.Listen)
	} else if g.config.ASN != c.ASN || g.config.RouterID != c.RouterID || !slices.Equal(g.config.Listen, c.Listen) {
		return errors.New("bgp: AS, router id and addresses of a running speaker do not change; start it again")
	}
	if !g.export || g.config.Transit != c.Transit || !slices.Equal(selfPeers(g.config), selfPeers(c)) {
		definitions, export := policies(c)
		err := g.server.SetPolicies(ctx, definitions) // which leaves assignments alone
		if err == nil {
			err = g.server.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: export})
		}
		if err != nil {
			return fmt.Errorf("bgp: export policy: %w", err)
		}
		g.export = true
	}
	var errs []error
	for _, p := range g.config.Peers {
		if !slices.Contains(c.Peers, p) || g.config.Timers != c.Timers || g.config.ClusterID != c.ClusterID {
			errs = append(errs, g.remove(ctx, p))
		}
	}
	errs = append(errs, g.originate(c.Originate))
	for _, p := range c.Peers {
		g.mu.Lock()
		_, there := g.peers[p.Addr]
		g.mu.Unlock()
		if !there {
			errs = append(errs, g.add(ctx, c, p))
		}
	}
	c.Peers, c.Originate = slices.Clone(c.Peers), slices.Clone(c.Originate)
	g.config = c
	g.wake()
	return errors.Join(errs...)
}

// start begins to listen.
func (g *GoBGP) start(ctx context.Context, c Config) error {
	global := &api.Global{Asn: c.ASN, RouterId: c.RouterID.String(), ListenPort: Port, UseMultiplePaths: true}
	for _, a := range c.Listen {
		global.ListenAddresses = append(global.ListenAddresses, a.String())
	}
	if err := g.server.StartBgp(ctx, &api.StartBgpRequest{Global: global}); err != nil {
		return errors.Join(fmt.Errorf("bgp: TCP port %d: %w", Port, err), g.again())
	}
	watch, stop := context.WithCancel(context.Background())
	wake := func([]*apiutil.Path, time.Time) { g.wake() }
	err := g.server.WatchEvent(watch, server.WatchEventMessageCallbacks{
		OnBestPath: wake,
		OnPathEor:  func(*apiutil.Path, time.Time) { g.wake() },
		OnPeerUpdate: func(*apiutil.WatchEventMessage_PeerEvent, time.Time) {
			g.wake()
			g.flushSilent()
		},
	}, server.WatchBestPath(true), server.WatchPeer(), server.WatchEor(true))
	if err != nil {
		stop()
		return errors.Join(fmt.Errorf("bgp: events: %w", err), g.again())
	}
	g.stop = stop
	g.mu.Lock()
	g.peers = map[netip.Addr]Peer{}
	g.mu.Unlock()
	return nil
}

// again puts another server in the place of one that did not start and may
// listen at some of its addresses: the next start would find those taken.
func (g *GoBGP) again() error {
	err := g.server.StopBgp(context.Background(), &api.StopBgpRequest{})
	g.serving.Wait()
	g.serve()
	return err
}

// policies is what is told to peers: a node's own routes only, everything by
// one that others' packets cross. (GoBGP's default is to pass on all that BGP
// allows.)
func policies(c Config) (definitions *api.SetPoliciesRequest, export *api.PolicyAssignment) {
	r := &api.SetPoliciesRequest{}
	var statements []*api.Statement
	if self := selfPeers(c); len(self) > 0 {
		set := &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: "next-hop-self"}
		for _, a := range self {
			set.List = append(set.List, netip.PrefixFrom(a, a.BitLen()).String())
		}
		r.DefinedSets = append(r.DefinedSets, set)
		statements = append(statements, &api.Statement{
			Name: "next-hop-self",
			Conditions: &api.Conditions{
				NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set.Name},
				RouteType:   api.Conditions_ROUTE_TYPE_EXTERNAL,
			},
			Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT, Nexthop: &api.NexthopAction{Self: true}},
		})
	}
	statements = append(statements, &api.Statement{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	})
	otherwise := api.RouteAction_ROUTE_ACTION_REJECT
	if c.Transit {
		otherwise = api.RouteAction_ROUTE_ACTION_ACCEPT
	}
	const name = "export"
	r.Policies = []*api.Policy{{Name: name, Statements: statements}}
	return r, &api.PolicyAssignment{
		Name: "global", Direction: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
		Policies: []*api.Policy{{Name: name}}, DefaultAction: otherwise,
	}
}

// selfPeers are the addresses of the peers that get our address as next hop.
func selfPeers(c Config) []netip.Addr {
	var as []netip.Addr
	for _, p := range c.Peers {
		if p.NextHopSelf {
			as = append(as, p.Addr)
		}
	}
	return as
}

func (g *GoBGP) add(ctx context.Context, c Config, p Peer) error {
	if err := g.server.AddPeer(ctx, &api.AddPeerRequest{Peer: g.peer(c, p)}); err != nil {
		return fmt.Errorf("bgp: peer %s: %w", p.Name, err)
	}
	g.mu.Lock()
	g.peers[p.Addr] = p
	g.mu.Unlock()
	return nil
}

func (g *GoBGP) remove(ctx context.Context, p Peer) error {
	g.mu.Lock()
	delete(g.peers, p.Addr)
	g.mu.Unlock()
	g.log.forget(p.Addr)
	if err := g.server.DeletePeer(ctx, &api.DeletePeerRequest{Address: p.Addr.String()}); err != nil {
		return fmt.Errorf("bgp: peer %s: remove: %w", p.Name, err)
	}
	return nil
}

// peer is a session as GoBGP's API has it.
func (g *GoBGP) peer(c Config, p Peer) *api.Peer {
	seconds := func(d time.Duration) uint64 { return uint64(d / time.Second) }
	t := c.Timers
	a := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: p.Addr.String(), PeerAsn: p.ASN, Description: p.Name},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: seconds(t.Hold), KeepaliveInterval: seconds(t.KeepAlive), ConnectRetry: seconds(t.ConnectRetry),
			IdleHoldTimeAfterReset: 1,
		}},
		Transport: &api.Transport{LocalAddress: p.Local.String(), PassiveMode: p.Passive},
	}
	family := &api.AfiSafi{Config: &api.AfiSafiConfig{Family: &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}, Enabled: true}}
	if t.GracefulRestart > 0 {
		a.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(seconds(t.GracefulRestart)), LocalRestarting: g.restarted,
			// A peer that does not come must not keep the others waiting.
			DeferralTime: 3,
		}
		family.MpGracefulRestart = &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}}
	}
	a.AfiSafis = []*api.AfiSafi{family}
	if p.Client {
		a.RouteReflector = &api.RouteReflector{RouteReflectorClient: true, RouteReflectorClusterId: c.ClusterID.String()}
	}
	if t.BFD > 0 {
		us := uint32(t.BFD / time.Microsecond)
		a.Bfd = &api.BfdPeerConfig{Enabled: true, DesiredMinimumTxInterval: us, RequiredMinimumReceive: us, DetectionMultiplier: 3}
	}
	return a
}

// flushSilent drops the routes of peers that fell silent. GoBGP keeps them for
// the time of a graceful restart; RFC 4724 means that for connections that
// end, which a running kernel tells. A silent host forwards nothing.
func (g *GoBGP) flushSilent() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return
	}
	for _, addr := range g.log.takeSilent() {
		g.flushing.Go(func() { // not from within the server's event
			g.setting.Lock()
			defer g.setting.Unlock()
			g.mu.Lock()
			p, ok := g.peers[addr]
			g.mu.Unlock()
			if !ok {
				return
			}
			f := g.log.failure(addr)
			// An error is the next View's: the session is not there.
			_ = g.remove(context.Background(), p)
			g.log.restore(addr, f)
			_ = g.add(context.Background(), g.config, p)
			g.wake()
		})
	}
}

// originate makes the speaker's own routes those that are wanted.
func (g *GoBGP) originate(want []netip.Prefix) error {
	var errs []error
	for p := range maps.Clone(g.paths) {
		if !slices.Contains(want, p) {
			path, err := ownPath(p)
			if err == nil {
				err = g.server.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}})
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("bgp: withdraw %s: %w", p, err))
				continue
			}
			delete(g.paths, p)
		}
	}
	for _, p := range want {
		if g.paths[p] {
			continue
		}
		path, err := ownPath(p)
		if err == nil {
			_, err = g.server.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("bgp: originate %s: %w", p, err))
			continue
		}
		g.paths[p] = true
	}
	return errors.Join(errs...)
}

// ownPath is a route of our own; each session has its local address as next hop.
func ownPath(p netip.Prefix) (*apiutil.Path, error) {
	nlri, err := packet.NewIPAddrPrefix(p)
	if err != nil {
		return nil, err
	}
	hop, err := packet.NewPathAttributeNextHop(netip.IPv4Unspecified())
	if err != nil {
		return nil, err
	}
	return &apiutil.Path{
		Family: packet.RF_IPv4_UC, Nlri: nlri,
		Attrs: []packet.PathAttributeInterface{packet.NewPathAttributeOrigin(0), hop},
	}, nil
}

// View asks the server.
func (g *GoBGP) View(ctx context.Context, detail Detail) (View, error) {
	g.mu.Lock()
	peers := maps.Clone(g.peers)
	g.mu.Unlock()
	v := View{Sessions: []Session{}}
	if peers == nil {
		return v, nil // not started
	}
	err := g.server.ListPeer(ctx, &api.ListPeerRequest{EnableAdvertised: true}, func(a *api.Peer) {
		addr, err := netip.ParseAddr(a.State.GetNeighborAddress())
		p, ok := peers[addr]
		if err != nil || !ok {
			return
		}
		s := Session{Peer: p.Name, Addr: p.Addr, Local: p.Local, ASN: p.ASN, Passive: p.Passive, Client: p.Client, State: stateOf(a.State.GetSessionState())}
		if s.State == Established {
			if up := a.Timers.GetState().GetUptime(); up != nil {
				s.Since = up.AsTime()
			}
			for _, f := range a.AfiSafis {
				s.Received += int(f.State.GetReceived())
				s.Accepted += int(f.State.GetAccepted())
				s.Advertised += int(f.State.GetAdvertised())
			}
		} else {
			s.Failure = g.log.failure(addr)
		}
		s.BFD = a.State.GetBfdState().GetSessionState() == api.BfdSessionState_BFD_SESSION_STATE_UP
		v.Sessions = append(v.Sessions, s)
	})
	if err != nil {
		return v, fmt.Errorf("bgp: sessions: %w", err)
	}
	slices.SortFunc(v.Sessions, func(a, b Session) int { return a.Addr.Compare(b.Addr) })
	best, err := g.routes(api.TableType_TABLE_TYPE_GLOBAL, "", peers)
	if err != nil {
		return v, err
	}
	for _, r := range best {
		if r.Best && r.Peer != "" {
			v.Best = append(v.Best, r)
		}
	}
	v.Strangers = g.log.strangersBut(peers)
	if !detail {
		return v, nil
	}
	config := g.current()
	for i := range v.Sessions {
		s := &v.Sessions[i]
		if s.In, err = g.routes(api.TableType_TABLE_TYPE_ADJ_IN, s.Addr.String(), peers); err != nil {
			return v, err
		}
		for k := range s.In {
			r := &s.In[k]
			r.Rejected = rejected(*r, config)
			r.Best = slices.ContainsFunc(v.Best, func(b Route) bool { return b.Prefix == r.Prefix && b.Peer == r.Peer })
		}
		if s.State != Established {
			continue
		}
		if s.Out, err = g.routes(api.TableType_TABLE_TYPE_ADJ_OUT, s.Addr.String(), peers); err != nil {
			return v, err
		}
		for k := range s.Out {
			s.Out[k].Best = false
		}
		for _, r := range v.Best {
			if r.Peer != s.Peer && config.Transit && slices.Contains(r.Path, s.ASN) {
				r.Best, r.Rejected = false, fmt.Sprintf("AS loop: AS %d, which is %s's, is in the path", s.ASN, s.Peer)
				s.Withheld = append(s.Withheld, r)
			}
		}
	}
	return v, nil
}

func (g *GoBGP) current() Config {
	g.setting.Lock()
	defer g.setting.Unlock()
	return g.config
}

// rejected is why a speaker takes no notice of a route (RFC 4271, section
// 9.1.2; RFC 4456, section 8).
func rejected(r Route, c Config) string {
	switch {
	case slices.Contains(r.Path, c.ASN):
		return fmt.Sprintf("AS loop: AS %d, which is ours, is in the path", c.ASN)
	case r.Originator == c.RouterID:
		return "it is our own, reflected"
	case c.ClusterID.IsValid() && slices.Contains(r.Clusters, c.ClusterID):
		return "cluster loop: our cluster id is in the list"
	}
	return ""
}

func (g *GoBGP) routes(table api.TableType, peer string, peers map[netip.Addr]Peer) ([]Route, error) {
	var rs []Route
	err := g.server.ListPath(apiutil.ListPathRequest{TableType: table, Name: peer, Family: packet.RF_IPv4_UC}, func(nlri packet.NLRI, paths []*apiutil.Path) {
		prefix, err := netip.ParsePrefix(nlri.String())
		if err != nil {
			return // not IPv4 unicast
		}
		for _, p := range paths {
			r := Route{Prefix: prefix, Best: p.Best, Stale: p.Stale}
			if p.PeerAddress.IsValid() {
				r.Peer = cmp.Or(peers[p.PeerAddress].Name, p.PeerAddress.String())
			}
			for _, a := range p.Attrs {
				switch a := a.(type) {
				case *packet.PathAttributeNextHop:
					r.NextHop = a.Value
				case *packet.PathAttributeLocalPref:
					r.LocalPref = a.Value
				case *packet.PathAttributeOriginatorId:
					r.Originator = a.Value
				case *packet.PathAttributeClusterList:
					r.Clusters = slices.Clone(a.Value)
				case *packet.PathAttributeAsPath:
					for _, seg := range a.Value {
						r.Path = append(r.Path, seg.GetAS()...)
					}
				}
			}
			rs = append(rs, r)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("bgp: routes: %w", err)
	}
	slices.SortFunc(rs, func(a, b Route) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), a.NextHop.Compare(b.NextHop))
	})
	return rs, nil
}

func stateOf(s api.PeerState_SessionState) SessionState {
	switch s {
	case api.PeerState_SESSION_STATE_CONNECT:
		return Connect
	case api.PeerState_SESSION_STATE_ACTIVE:
		return Active
	case api.PeerState_SESSION_STATE_OPENSENT:
		return OpenSent
	case api.PeerState_SESSION_STATE_OPENCONFIRM:
		return OpenConfirm
	case api.PeerState_SESSION_STATE_ESTABLISHED:
		return Established
	}
	return Idle
}

// Close ends the server, and is for a process that ends, too. Peers with
// graceful restart hear no notification: to them it looks like a process that
// died and will be back.
func (g *GoBGP) Close() error {
	g.setting.Lock()
	started := g.stop != nil
	g.setting.Unlock()
	if started {
		g.stop()
	}
	// An event may be under way still.
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.flushing.Wait()
	err := g.server.StopBgp(context.Background(), &api.StopBgpRequest{AllowGracefulRestart: true})
	g.serving.Wait()
	return err
}
