package backends

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// SubnetEnv is subnet.env, the file by which flannel tells what comes after it
// (Docker, a CNI plugin) what it may use.
type SubnetEnv struct {
	Network     netip.Prefix // the whole network
	Subnet      netip.Prefix // with the first address of the host's subnet, the bridge's: 10.1.74.1/24
	IPv6Network netip.Prefix // zero without IPv6
	IPv6Subnet  netip.Prefix
	MTU         int
	IPMasq      bool
}

// NewSubnetEnv is the file for a lease.
func NewSubnetEnv(n Network, l Lease, mtu int, ipMasq bool) SubnetEnv {
	return SubnetEnv{
		Network: n.Network, MTU: mtu, IPMasq: ipMasq,
		Subnet: netip.PrefixFrom(l.Subnet.Addr().Next(), l.Subnet.Bits()),
	}
}

// Previous is the subnet that the file speaks of, for Request.Previous.
func (e SubnetEnv) Previous() netip.Prefix { return e.Subnet.Masked() }

// String is the file's text, line by line as flannel writes it.
func (e SubnetEnv) String() string {
	var b strings.Builder
	if e.Network.IsValid() {
		fmt.Fprintf(&b, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\n", e.Network, e.Subnet)
	}
	if e.IPv6Network.IsValid() {
		fmt.Fprintf(&b, "FLANNEL_IPV6_NETWORK=%s\nFLANNEL_IPV6_SUBNET=%s\n", e.IPv6Network, e.IPv6Subnet)
	}
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", e.MTU, e.IPMasq)
	return b.String()
}

// WriteSubnetEnv replaces the file at once, so that no reader sees half of
// it, and makes its directory.
func WriteSubnetEnv(path string, e SubnetEnv) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("subnet file: %w", err)
	}
	f, err := os.CreateTemp(dir, ".subnet.env-*")
	if err != nil {
		return fmt.Errorf("subnet file: %w", err)
	}
	_, werr := f.WriteString(e.String())
	err = errors.Join(werr, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("subnet file: %w", err)
	}
	return nil
}

// ReadSubnetEnv reads the file for what can be understood of it: lines that
// cannot are left out, as flannel does. A file that is not there is the zero
// SubnetEnv.
func ReadSubnetEnv(path string) (SubnetEnv, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return SubnetEnv{}, nil
	}
	if err != nil {
		return SubnetEnv{}, fmt.Errorf("subnet file: %w", err)
	}
	return ParseSubnetEnv(string(data)), nil
}

// ParseSubnetEnv is ReadSubnetEnv without the file.
func ParseSubnetEnv(text string) SubnetEnv {
	var e SubnetEnv
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		value = strings.Trim(strings.TrimSpace(value), `"'`)
		switch strings.TrimSpace(name) {
		case "FLANNEL_NETWORK":
			e.Network = prefixOrZero(value, false)
		case "FLANNEL_SUBNET":
			e.Subnet = prefixOrZero(value, false)
		case "FLANNEL_IPV6_NETWORK":
			e.IPv6Network = prefixOrZero(value, true)
		case "FLANNEL_IPV6_SUBNET":
			e.IPv6Subnet = prefixOrZero(value, true)
		case "FLANNEL_MTU":
			if n, err := strconv.Atoi(value); err == nil && n > 0 {
				e.MTU = n
			}
		case "FLANNEL_IPMASQ":
			e.IPMasq = value == "true"
		}
	}
	return e
}

// prefixOrZero also gives the zero Prefix for several prefixes with commas
// between, which flannel ignores too: which one would be meant?
func prefixOrZero(s string, v6 bool) netip.Prefix {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is6() != v6 || p.Addr().Is4In6() {
		return netip.Prefix{}
	}
	return p
}
