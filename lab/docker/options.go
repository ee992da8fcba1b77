package docker

import (
	"fmt"
	"net/netip"
	"strings"
)

// Options are what dockerd is started with. Each is empty when subnet.env does
// not tell it.
type Options struct {
	BIP    string // --bip=10.1.74.1/24
	IPMasq string // --ip-masq=true
	MTU    string // --mtu=1472
	// Subnet is the host's, that of BIP; zero when that is no IPv4 prefix.
	Subnet netip.Prefix
}

// Parse reads the text of a subnet.env. A value of FLANNEL_IPMASQ other than
// true and false is an error, and so is a value that would be more than text in
// an environment file, which a shell may read.
func Parse(text string) (Options, error) {
	values := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			values[name] = strings.Trim(value, `"'`)
		}
	}
	for _, name := range []string{"FLANNEL_SUBNET", "FLANNEL_MTU"} {
		if v := values[name]; strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || strings.ContainsRune("\"\\$`", r) }) {
			return Options{}, fmt.Errorf("%s=%q: not a value of flannel's", name, v)
		}
	}
	var o Options
	if v := values["FLANNEL_SUBNET"]; v != "" {
		o.BIP = "--bip=" + v
		if p, err := netip.ParsePrefix(v); err == nil && p.Addr().Is4() {
			o.Subnet = p.Masked()
		}
	}
	if v := values["FLANNEL_MTU"]; v != "" {
		o.MTU = "--mtu=" + v
	}
	switch v := values["FLANNEL_IPMASQ"]; v {
	case "":
	case "true":
		o.IPMasq = "--ip-masq=false"
	case "false":
		o.IPMasq = "--ip-masq=true"
	default:
		return Options{}, fmt.Errorf("FLANNEL_IPMASQ=%s: want true or false", v)
	}
	return o, nil
}

// Format is how Options are written.
type Format struct {
	Individual bool   // DOCKER_OPT_MTU="--mtu=1472" and so on
	Combined   bool   // all in one variable
	Key        string // the name of that
	Before     string // what that says already, which stays in front
}

// Text is the options as an environment file, in the alphabet's order.
func (o Options) Text(f Format) string {
	var b strings.Builder
	combined := f.Before
	if combined != "" {
		combined += " "
	}
	for _, v := range []struct{ name, value string }{{"BIP", o.BIP}, {"IPMASQ", o.IPMasq}, {"MTU", o.MTU}} {
		if v.value == "" {
			continue
		}
		if f.Individual {
			fmt.Fprintf(&b, "DOCKER_OPT_%s=\"%s\"\n", v.name, v.value)
		}
		combined += " " + v.value
	}
	if f.Combined {
		fmt.Fprintf(&b, "%s=\"%s\"\n", f.Key, combined)
	}
	return b.String()
}
