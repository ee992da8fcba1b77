package backends

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// DefaultBackendType is what flannel runs when the config has no Backend. Its
// documentation says vxlan; its code says udp.
const DefaultBackendType = "udp"

// Network is flannel's network config, the value of <prefix>/config, with the
// defaults filled in.
type Network struct {
	Pool                // IPv4's; zero when EnableIPv4 is false
	IPv6           Pool // zero when EnableIPv6 is false
	EnableIPv4     bool
	EnableIPv6     bool
	EnableNFTables bool
	// Backend is the Backend object as it was written, Type included; nil when
	// the config has none. Its options are the backend's own to parse.
	Backend     json.RawMessage
	BackendType string // lower case
}

// ConfigError says which field of a network config is wrong, and the cure.
type ConfigError struct {
	Field string // Network, SubnetLen, Backend.Type ...; "" for the whole
	Text  string
	Hint  string
}

func (e *ConfigError) Error() string {
	s := "network config: "
	if e.Field != "" {
		s += e.Field + ": "
	}
	s += e.Text
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// networkJSON is the config as it is stored. encoding/json compares keys
// without regard to case and ignores unknown ones, which is flannel's contract.
type networkJSON struct {
	EnableNFTables bool
	EnableIPv4     *bool
	EnableIPv6     bool
	Network        string
	SubnetLen      uint
	SubnetMin      string
	SubnetMax      string
	IPv6Network    string
	IPv6SubnetLen  uint
	IPv6SubnetMin  string
	IPv6SubnetMax  string
	Backend        json.RawMessage
}

// ParseNetwork reads a network config, fills in flannel's defaults and checks
// what flannel checks. The error is a *ConfigError. Dual stack parses; see
// [Network.Supported].
func ParseNetwork(data []byte) (Network, error) {
	var j networkJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return Network{}, jsonError("", err)
	}
	n := Network{
		EnableIPv4:     j.EnableIPv4 == nil || *j.EnableIPv4,
		EnableIPv6:     j.EnableIPv6,
		EnableNFTables: j.EnableNFTables,
	}
	if !n.EnableIPv4 && !n.EnableIPv6 {
		return Network{}, &ConfigError{
			Field: "EnableIPv4", Text: "both address families are off",
			Hint: "leave EnableIPv4 out, or set it to true",
		}
	}
	var err error
	if n.EnableIPv4 {
		if n.Pool, err = parsePool(ipv4Fields(), j.Network, j.SubnetLen, j.SubnetMin, j.SubnetMax); err != nil {
			return Network{}, err
		}
	}
	if n.EnableIPv6 {
		if n.IPv6, err = parsePool(ipv6Fields(), j.IPv6Network, j.IPv6SubnetLen, j.IPv6SubnetMin, j.IPv6SubnetMax); err != nil {
			return Network{}, err
		}
	}
	if n.Backend, n.BackendType, err = parseBackend(j.Backend); err != nil {
		return Network{}, err
	}
	return n, nil
}

// Supported reports whether labctl can take a lease in the network: IPv4 only,
// so far. A dual-stack key in a network with IPv4-only daemons makes those
// panic, so this is checked before anything is written.
func (n Network) Supported() error {
	switch {
	case n.EnableIPv6 && n.EnableIPv4:
		return &ConfigError{Field: "EnableIPv6", Text: "dual stack is not supported yet", Hint: "remove EnableIPv6 and IPv6Network"}
	case n.EnableIPv6:
		return &ConfigError{Field: "EnableIPv6", Text: "IPv6 without IPv4 is not supported yet", Hint: "remove EnableIPv4 and EnableIPv6, and give an IPv4 Network"}
	}
	return nil
}

func parseBackend(raw json.RawMessage) (json.RawMessage, string, error) {
	if len(raw) == 0 {
		return nil, DefaultBackendType, nil
	}
	var b struct{ Type string }
	if err := ParseOptions(raw, &b); err != nil {
		return nil, "", err
	}
	if b.Type == "" {
		return nil, "", &ConfigError{Field: "Backend.Type", Text: "missing", Hint: `write {"Type": "vxlan"}, or leave Backend out for flannel's default, ` + DefaultBackendType}
	}
	return bytes.Clone(raw), strings.ToLower(b.Type), nil
}

// ParseOptions reads a backend's options out of the Backend object, over the
// defaults that are in into, a pointer to a struct. Keys are compared without
// regard to case and unknown ones are ignored, as flannel does; no object at
// all leaves the defaults. The error is a *ConfigError.
func ParseOptions(options json.RawMessage, into any) error {
	if len(options) == 0 {
		return nil
	}
	if err := json.Unmarshal(options, into); err != nil {
		return jsonError("Backend", err)
	}
	return nil
}

// jsonError words what encoding/json says for a person. at is the field that
// was read, "" for the whole config.
func jsonError(at string, err error) error {
	const hint = `write {"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`
	t, ok := errors.AsType[*json.UnmarshalTypeError](err)
	switch {
	case !ok:
		return &ConfigError{Field: at, Text: "not JSON: " + err.Error(), Hint: hint}
	case t.Field == "":
		return &ConfigError{Field: at, Text: "a JSON " + t.Value + ", not an object", Hint: hint}
	case at != "":
		at += "."
	}
	return &ConfigError{Field: at + t.Field, Text: fmt.Sprintf("a JSON %s, want %s", t.Value, jsonKind(t))}
}

func jsonKind(t *json.UnmarshalTypeError) string {
	switch t.Type.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Uint:
		return "a whole number, 0 or more"
	case reflect.String:
		return "text"
	}
	return t.Type.String()
}
