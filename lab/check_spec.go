package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// CheckSpec is one assertion on the running lab. Exactly one of the kinds is
// set. In to, url, run, match and not, ${...} stands for a value of the
// running lab: see Placeholder.
type CheckSpec struct {
	// Name is the check's name in reports; left out, it is made from what the check does.
	Name string `yaml:"name,omitempty"`
	// Claim is the claim of the source material that the check shows, D2.
	Claim string `yaml:"claim,omitempty"`
	// AnyBackend says that the check holds whatever the backend. With labctl test --backend only such checks run.
	AnyBackend bool `yaml:"anyBackend,omitempty"`
	// Ping sends ICMP echo requests: all (every endpoint to every other), or from one endpoint to another or to an address.
	Ping *PingCheck `yaml:"ping,omitempty"`
	// Command runs a command inside an endpoint; its standard output must match.
	Command *CommandCheck `yaml:"command,omitempty"`
	// HTTP fetches a URL from inside an endpoint.
	HTTP *HTTPCheck `yaml:"http,omitempty"`
	// Count counts a device's table entries in a node.
	Count *CountCheck `yaml:"count,omitempty"`
	// MTU finds the path MTU between two endpoints.
	MTU *MTUCheck `yaml:"mtu,omitempty"`
	// Store reads keys of etcd: the lines "KEY VALUE" of all keys under prefix must match.
	Store *StoreCheck `yaml:"store,omitempty"`
	// Calls counts the system calls that an agent makes for a packet that it carries itself (backend udp).
	Calls *CallsCheck `yaml:"calls,omitempty"`
	// Converged says how soon every node had to know every other.
	Converged *ConvergedCheck `yaml:"converged,omitempty"`
	// Latency compares the round-trip times of two paths.
	Latency *LatencyCheck `yaml:"latency,omitempty"`
	// Throughput compares what two paths carry, or one with a floor.
	Throughput *ThroughputCheck `yaml:"throughput,omitempty"`
	// Kill ends a node's agent, and looks whether packets still pass; then the agent comes back.
	Kill *KillCheck `yaml:"kill,omitempty"`
	// Capture looks at the packets of one interface while one endpoint pings another.
	Capture *CaptureCheck `yaml:"capture,omitempty"`
	// Policy sends what network policies are about: all (every container to every other, and what passes must be what the policies let through), or from one container to another.
	Policy *PolicyCheck `yaml:"policy,omitempty"`
	// Blackout bounds how long no packet gets through while the file's faults are played.
	Blackout *BlackoutCheck `yaml:"blackout,omitempty"`
}

// BlackoutCheck is about one path: an answer is asked for every 10 ms.
type BlackoutCheck struct {
	// From is the endpoint that sends.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is the other endpoint.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Least is how long at least the longest time without an answer has to be, 900ms.
	Least time.Duration `yaml:"least,omitempty"`
	// Most is how long it may be.
	Most time.Duration `yaml:"most,omitempty" jsonschema:"required"`
}

// PingCheck is `ping: all` or `ping: {from, to, ...}`.
type PingCheck struct {
	All bool `yaml:"-"`
	// From is the endpoint that sends.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is an endpoint, an address or a placeholder.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Size is the size of the IP packet's ICMP data in bytes, as ping -s; 56 when left out.
	Size int `yaml:"size,omitempty" jsonschema:"minimum=0,maximum=65507"`
	// DF forbids fragmentation, as ping -M do.
	DF bool `yaml:"df,omitempty"`
	// Expect is ok (an answer comes, the default) or fail (none does).
	Expect Expect `yaml:"expect,omitempty" jsonschema:"enum=ok,enum=fail"`
}

// PolicyCheck is `policy: all` or `policy: {from, to, port, ...}`.
type PolicyCheck struct {
	All bool `yaml:"-"`
	// From is the container that sends.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is the container that answers.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Port is what is sent: tcp/80, udp/53 or icmp.
	Port string `yaml:"port,omitempty" jsonschema:"required,pattern=^(icmp|(tcp|udp)/[0-9]+)$"`
	// Expect is ok (it is answered, the default) or fail (it is not).
	Expect Expect `yaml:"expect,omitempty" jsonschema:"enum=ok,enum=fail"`
}

// CommandCheck runs a command. It must end with status 0.
type CommandCheck struct {
	// In is the endpoint that the command runs in.
	In string `yaml:"in,omitempty" jsonschema:"required"`
	// Run is the command and its arguments, no shell.
	Run []string `yaml:"run,omitempty" jsonschema:"required"`
	// Match is a regular expression that standard output must match; ^ and $ match at line ends.
	Match string `yaml:"match,omitempty"`
	// Not is a regular expression that standard output must not match.
	Not string `yaml:"not,omitempty"`
}

// HTTPCheck fetches a URL with GET.
type HTTPCheck struct {
	// From is the endpoint that fetches.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// URL is what is fetched, http://${node2.ip}:8080/.
	URL string `yaml:"url,omitempty" jsonschema:"required"`
	// Match is a regular expression that the answer's body must match; labctl's servers answer with the client's address.
	Match string `yaml:"match,omitempty"`
	// Expect is ok (the answer has status 200, the default) or fail (there is no answer).
	Expect Expect `yaml:"expect,omitempty" jsonschema:"enum=ok,enum=fail"`
}

// CountCheck counts the entries of one device. A number left out is not checked.
type CountCheck struct {
	// In is the node.
	In string `yaml:"in,omitempty" jsonschema:"required"`
	// Dev is the device, flannel.1.
	Dev string `yaml:"dev,omitempty" jsonschema:"required"`
	// Routes is the number of routes through the device.
	Routes *int `yaml:"routes,omitempty" jsonschema:"minimum=0"`
	// Neighbours is the number of the device's neighbour (ARP) entries.
	Neighbours *int `yaml:"neighbours,omitempty" jsonschema:"minimum=0"`
	// FDB is the number of the device's forwarding database entries.
	FDB *int `yaml:"fdb,omitempty" jsonschema:"minimum=0"`
}

// MTUCheck is the largest packet that passes whole between two endpoints.
type MTUCheck struct {
	// From is the endpoint that sends.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is the other endpoint.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Is is the MTU that is expected, in bytes.
	Is int `yaml:"is,omitempty" jsonschema:"required,minimum=68,maximum=65535"`
}

// StoreCheck reads etcd.
type StoreCheck struct {
	// Prefix is what the keys begin with, /coreos.com/network/subnets/.
	Prefix string `yaml:"prefix,omitempty" jsonschema:"required"`
	// Match is a regular expression that the lines "KEY VALUE" must match; ^ and $ match at line ends.
	Match string `yaml:"match,omitempty"`
	// Not is a regular expression that they must not match.
	Not string `yaml:"not,omitempty"`
	// Keys is the number of keys under the prefix.
	Keys *int `yaml:"keys,omitempty" jsonschema:"minimum=0"`
}

// CallsCheck sends packets from one container to another and divides: system
// calls of the sending node's agent by packets on the wire.
type CallsCheck struct {
	// From is the container that sends.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is a container on another node.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Least is the smallest number of calls for a packet that is expected.
	Least float64 `yaml:"least,omitempty" jsonschema:"minimum=0"`
	// Most is the largest.
	Most float64 `yaml:"most,omitempty" jsonschema:"minimum=0"`
}

// ConvergedCheck bounds the time from the begin of up until every node knew
// every other.
type ConvergedCheck struct {
	// Within is how long it may take, 5s.
	Within time.Duration `yaml:"within,omitempty" jsonschema:"required"`
}

// LatencyCheck compares two paths: times differ from machine to machine, and
// their ratio does not.
type LatencyCheck struct {
	// From is the endpoint that sends.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is an endpoint, an address or a placeholder.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Than is the path that it is compared with.
	Than PathSpec `yaml:"than,omitempty" jsonschema:"required"`
	// Most is how many times as long the median round trip may be.
	Most float64 `yaml:"most,omitempty" jsonschema:"required,minimum=0"`
}

// PathSpec is a way between two places.
type PathSpec struct {
	// From is the endpoint that sends.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is an endpoint, an address or a placeholder.
	To string `yaml:"to,omitempty" jsonschema:"required"`
}

// ThroughputCheck measures one TCP stream. As a ratio to another path it holds
// on any machine; as a floor only on those that are known.
type ThroughputCheck struct {
	// From is the endpoint that sends.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is the endpoint that receives.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Than is the path that it is compared with, between two endpoints.
	Than *PathSpec `yaml:"than,omitempty"`
	// Least is how many times as much as the path than it has to carry, 0.3.
	Least float64 `yaml:"least,omitempty" jsonschema:"minimum=0"`
	// Mbit is how many Mbit/s it has to carry, whatever another path does.
	Mbit float64 `yaml:"mbit,omitempty" jsonschema:"minimum=0"`
}

// KillCheck ends an agent and sends packets.
type KillCheck struct {
	// Agent is the node whose agent is killed, with SIGKILL.
	Agent string `yaml:"agent,omitempty" jsonschema:"required"`
	// From is the endpoint that sends while there is no agent.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is an endpoint, an address or a placeholder.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Expect is ok (answers come, the default) or fail (none does).
	Expect Expect `yaml:"expect,omitempty" jsonschema:"enum=ok,enum=fail"`
}

// CaptureCheck captures on one interface while a ping crosses the lab. Packets
// are one line each, as labctl tcpdump -e prints them without a time.
type CaptureCheck struct {
	// On is the interface, node1:eth0.
	On string `yaml:"on,omitempty" jsonschema:"required"`
	// From is the endpoint that pings meanwhile.
	From string `yaml:"from,omitempty" jsonschema:"required"`
	// To is an endpoint, an address or a placeholder.
	To string `yaml:"to,omitempty" jsonschema:"required"`
	// Match is a regular expression that the lines must match; ^ and $ match at line ends.
	Match string `yaml:"match,omitempty"`
	// Not is a regular expression that they must not match.
	Not string `yaml:"not,omitempty"`
}

// Expect is what a check's packets should come to; the zero value is ExpectOK.
type Expect string

// The outcomes that a file can ask for.
const (
	ExpectOK   Expect = "ok"
	ExpectFail Expect = "fail"
)

// Kind names the check's kind, the key that it has in the file.
func (c CheckSpec) Kind() string {
	if kinds := c.kinds(); len(kinds) > 0 {
		return kinds[0]
	}
	return ""
}

func (c CheckSpec) kinds() []string {
	var kinds []string
	for _, k := range []struct {
		set  bool
		name string
	}{
		{c.Ping != nil, "ping"}, {c.Command != nil, "command"}, {c.HTTP != nil, "http"},
		{c.Count != nil, "count"}, {c.MTU != nil, "mtu"}, {c.Store != nil, "store"}, {c.Calls != nil, "calls"},
		{c.Converged != nil, "converged"}, {c.Latency != nil, "latency"}, {c.Throughput != nil, "throughput"}, {c.Kill != nil, "kill"},
		{c.Capture != nil, "capture"}, {c.Blackout != nil, "blackout"},
		{c.Policy != nil, "policy"},
	} {
		if k.set {
			kinds = append(kinds, k.name)
		}
	}
	return kinds
}

// isAddress says whether to is an address rather than an endpoint.
func isAddress(to string) bool {
	_, err := netip.ParseAddr(to)
	return err == nil
}

// Title names the check in reports: its name, or else what it does.
func (c CheckSpec) Title() string {
	switch {
	case c.Name != "":
		return c.Name
	case c.Ping != nil && c.Ping.All:
		return "ping all"
	case c.Ping != nil:
		return "ping " + c.Ping.From + " -> " + c.Ping.To + unlessOK(c.Ping.Expect)
	case c.Command != nil:
		return c.Command.In + ": " + strings.Join(strings.Fields(strings.Join(c.Command.Run, " ")), " ")
	case c.HTTP != nil:
		return c.HTTP.From + ": GET " + c.HTTP.URL + unlessOK(c.HTTP.Expect)
	case c.Count != nil:
		return c.Count.In + ": entries of " + c.Count.Dev
	case c.MTU != nil:
		return fmt.Sprintf("mtu %s -> %s is %d", c.MTU.From, c.MTU.To, c.MTU.Is)
	case c.Store != nil:
		return "store " + c.Store.Prefix
	case c.Calls != nil:
		return "system calls a packet, " + c.Calls.From + " -> " + c.Calls.To
	case c.Converged != nil:
		return fmt.Sprintf("converged within %v", c.Converged.Within)
	case c.Latency != nil:
		l := c.Latency
		return fmt.Sprintf("latency %s -> %s at most %v times %s -> %s", l.From, l.To, l.Most, l.Than.From, l.Than.To)
	case c.Throughput != nil:
		t := c.Throughput
		if t.Than == nil {
			return fmt.Sprintf("throughput %s -> %s at least %v Mbit/s", t.From, t.To, t.Mbit)
		}
		return fmt.Sprintf("throughput %s -> %s at least %v times %s -> %s", t.From, t.To, t.Least, t.Than.From, t.Than.To)
	case c.Kill != nil:
		return "ping " + c.Kill.From + " -> " + c.Kill.To + unlessOK(c.Kill.Expect) + " without an agent on " + c.Kill.Agent
	case c.Blackout != nil:
		return fmt.Sprintf("blackout %s -> %s at most %v", c.Blackout.From, c.Blackout.To, c.Blackout.Most)
	case c.Capture != nil:
		return c.Capture.On + ": packets while " + c.Capture.From + " pings " + c.Capture.To
	case c.Policy != nil && c.Policy.All:
		return "policies let through what they say, and nothing else"
	case c.Policy != nil:
		return c.Policy.Port + " " + c.Policy.From + " -> " + c.Policy.To + unlessOK(c.Policy.Expect)
	}
	return "check"
}

func unlessOK(e Expect) string {
	if e == ExpectFail {
		return " fails"
	}
	return ""
}
