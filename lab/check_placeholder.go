package lab

import (
	"regexp"
	"strings"
)

// Placeholder is a ${...} of a check: a value that is known only once the lab
// runs. The forms are
//
//	lab                 the lab's name
//	ENDPOINT.ip         address of a node, router (first interface), etcd, internet,
//	                    or container (node2.c1.ip)
//	NODE.mac            MAC of the node's eth0
//	NODE.subnet         containers' subnet, 10.244.35.0/24
//	NODE.base           the subnet's network address, 10.244.35.0
//	NODE.key            the subnet as etcd's key has it, 10.244.35.0-24
//	NODE.gateway        the bridge's address, 10.244.35.1
//	NODE.vtepmac        MAC of flannel's VXLAN device
//	NODE.subnetfile     path of the node's subnet.env
type Placeholder struct {
	Endpoint string // "" for lab
	Value    string // lab, ip, subnet ...
}

// String is what stands between the braces.
func (p Placeholder) String() string {
	if p.Endpoint == "" {
		return p.Value
	}
	return p.Endpoint + "." + p.Value
}

// nodeValues are what a placeholder can ask of a node.
func nodeValues() []string {
	return []string{"ip", "mac", "subnet", "base", "key", "gateway", "vtepmac", "subnetfile"}
}

// placeholder finds ${...}, and $${ which stands for a plain ${.
var placeholder = pattern(`\$?\$\{([^{}]*)\}`)

// Placeholders are the ${...} of a text, in order.
func Placeholders(text string) []Placeholder {
	var found []Placeholder
	for _, m := range placeholder().FindAllStringSubmatch(text, -1) {
		if !strings.HasPrefix(m[0], "$$") {
			found = append(found, parsePlaceholder(m[1]))
		}
	}
	return found
}

func parsePlaceholder(s string) Placeholder {
	if i := strings.LastIndexByte(s, '.'); i >= 0 {
		return Placeholder{Endpoint: s[:i], Value: s[i+1:]}
	}
	return Placeholder{Value: s}
}

// Expand puts values in the place of a text's ${...}, and ${ in the place of
// $${. It stops at the first error of value.
func Expand(text string, value func(Placeholder) (string, error)) (string, error) {
	return expand(text, value, func(s string) string { return s })
}

// ExpandRegexp is Expand followed by compilation, in multi-line mode: values
// stand for themselves, whatever characters they have.
func ExpandRegexp(expr string, value func(Placeholder) (string, error)) (*regexp.Regexp, error) {
	expanded, err := expand(expr, value, regexp.QuoteMeta)
	if err != nil {
		return nil, err
	}
	return regexp.Compile("(?m)" + expanded)
}

func expand(text string, value func(Placeholder) (string, error), quote func(string) string) (string, error) {
	var err error
	expanded := placeholder().ReplaceAllStringFunc(text, func(found string) string {
		inner, escaped := strings.CutPrefix(found, "$$")
		if escaped {
			return "$" + inner
		}
		if err != nil {
			return ""
		}
		var v string
		v, err = value(parsePlaceholder(strings.TrimSuffix(strings.TrimPrefix(found, "${"), "}")))
		return quote(v)
	})
	if err != nil {
		return "", err
	}
	return expanded, nil
}
