package lab

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"labctl/backends"
	"labctl/backends/calico"
)

// checks validates what `labctl test` is to assert.
func (v *validator) checks() {
	for i, c := range v.Checks[:min(len(v.Checks), maxChecks)] {
		path := fmt.Sprintf("checks[%d]", i)
		object := fmt.Sprintf("check %d", i+1)
		if c.Name != "" {
			object = "check " + quote(c.Name)
		}
		v.check(checkScope{v, path, object}, c)
	}
}

// checkScope reports problems of one check.
type checkScope struct {
	*validator
	path, object string
}

func (c checkScope) problem(key, message, hint string) {
	c.add(join(c.path, key), c.object+": "+message, hint)
}

func (v *validator) check(c checkScope, spec CheckSpec) {
	const kinds = "ping, command, http, count, mtu, store, calls, converged, latency, throughput, kill, capture, blackout, policy"
	switch found := spec.kinds(); {
	case len(found) == 0:
		if !v.bad(c.path) {
			c.problem("", "nothing to check", "add one of "+kinds)
		}
	case len(found) > 1:
		c.problem(found[1], "more than one kind: "+strings.Join(found, ", "), "write a check for each")
	}
	for key, text := range map[string]string{"name": spec.Name, "claim": spec.Claim} {
		if strings.ContainsAny(text, "\n\r") || len(text) > 200 {
			c.problem(key, key+" is not one short line", "")
		}
	}
	if p := spec.Ping; p != nil && !p.All {
		c.endpoint("ping.from", p.From)
		c.target("ping.to", p.To)
		c.expect("ping.expect", p.Expect)
		if p.Size < 0 || p.Size > 65507 {
			c.problem("ping.size", fmt.Sprintf("size %d is out of range", p.Size), "use 0 to 65507")
		}
	}
	if p := spec.Command; p != nil {
		c.place("command.in", p.In)
		if len(p.Run) == 0 || p.Run[0] == "" {
			c.missing("command.run", "run: [ip, route]")
		}
		for i, arg := range p.Run {
			c.text(fmt.Sprintf("command.run[%d]", i), arg)
			if strings.ContainsRune(arg, 0) {
				c.problem(fmt.Sprintf("command.run[%d]", i), "an argument cannot have a zero byte", "")
			}
		}
		c.regexp("command.match", p.Match)
		c.regexp("command.not", p.Not)
	}
	if p := spec.HTTP; p != nil {
		c.endpoint("http.from", p.From)
		c.url("http.url", p.URL)
		c.regexp("http.match", p.Match)
		c.expect("http.expect", p.Expect)
	}
	if p := spec.Count; p != nil {
		c.count(p)
	}
	if p := spec.MTU; p != nil {
		c.endpoint("mtu.from", p.From)
		c.endpoint("mtu.to", p.To)
		switch {
		case p.Is == 0:
			c.missing("mtu.is", "is: 1450")
		case p.Is < 68 || p.Is > 65535:
			c.problem("mtu.is", fmt.Sprintf("mtu %d is out of range", p.Is), "use 68 to 65535")
		}
	}
	if p := spec.Calls; p != nil {
		c.endpoint("calls.from", p.From)
		c.endpoint("calls.to", p.To)
		if v.network != nil && v.network.BackendType != backends.DefaultBackendType || v.calico != nil && v.calico.Encapsulation.Device() != calico.IPIPDevice {
			c.problem("calls", "only agents of backend udp, and of IPIP in user space, carry packets themselves", "")
		}
		if p.Most < 0 || p.Least < 0 || p.Most < p.Least {
			c.problem("calls.most", fmt.Sprintf("no number is between %v and %v", p.Least, p.Most), "most: 0.5")
		}
	}
	if p := spec.Converged; p != nil {
		switch {
		case p.Within == 0:
			c.missing("converged.within", "within: 5s")
		case p.Within < 0:
			c.problem("converged.within", fmt.Sprintf("%v is less than nothing", p.Within), "within: 5s")
		}
	}
	if p := spec.Latency; p != nil {
		c.endpoint("latency.from", p.From)
		c.target("latency.to", p.To)
		c.endpoint("latency.than.from", p.Than.From)
		c.target("latency.than.to", p.Than.To)
		switch {
		case p.Most == 0:
			c.missing("latency.most", "most: 3")
		case p.Most < 0:
			c.problem("latency.most", fmt.Sprintf("%v is less than nothing", p.Most), "most: 3")
		}
	}
	if p := spec.Throughput; p != nil {
		c.throughput(p)
	}
	if p := spec.Kill; p != nil {
		c.node("kill.agent", p.Agent)
		c.endpoint("kill.from", p.From)
		c.target("kill.to", p.To)
		c.expect("kill.expect", p.Expect)
		if v.noNetwork() {
			c.problem("kill", "a lab without network has no agents", "")
		}
	}
	if p := spec.Capture; p != nil {
		c.capture(p)
	}
	if p := spec.Policy; p != nil && !p.All {
		c.container("policy.from", p.From)
		c.container("policy.to", p.To)
		c.expect("policy.expect", p.Expect)
		if p.Port == "" {
			c.missing("policy.port", "port: tcp/80")
		} else if _, _, err := ParsePort(p.Port); err != nil {
			c.problem("policy.port", err.Error(), "for example port: tcp/80")
		}
	}
	if p := spec.Blackout; p != nil {
		c.endpoint("blackout.from", p.From)
		c.endpoint("blackout.to", p.To)
		switch {
		case p.Most == 0:
			c.missing("blackout.most", "most: 200ms")
		case p.Least < 0 || p.Most < p.Least:
			c.problem("blackout.most", fmt.Sprintf("no time is between %v and %v", p.Least, p.Most), "most: 200ms")
		}
		if len(v.Faults) == 0 && !v.bad("faults") {
			c.problem("blackout", "there are no faults to play", "add faults: [{at: 1s, do: kill etcd}]")
		}
	}
	if p := spec.Store; p != nil {
		if v.noNetwork() {
			c.problem("store", "a lab without network has no store", "")
		}
		if p.Prefix == "" {
			c.missing("store.prefix", "prefix: /coreos.com/network/subnets/")
		}
		c.text("store.prefix", p.Prefix)
		c.regexp("store.match", p.Match)
		c.regexp("store.not", p.Not)
		c.natural("store.keys", p.Keys)
	}
}

func (c checkScope) count(p *CountCheck) {
	c.node("count.in", p.In)
	switch {
	case p.Dev == "":
		c.missing("count.dev", "dev: flannel.1")
	case !deviceName().MatchString(p.Dev):
		c.problem("count.dev", fmt.Sprintf("%s is not a device name", quote(p.Dev)), "")
	}
	if p.Routes == nil && p.Neighbours == nil && p.FDB == nil && !c.bad(c.path+".count") {
		c.problem("count", "nothing to count", "add routes, neighbours or fdb")
	}
	c.natural("count.routes", p.Routes)
	c.natural("count.neighbours", p.Neighbours)
	c.natural("count.fdb", p.FDB)
}

func (c checkScope) throughput(p *ThroughputCheck) {
	c.endpoint("throughput.from", p.From)
	c.endpoint("throughput.to", p.To)
	if p.From != "" && p.From == p.To {
		c.problem("throughput.to", quote(p.To)+" is the sender, too", "")
	}
	if p.Than != nil {
		c.endpoint("throughput.than.from", p.Than.From)
		c.endpoint("throughput.than.to", p.Than.To)
	}
	switch {
	case p.Least < 0:
		c.problem("throughput.least", fmt.Sprintf("%v is less than nothing", p.Least), "least: 0.3")
	case p.Mbit < 0:
		c.problem("throughput.mbit", fmt.Sprintf("%v is less than nothing", p.Mbit), "mbit: 10")
	case (p.Than == nil) != (p.Least == 0):
		c.problem("throughput", "than and least belong together: how many times as much as which path", "than: {from: node1, to: node2}, least: 0.3")
	case p.Least == 0 && p.Mbit == 0 && !c.bad(c.path+".throughput"):
		c.problem("throughput", "nothing to compare with", "add than and least, or mbit")
	}
}

// node checks a reference to a host.
func (c checkScope) node(key, ref string) {
	switch {
	case ref == "":
		c.missing(key, key[strings.LastIndexByte(key, '.')+1:]+": "+c.someNode())
	case c.names[ref] != "node":
		c.problem(key, fmt.Sprintf("%s is not a node", quote(ref)), choose(ref, c.nodeNames()))
	}
}

func (c checkScope) capture(p *CaptureCheck) {
	endpoint, device, ok := strings.Cut(p.On, ":")
	switch {
	case p.On == "":
		c.missing("capture.on", "on: "+c.someNode()+":eth0")
	case !ok || !deviceName().MatchString(device):
		c.problem("capture.on", fmt.Sprintf("%s is not an interface of an endpoint", quote(p.On)), "on: "+c.someNode()+":eth0")
	default:
		c.place("capture.on", endpoint)
	}
	c.endpoint("capture.from", p.From)
	c.target("capture.to", p.To)
	c.regexp("capture.match", p.Match)
	c.regexp("capture.not", p.Not)
	if p.Match == "" && p.Not == "" && !c.bad(c.path+".capture") {
		c.problem("capture", "nothing to look for", "add match or not")
	}
}

func (c checkScope) natural(key string, n *int) {
	if n != nil && *n < 0 {
		c.problem(key, fmt.Sprintf("%d is less than nothing", *n), "use 0 or more")
	}
}

func (c checkScope) missing(key, example string) {
	if !c.bad(join(c.path, key)) {
		c.problem(key, strings.ReplaceAll(key, ".", ": ")+" missing", "add "+example)
	}
}

// endpoint checks a reference to something that has an address and a namespace.
func (c checkScope) endpoint(key, ref string) {
	if ref == "" {
		c.missing(key, key[strings.LastIndexByte(key, '.')+1:]+": "+c.someNode())
		return
	}
	if !c.isEndpoint(ref) {
		c.problem(key, fmt.Sprintf("endpoint %s is unknown", quote(ref)), c.chooseEndpoint(ref))
	}
}

// container checks a reference to a container.
func (c checkScope) container(key, ref string) {
	c.endpoint(key, ref)
	if c.isEndpoint(ref) && !strings.Contains(ref, ".") {
		c.problem(key, fmt.Sprintf("%s is not a container", quote(ref)), "")
	}
}

// place is endpoint with segments, where commands can run too.
func (c checkScope) place(key, ref string) {
	if c.names[ref] != "segment" {
		c.endpoint(key, ref)
	}
}

// target is an endpoint, an address, or has placeholders.
func (c checkScope) target(key, ref string) {
	switch {
	case strings.Contains(ref, "${"):
		c.text(key, ref)
	case isAddress(ref):
	default:
		c.endpoint(key, ref)
	}
}

func (c checkScope) url(key, text string) {
	if text == "" {
		c.missing(key, "url: http://${node2.ip}:8080/")
		return
	}
	plain, err := Expand(text, c.value)
	if err != nil {
		c.text(key, text)
		return
	}
	u, err := url.Parse(plain)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" {
		c.problem(key, fmt.Sprintf("%s is not a URL that labctl fetches", quote(text)), "write http://HOST:PORT/, HOST an address or ${node2.ip}")
		return
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil {
		c.problem(key, fmt.Sprintf("host %s is a name, and a lab has no DNS", quote(u.Hostname())), "use an address or ${node2.ip}")
	}
}

func (c checkScope) expect(key string, e Expect) {
	if e != "" && e != ExpectOK && e != ExpectFail {
		c.problem(key, fmt.Sprintf("%s is neither ok nor fail", quote(string(e))), "")
	}
}

func (c checkScope) text(key, text string) {
	if _, err := Expand(text, c.value); err != nil {
		message, hint, _ := strings.Cut(err.Error(), "; ")
		c.problem(key, message, hint)
	}
}

func (c checkScope) regexp(key, expr string) {
	c.text(key, expr)
	if _, err := Expand(expr, c.value); err != nil {
		return
	}
	if _, err := ExpandRegexp(expr, c.value); err != nil {
		c.problem(key, fmt.Sprintf("%s is not a regular expression: %v", quote(expr), clipText(err.Error())), "the syntax is that of https://pkg.go.dev/regexp/syntax")
	}
}

// value stands in for the running lab: a value of the right form for each
// placeholder that makes sense, an error with a hint for any other.
func (c checkScope) value(p Placeholder) (string, error) {
	kind := c.names[p.Endpoint]
	var values []string
	switch {
	case p.Endpoint == "":
		if p.Value == "lab" {
			return c.Name, nil
		}
		return "", fmt.Errorf("${%s} is unknown; write ${lab} or ${ENDPOINT.ip}, and $${ for a plain ${", clipText(p.Value))
	case kind == "node":
		values = nodeValues()
	case !c.isEndpoint(p.Endpoint):
		return "", fmt.Errorf("${%s}: endpoint %s is unknown; %s", clipText(p.String()), quote(p.Endpoint), c.chooseEndpoint(p.Endpoint))
	default:
		values = []string{"ip"}
	}
	if !slices.Contains(values, p.Value) {
		return "", fmt.Errorf("${%s} is unknown; %s has %s", clipText(p.String()), p.Endpoint, strings.Join(values, ", "))
	}
	if c.noNetwork() && (p.Value == "vtepmac" || p.Value == "subnetfile" || p.Value == "key") {
		return "", fmt.Errorf("${%s}: a lab without network has no such value; remove it", p)
	}
	return "192.0.2.1", nil
}

func (c checkScope) isEndpoint(ref string) bool {
	node, container, ok := strings.Cut(ref, ".")
	if !ok {
		switch ref {
		case "etcd":
			return c.etcd != "" || c.bad("network")
		case "internet":
			return c.Internet != nil || c.bad("internet")
		}
		return c.names[ref] == "node" || c.names[ref] == "router"
	}
	for _, n := range c.Nodes {
		if n.Name == node {
			return slices.ContainsFunc(containersOf(n), func(s ContainerSpec) bool { return s.Name == container })
		}
	}
	return false
}

func (c checkScope) chooseEndpoint(ref string) string {
	if node, _, ok := strings.Cut(ref, "."); ok && c.names[node] == "node" {
		for _, n := range c.Nodes {
			if n.Name != node {
				continue
			}
			var names []string
			for _, s := range containersOf(n) {
				names = append(names, node+"."+s.Name)
			}
			return choose(ref, names)
		}
	}
	return choose(ref, c.nodeNames())
}

func (c checkScope) nodeNames() []string {
	var names []string
	for _, n := range c.Nodes {
		names = append(names, n.Name)
	}
	return names
}

func (c checkScope) someNode() string {
	if len(c.Nodes) > 0 {
		return c.Nodes[0].Name
	}
	return "node1"
}
