package lab

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FaultKind is what is wrong.
type FaultKind string

// The kinds of fault. Those in the first group last until they are healed, the
// others are done once.
const (
	LinkFault      FaultKind = "link"      // a device is off
	DropFault      FaultKind = "drop"      // some of what arrives at a device is lost
	RateFault      FaultKind = "rate"      // a device sends no faster
	DelayFault     FaultKind = "delay"     // what leaves by a device is late
	LossFault      FaultKind = "loss"      // some of what leaves by a device is lost
	ReorderFault   FaultKind = "reorder"   // some of what leaves by a device overtakes
	PartitionFault FaultKind = "partition" // groups do not reach each other
	PauseFault     FaultKind = "pause"     // a process is stopped (SIGSTOP)
	HoldFault      FaultKind = "hold"      // nothing is healed on a node

	KillFault    FaultKind = "kill"    // a process dies of SIGKILL and is started again
	CompactFault FaultKind = "compact" // the store forgets its past
	RestartFault FaultKind = "restart" // a node loses its power and has it again

	ResumeFault  FaultKind = "resume"  // ends pause
	ReleaseFault FaultKind = "release" // ends hold
	HealFault    FaultKind = "heal"    // ends all that lasts, or some by their numbers
)

// Fault is one thing that labctl fault does, in its words or those of a lab
// file's timeline: "drop node1:eth0 10%". It is a plain value.
type Fault struct {
	Kind FaultKind
	// On is an interface (node1:eth0), a process (etcd, or a node for its agent)
	// or a node.
	On string
	Up bool // link up: ends link down
	// Percent is drop's, loss' and reorder's.
	Percent       float64
	Rate          int64 // bits a second
	Delay, Jitter time.Duration
	Groups        [][]string // partition's: nodes, routers, etcd
	Nodes         []string   // hold's and release's; empty for all
	IDs           []int      // heal's; empty for all
}

// faultForms are the words of each kind, for messages.
var faultForms = map[FaultKind]string{
	LinkFault: "link down|up ENDPOINT:INTERFACE", DropFault: "drop ENDPOINT:INTERFACE PERCENT", RateFault: "rate ENDPOINT:INTERFACE RATE",
	DelayFault: "delay ENDPOINT:INTERFACE TIME [JITTER]", LossFault: "loss ENDPOINT:INTERFACE PERCENT", ReorderFault: "reorder ENDPOINT:INTERFACE PERCENT",
	PartitionFault: "partition NODE[,NODE...] [NODE...]", PauseFault: "pause etcd|NODE", ResumeFault: "resume etcd|NODE", KillFault: "kill etcd|NODE",
	CompactFault: "compact", RestartFault: "restart NODE", HoldFault: "hold [NODE...]", ReleaseFault: "release [NODE...]", HealFault: "heal [NUMBER...]",
}

// ParseFault reads the words of a fault. What they refer to is not looked up:
// see Check. The error is a Failure of Usage.
func ParseFault(words []string) (Fault, error) {
	var f Fault
	wrong := func(format string, a ...any) (Fault, error) {
		form := faultForms[f.Kind]
		if form == "" {
			form = "one of link, drop, rate, delay, loss, reorder, partition, kill, pause, resume, restart, compact, hold, release, heal"
		}
		return Fault{}, &Failure{Kind: Usage, Err: fmt.Errorf("fault: "+format, a...), Cure: "write " + form}
	}
	if len(words) == 0 {
		return wrong("nothing to do")
	}
	f.Kind = FaultKind(words[0])
	if faultForms[f.Kind] == "" {
		return wrong("%q is not known", words[0])
	}
	args := words[1:]
	least, most := 1, 1
	switch f.Kind {
	case LinkFault, DropFault, RateFault, LossFault, ReorderFault:
		least, most = 2, 2
	case DelayFault:
		least, most = 2, 3
	case PartitionFault:
		most = len(args)
	case CompactFault:
		least, most = 0, 0
	case HoldFault, ReleaseFault, HealFault:
		least, most = 0, len(args)
	}
	if len(args) < least || len(args) > most {
		return wrong("%s: %d words follow", f.Kind, len(args))
	}
	if slices.Contains(args, "") {
		return wrong("%s: an empty word", f.Kind)
	}
	var err error
	switch f.Kind {
	case LinkFault:
		if args[0] != "up" && args[0] != "down" {
			return wrong("link %s: neither down nor up", args[0])
		}
		f.Up, f.On = args[0] == "up", args[1]
	case DropFault, LossFault, ReorderFault:
		f.On = args[0]
		f.Percent, err = ParsePercent(args[1])
	case RateFault:
		f.On = args[0]
		f.Rate, err = ParseRate(args[1])
	case DelayFault:
		f.On = args[0]
		if f.Delay, err = parseDelay(args[1]); err == nil && len(args) > 2 {
			f.Jitter, err = parseDelay(args[2])
		}
		if err == nil && f.Jitter > f.Delay {
			err = fmt.Errorf("jitter %v is more than the delay", f.Jitter)
		}
	case PartitionFault:
		for _, a := range args {
			f.Groups = append(f.Groups, strings.Split(a, ","))
		}
		seen := map[string]bool{}
		for _, g := range f.Groups {
			for _, name := range g {
				if name == "" || seen[name] {
					return wrong("partition: %q is empty, or named twice", name)
				}
				seen[name] = true
			}
		}
	case HoldFault, ReleaseFault:
		f.Nodes = args
	case HealFault:
		for _, a := range args {
			n, err := strconv.Atoi(a)
			if err != nil || n < 1 {
				return wrong("heal %s: not a fault's number; labctl fault list shows them", a)
			}
			f.IDs = append(f.IDs, n)
		}
	case KillFault, PauseFault, ResumeFault, RestartFault:
		f.On = args[0]
	}
	if err != nil {
		return wrong("%s: %w", f.Kind, err)
	}
	if f.device() {
		endpoint, dev, ok := strings.Cut(f.On, ":")
		if !ok {
			f.On, dev = f.On+":eth0", "eth0"
		}
		if endpoint == "" || !deviceName().MatchString(dev) {
			return wrong("%s %s: not an interface of an endpoint", f.Kind, f.On)
		}
	}
	return f, nil
}

// device says whether the fault is one of a device.
func (f Fault) device() bool {
	switch f.Kind {
	case LinkFault, DropFault, RateFault, DelayFault, LossFault, ReorderFault:
		return true
	}
	return false
}

// Lasts says whether the fault is there until it is healed.
func (f Fault) Lasts() bool {
	return f.device() && !f.Up || f.Kind == PartitionFault || f.Kind == PauseFault || f.Kind == HoldFault
}

// Same says whether one of two faults takes the other's place: of a kind, on
// one thing.
func (f Fault) Same(o Fault) bool {
	return f.Kind == o.Kind && f.On == o.On && slices.EqualFunc(f.Groups, o.Groups, slices.Equal)
}

// String is the fault in the words that ParseFault reads.
func (f Fault) String() string {
	words := []string{string(f.Kind)}
	switch f.Kind {
	case LinkFault:
		words = append(words, map[bool]string{true: "up", false: "down"}[f.Up], f.On)
	case DropFault, LossFault, ReorderFault:
		words = append(words, f.On, strconv.FormatFloat(f.Percent, 'g', -1, 64)+"%")
	case RateFault:
		words = append(words, f.On, FormatRate(f.Rate))
	case DelayFault:
		words = append(words, f.On, f.Delay.String())
		if f.Jitter > 0 {
			words = append(words, f.Jitter.String())
		}
	case PartitionFault:
		for _, g := range f.Groups {
			words = append(words, strings.Join(g, ","))
		}
	case HoldFault, ReleaseFault:
		words = append(words, f.Nodes...)
		if f.On != "" {
			words = append(words, f.On)
		}
	case HealFault:
		for _, id := range f.IDs {
			words = append(words, strconv.Itoa(id))
		}
	default:
		if f.On != "" {
			words = append(words, f.On)
		}
	}
	return strings.Join(words, " ")
}

// ParsePercent reads 10% or 0.5%, more than 0 and at most 100; the sign may be
// left out.
func ParsePercent(s string) (float64, error) {
	p, err := strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	if err != nil || !(p >= 0.01 && p <= 100) {
		return 0, fmt.Errorf("%s is not a percentage; write 0.01%% to 100%%", s)
	}
	return p, nil
}

// rateUnits are tc's names of bits a second, and the short ones.
var rateUnits = []struct {
	name string
	bits int64
}{{"gbit", 1e9}, {"mbit", 1e6}, {"kbit", 1e3}, {"bit", 1}, {"g", 1e9}, {"m", 1e6}, {"k", 1e3}}

// ParseRate reads 10M, 10Mbit or 500kbit: bits a second, from 8 kbit to 100 Gbit.
func ParseRate(s string) (int64, error) {
	number, unit := strings.ToLower(s), int64(1)
	for _, u := range rateUnits {
		if n, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = n, u.bits
			break
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if bits := n * float64(unit); err == nil && bits >= 8000 && bits <= 100e9 {
		return int64(bits), nil
	}
	return 0, fmt.Errorf("%s is not a rate; write 8kbit to 100Gbit, such as 10Mbit", s)
}

// FormatRate is a rate in the words that ParseRate reads.
func FormatRate(bits int64) string {
	for _, u := range rateUnits[:3] {
		if bits%u.bits == 0 {
			name := strings.ToUpper(u.name[:1]) + u.name[1:]
			if u.bits == 1e3 {
				name = u.name
			}
			return strconv.FormatInt(bits/u.bits, 10) + name
		}
	}
	return strconv.FormatInt(bits, 10) + "bit"
}

func parseDelay(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < time.Microsecond || d > time.Minute {
		return 0, fmt.Errorf("%s is not a delay; write 1us to 1m, such as 20ms", s)
	}
	return d.Truncate(time.Microsecond), nil
}

// faultNames is what a fault may refer to.
type faultNames interface {
	// faultPlace is the kind of what a name stands for: node, container,
	// router, segment, etcd, internet; "" when there is no such thing.
	faultPlace(name string) string
	hasAgents() bool
}

// check says what is wrong with what the fault refers to, and how to mend it;
// "" when nothing is.
func (f Fault) check(names faultNames) (problem, cure string) {
	node := func(name string) (string, string) {
		if names.faultPlace(name) != "node" {
			return fmt.Sprintf("%s is not a node", quote(name)), ""
		}
		return "", ""
	}
	switch {
	case f.device():
		endpoint, _, _ := strings.Cut(f.On, ":")
		if names.faultPlace(endpoint) == "" {
			return fmt.Sprintf("endpoint %s is unknown", quote(endpoint)), "write an interface as node1:eth0"
		}
	case f.Kind == PartitionFault:
		for _, g := range f.Groups {
			for _, name := range g {
				switch names.faultPlace(name) {
				case "node", "router", "etcd":
				default:
					return fmt.Sprintf("%s is not a node, a router or etcd", quote(name)), "write partition node1,node2 node3"
				}
			}
		}
	case f.Kind == KillFault || f.Kind == PauseFault || f.Kind == ResumeFault:
		if !names.hasAgents() {
			return "a lab without network has neither etcd nor agents", ""
		}
		if f.On != "etcd" {
			return node(f.On)
		}
	case f.Kind == CompactFault:
		if !names.hasAgents() {
			return "a lab without network has no store", ""
		}
	case f.Kind == RestartFault:
		return node(f.On)
	}
	for _, n := range f.Nodes {
		if p, c := node(n); p != "" {
			return p, c
		}
	}
	return "", ""
}

// faultPlace is for faultNames.
func (p *Plan) faultPlace(name string) string {
	if p.Etcd != nil && name == "etcd" {
		return "etcd"
	}
	if p.Internet != nil && name == "internet" {
		return "internet"
	}
	for _, s := range p.Segments {
		if s.Name == name {
			return "segment"
		}
	}
	for _, r := range p.Routers {
		if r.Name == name {
			return "router"
		}
	}
	for _, n := range p.Nodes {
		if n.Name == name {
			return "node"
		}
		for _, c := range n.Containers {
			if n.Name+"."+c.Name == name {
				return "container"
			}
		}
	}
	return ""
}

func (p *Plan) hasAgents() bool { return p.Etcd != nil }

// Check says whether all that the fault refers to is in the plan; else it is a
// Failure of Usage.
func (f Fault) Check(p *Plan) error {
	problem, cure := f.check(p)
	if problem == "" {
		return nil
	}
	if cure == "" {
		cure = "there are " + strings.Join(p.Endpoints(), ", ")
	}
	return &Failure{Kind: Usage, Err: fmt.Errorf("fault: %s: %s", f, problem), Cure: cure}
}

// ActiveFault is a fault that lasts.
type ActiveFault struct {
	ID    int       `json:"id"`
	Fault string    `json:"fault"` // in the words of labctl fault
	Kind  FaultKind `json:"kind"`
	On    string    `json:"on,omitempty"`
	Since time.Time `json:"since"`
	// Dropped counts the packets that drop or partition has dropped.
	Dropped *uint64 `json:"dropped,omitempty"`
}

// FaultRequest does a fault, or with no words nothing; the answer is a Response
// with Faults, those that last.
type FaultRequest struct {
	Words []string `json:"words"`
}

// restartTimeout is how long a node that has its power again may take to join.
const restartTimeout = 30 * time.Second

// Inject does the fault. It returns when it is done; a node that is restarted
// has joined again.
func (f Fault) Inject(ctx context.Context, c *Client) error {
	if f.Kind != RestartFault {
		_, err := c.Fault(ctx, strings.Fields(f.String())...)
		return err
	}
	for _, a := range []NodeAction{NodeKill, NodeStart} {
		if _, err := c.Node(ctx, NodeRequest{Action: a, Node: f.On, From: time.Now(), Timeout: restartTimeout}); err != nil {
			return err
		}
	}
	return nil
}
