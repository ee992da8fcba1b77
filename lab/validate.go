package lab

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Limits, so that a file from anywhere makes neither labctl nor the kernel
// fall over.
const (
	maxSegments   = 250    // a MAC has one byte for the segment
	maxRouters    = 250    //
	maxNodes      = 1000   //
	maxContainers = 1000   // of one node; a bridge has 1023 ports (BR_PORT_BITS)
	maxAll        = 10_000 // containers of the lab
	maxPorts      = 1023   // of a segment's bridge
	maxServe      = 64     // listeners of one container
	maxChecks     = 1000
)

var (
	labName      = pattern(`^[a-z][a-z0-9-]{0,30}$`)
	endpointName = pattern(`^[a-z][a-z0-9-]{0,14}$`)
	deviceName   = pattern(`^[A-Za-z][A-Za-z0-9_.-]{0,14}$`)
)

// pattern is a regular expression that is compiled when it is first needed: all
// processes of a lab have them, and few look at names.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// validator checks what a Spec means. Its problems carry the path of the value
// that is wrong.
type validator struct {
	*report
	*layout
	names map[string]string // endpoints and segments -> "node", "router", ...
}

// validate reports everything that makes a spec impossible to plan.
func validate(s *Spec, r *report) {
	v := &validator{report: r, layout: newLayout(s), names: map[string]string{}}
	v.lab()
	v.nameAll()
	v.checkNetwork()
	v.checkCalico()
	for _, seg := range s.Segments {
		v.segment(seg)
	}
	v.checkManagement()
	v.overlaps()
	for _, rt := range s.Routers {
		v.router(rt)
	}
	v.checkInternet()
	v.checkEtcd()
	if len(s.Nodes) == 0 && !r.bad("nodes") {
		v.add("nodes", "nodes: missing", "add nodes: 3")
	}
	total := 0
	for _, n := range s.Nodes {
		v.node(n)
		total += len(containersOf(n))
	}
	if total > maxAll {
		v.add("nodes", fmt.Sprintf("nodes: %d containers, more than the %d that a lab may have", total, maxAll), "")
	}
	v.addresses()
	v.subnets()
	v.connected()
	v.policies()
	v.checks()
	v.faults()
}

func (v *validator) lab() {
	switch {
	case v.bad("name"):
	case v.Name == "":
		v.add("name", "name: missing", "add name: "+suggestName(v.About)+" (the file's own name does not fit)")
	case !labName().MatchString(v.Name):
		v.add("name", fmt.Sprintf("name: %s is not a lab name", quote(v.Name)),
			"use a lower case letter, then at most 30 lower case letters, digits and dashes")
	}
	if strings.ContainsAny(strings.TrimSpace(v.About), "\n\r") {
		v.add("about", "about: more than one line", "say it in one sentence; put the rest in comments")
	}
	switch ttl := v.LeaseTTL; {
	case v.bad("leaseTTL") || ttl == 0 && v.positions["leaseTTL"].value == position{}:
	case !v.hasNetwork():
		v.add("leaseTTL", "leaseTTL: there are no leases in a lab without network", "remove it")
	case v.calico != nil:
		v.add("leaseTTL", "leaseTTL: Calico's blocks are no leases: a host has them until it leaves", "remove it")
	case ttl < 2*time.Second:
		v.add("leaseTTL", fmt.Sprintf("leaseTTL: %v is too short to keep alive", ttl), "use 2s or more")
	case ttl > 365*24*time.Hour:
		v.add("leaseTTL", fmt.Sprintf("leaseTTL: %v is longer than a year", ttl), "flannel's own is 24h")
	case ttl%time.Second != 0:
		v.add("leaseTTL", fmt.Sprintf("leaseTTL: %v is not in whole seconds", ttl), "etcd counts in seconds")
	}
	if n := len(v.Checks); n > maxChecks {
		v.add("checks", fmt.Sprintf("checks: %d checks, more than the %d that a lab may have", n, maxChecks), "")
	}
}

func suggestName(about string) string {
	var b strings.Builder
	for _, word := range strings.Fields(strings.ToLower(about)) {
		if endpointName().MatchString(word) && b.Len()+len(word) < 20 {
			if b.Len() > 0 {
				b.WriteByte('-')
			}
			b.WriteString(word)
		}
		if b.Len() > 12 {
			break
		}
	}
	if b.Len() == 0 {
		return "my-lab"
	}
	return b.String()
}

// nameAll checks the names that share one set.
func (v *validator) nameAll() {
	v.names["etcd"] = "the store"
	v.names["internet"] = "the outside world"
	for _, s := range v.Segments {
		v.name(join("segments", s.Name), s.Name, "segment")
	}
	for _, r := range v.Routers {
		v.name(join("routers", r.Name), r.Name, "router")
	}
	for _, n := range v.Nodes {
		v.name(join("nodes", n.Name), n.Name, "node")
	}
	if v.Internet != nil && len(v.Routers) == 0 {
		if kind, taken := v.names[gateway]; taken {
			v.add("internet", fmt.Sprintf("internet: needs a router named %s, but that is a %s", gateway, kind), "rename it, or add routers of your own")
		} else {
			v.names[gateway] = "router"
		}
	}
}

func (v *validator) name(path, name, kind string) {
	if taken, ok := v.names[name]; ok {
		hint := "rename one: nodes, segments and routers share one set of names"
		if name == "etcd" || name == "internet" {
			hint = "choose another name"
		}
		v.add(path, fmt.Sprintf("%s %s: the name is already %s", kind, name, article(taken)), hint)
		return
	}
	switch {
	case !endpointName().MatchString(name):
		v.add(path, fmt.Sprintf("%s %s: not a possible name", kind, quote(name)),
			"use a lower case letter, then at most 14 lower case letters, digits and dashes")
	case reserved(name):
		v.add(path, fmt.Sprintf("%s %s: the name is the kernel's own", kind, name), "choose another name")
	}
	v.names[name] = kind
}

// reserved are names that an endpoint's port cannot have in the namespace of
// its segment: two devices, and two that the kernel keeps for sysctls
// (net/ipv4/conf/all).
func reserved(name string) bool {
	switch name {
	case "lo", "br0", "all", "default":
		return true
	}
	return false
}

func article(kind string) string {
	if strings.HasPrefix(kind, "the ") {
		return kind
	}
	return "a " + kind + "'s"
}

// subnet checks a subnet that hosts are to stand in, and says whether it can
// be used. Problems begin with object.
func (v *validator) subnet(path, object string, p netip.Prefix) bool {
	switch {
	case v.bad(path):
	case !p.IsValid():
		v.add(path, object+": subnet missing", "add subnet: 192.168.50.0/24")
	case !p.Addr().Is4():
		v.add(path, fmt.Sprintf("%s: subnet %s is not IPv4, the only family built yet", object, p), "use a subnet such as 192.168.50.0/24")
	case p != p.Masked():
		v.add(path, fmt.Sprintf("%s: subnet %s has host bits set", object, p), "write "+p.Masked().String())
	case p.Bits() > 30:
		v.add(path, fmt.Sprintf("%s: subnet %s has no room for two hosts", object, p), "use a /30 or a bigger subnet")
	case p.Bits() < 4 || special(p):
		v.add(path, fmt.Sprintf("%s: subnet %s is not for hosts", object, p), "use one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16")
	default:
		return true
	}
	return false
}

// special says whether a prefix has addresses that hosts cannot have.
func special(p netip.Prefix) bool {
	for _, s := range []string{"0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"} {
		if p.Overlaps(netip.MustParsePrefix(s)) {
			return true
		}
	}
	return false
}
