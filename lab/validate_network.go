package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"labctl/backends"
	"labctl/backends/catalogue"
	"labctl/nodes"
)

// backendTypes are the valid values of Backend.Type, for hints.
func backendTypes() string {
	var types []string
	for _, info := range catalogue.All() {
		types = append(types, info.Type)
	}
	return strings.Join(types, ", ")
}

// containerMTU is what the backend leaves of a segment's MTU.
func containerMTU(n *backends.Network, mtu int) (int, error) {
	b, err := catalogue.New(*n)
	if err != nil {
		return 0, err
	}
	return b.MTU(nodes.Underlay{MTU: mtu}), nil
}

// checkNetwork validates flannel's network config and its backend's options.
func (v *validator) checkNetwork() {
	if len(v.Network) == 0 {
		return
	}
	if v.networkErr != nil {
		v.configError("network", "network", v.networkErr)
		return
	}
	if special(v.network.Pool.Network) {
		v.add(v.networkPath("Network"), fmt.Sprintf("network: %s is not for hosts", v.network.Pool.Network), "use one such as 10.244.0.0/16")
	}
	known := false
	for _, info := range catalogue.All() {
		known = known || info.Type == v.network.BackendType
	}
	if !known {
		t := v.network.BackendType
		message := fmt.Sprintf("network: Backend.Type %s is unknown", quote(t))
		hint := "the types are " + backendTypes()
		if near := Nearest(t, strings.Split(backendTypes(), ", ")); near != "" {
			hint = "did you mean " + near + "? " + hint
		}
		v.add(v.networkPath("Backend.Type"), message, hint)
		return
	}
	if _, err := catalogue.New(*v.network); err != nil {
		v.configError("network.Backend", "network: Backend", err)
	}
}

// configError reports what package backends says, at the field it names.
func (v *validator) configError(path, object string, err error) {
	c, ok := errors.AsType[*backends.ConfigError](err)
	if !ok { // a backend's: OPTION: what; how to mend it
		field := strings.TrimPrefix(strings.TrimPrefix(path, "network"), ".")
		text := strings.TrimPrefix(err.Error(), "backend "+v.network.BackendType+": ")
		if option, _, ok := strings.Cut(text, ":"); ok && !strings.Contains(option, " ") {
			field = join(field, option)
		}
		message, hint, _ := strings.Cut(text, "; ")
		v.add(v.networkPath(field), object+": "+clipText(message), hint)
		return
	}
	if c.Field != "" {
		object = "network: " + c.Field
	}
	v.add(v.networkPath(c.Field), object+": "+c.Text, c.Hint)
}

// networkPath is the path of a field of the network config as the author
// wrote it: flannel does not mind the case of keys.
func (v *validator) networkPath(field string) string {
	path := join("network", field)
	if field == "" {
		return "network"
	}
	for p := range v.positions {
		if strings.EqualFold(p, path) {
			return p
		}
	}
	if i := strings.LastIndexByte(field, '.'); i >= 0 {
		return v.networkPath(field[:i])
	}
	return path
}

// subnets checks that the nodes' subnets fit the network and one another.
func (v *validator) subnets() {
	if v.network == nil || v.network.SubnetLen < 1 {
		return
	}
	pool := v.network.Pool
	size := 1 << (32 - pool.SubnetLen)
	low, high := hostNumber(pool.Network, pool.SubnetMin), hostNumber(pool.Network, pool.SubnetMax)
	if count := (high-low)/size + 1; len(v.Nodes) > count {
		v.add(v.networkPath("Network"), fmt.Sprintf("network: subnets exhausted: %d nodes need one each, %s has %d of length %d from %s to %s",
			len(v.Nodes), pool.Network, max(count, 0), pool.SubnetLen, pool.SubnetMin, pool.SubnetMax),
			"use a bigger Network, a longer SubnetLen or fewer nodes")
	}
	owner := map[netip.Prefix]string{}
	for _, n := range v.Nodes {
		path := join("nodes", n.Name) + ".subnet"
		p := n.Subnet
		if !p.IsValid() || v.bad(path) {
			continue
		}
		switch {
		case !pool.Network.Overlaps(p) || p.Bits() < pool.Network.Bits():
			v.add(path, fmt.Sprintf("%s: subnet %s is outside the network %s", n.Name, p, pool.Network), "take one between "+bounds(pool))
		case p.Bits() != pool.SubnetLen:
			v.add(path, fmt.Sprintf("%s: subnet %s is not of the network's SubnetLen", n.Name, p), fmt.Sprintf("write %s/%d", p.Addr(), pool.SubnetLen))
		case p.Addr().Less(pool.SubnetMin) || pool.SubnetMax.Less(p.Addr()):
			v.add(path, fmt.Sprintf("%s: subnet %s is not between SubnetMin %s and SubnetMax %s", n.Name, p, pool.SubnetMin, pool.SubnetMax), "take one between "+bounds(pool))
		case owner[p] != "":
			v.add(path, fmt.Sprintf("%s: subnet %s is already %s's", n.Name, p, owner[p]), "each node has a subnet of its own")
		default:
			owner[p] = n.Name
		}
	}
}

func bounds(p backends.Pool) string {
	return fmt.Sprintf("%s/%d and %s/%d", p.SubnetMin, p.SubnetLen, p.SubnetMax, p.SubnetLen)
}
