package agent

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"labctl/nodes"
)

// Choice is how the underlay is chosen, in flannel's order: each of Ifaces,
// each of Regexes, CanReach; the first that fits. Without any of them it is
// the device with PublicIP, or that of the default route.
type Choice struct {
	Ifaces   []string // names or addresses
	Regexes  []*regexp.Regexp
	CanReach netip.Addr
	// PublicIP is the address that peers are told. It must be the device's own:
	// peers send to it, and it is the source of what they get.
	PublicIP netip.Addr
}

// ChoiceError says why no device was chosen, and what there is.
type ChoiceError struct {
	What, Cure string
}

func (e *ChoiceError) Error() string { return "underlay: " + e.What }

// routing is what the kernel knows of ways out.
type routing interface {
	DefaultDevice() (string, error)
	RouteTo(netip.Addr) (dev string, src, via netip.Addr, err error)
}

// find chooses among the devices of a namespace.
func (c Choice) find(ns *nodes.Namespace) (nodes.Underlay, error) {
	devices, err := ns.Devices()
	if err != nil {
		return nodes.Underlay{}, err
	}
	return c.among(devices, ns)
}

func (c Choice) among(devices []nodes.Device, r routing) (nodes.Underlay, error) {
	dev, addr, err := c.device(devices, r)
	if err != nil {
		return nodes.Underlay{}, err
	}
	if c.PublicIP.IsValid() {
		// With an interface named, flannel lets this be any address, and sends
		// from one that the host does not have.
		addr = c.PublicIP
	}
	if !addr.IsValid() && len(dev.Addrs) > 0 {
		addr = dev.Addrs[0].Addr()
	}
	if !addr.IsValid() {
		return nodes.Underlay{}, &ChoiceError{dev.Name + " has no IPv4 address", "give it one, or choose another with --iface: " + describe(devices)}
	}
	own := slices.IndexFunc(dev.Addrs, func(p netip.Prefix) bool { return p.Addr() == addr })
	if own < 0 {
		return nodes.Underlay{}, notOwn(addr, dev.Name, devices)
	}
	if dev.MTU == 0 {
		return nodes.Underlay{}, &ChoiceError{dev.Name + " has no MTU", "choose another with --iface: " + describe(devices)}
	}
	return nodes.Underlay{Dev: dev.Name, Addr: addr, Prefix: dev.Addrs[own], MTU: dev.MTU}, nil
}

// device is the chosen one, and its address as far as that was chosen, too.
func (c Choice) device(devices []nodes.Device, r routing) (nodes.Device, netip.Addr, error) {
	for _, name := range c.Ifaces {
		if d, addr, ok := named(devices, name); ok {
			return d, addr, nil
		}
	}
	for _, re := range c.Regexes {
		if d, addr, ok := matching(devices, re); ok {
			return d, addr, nil
		}
	}
	var tried []string
	if len(c.Ifaces) > 0 {
		tried = append(tried, "--iface "+strings.Join(c.Ifaces, ", "))
	}
	for _, re := range c.Regexes {
		tried = append(tried, "--iface-regex "+re.String())
	}
	switch {
	case c.CanReach.IsValid():
		dev, src, _, err := r.RouteTo(c.CanReach)
		if err != nil {
			return nodes.Device{}, src, &ChoiceError{fmt.Sprintf("no way to %s", c.CanReach), "give --iface-can-reach an address that ip route get finds a way to"}
		}
		if d, _, ok := named(devices, dev); ok {
			return d, src, nil
		}
		return nodes.Device{}, src, &ChoiceError{dev + " is gone", "start the agent again"}
	case len(tried) > 0:
		return nodes.Device{}, netip.Addr{}, &ChoiceError{"no device fits " + strings.Join(tried, ", "), "there are " + describe(devices)}
	case c.PublicIP.IsValid():
		if d, addr, ok := named(devices, c.PublicIP.String()); ok {
			return d, addr, nil
		}
		return nodes.Device{}, netip.Addr{}, notOwn(c.PublicIP, "", devices)
	}
	dev, err := r.DefaultDevice()
	if err != nil {
		return nodes.Device{}, netip.Addr{}, err
	}
	if d, addr, ok := named(devices, dev); ok {
		return d, addr, nil
	}
	return nodes.Device{}, netip.Addr{}, &ChoiceError{"there is no default route to take the device of", "name the device with --iface: " + describe(devices)}
}

// notOwn is for an address that is not the host's.
func notOwn(addr netip.Addr, dev string, devices []nodes.Device) error {
	if d, _, ok := named(devices, addr.String()); ok {
		return &ChoiceError{fmt.Sprintf("%s is an address of %s, not of %s", addr, d.Name, dev), "choose the device that has it, with --iface"}
	}
	return &ChoiceError{fmt.Sprintf("no device here has the public address %s; an address that NAT brings here is not supported", addr),
		"give --public-ip an address of this host, which the others can reach: " + describe(devices)}
}

// named finds a device by its name, or by an address.
func named(devices []nodes.Device, name string) (nodes.Device, netip.Addr, bool) {
	addr, _ := netip.ParseAddr(name) // the zero Addr for a name
	for _, d := range devices {
		if d.Name == name {
			return d, netip.Addr{}, true
		}
		if addr.IsValid() && slices.ContainsFunc(d.Addrs, func(p netip.Prefix) bool { return p.Addr() == addr }) {
			return d, addr, true
		}
	}
	return nodes.Device{}, netip.Addr{}, false
}

// matching finds the first device with an address that matches, or else with a
// name that does.
func matching(devices []nodes.Device, re *regexp.Regexp) (nodes.Device, netip.Addr, bool) {
	for _, d := range devices {
		for _, p := range d.Addrs {
			if re.MatchString(p.Addr().String()) {
				return d, p.Addr(), true
			}
		}
	}
	for _, d := range devices {
		if re.MatchString(d.Name) {
			return d, netip.Addr{}, true
		}
	}
	return nodes.Device{}, netip.Addr{}, false
}

// describe lists the devices that have addresses.
func describe(devices []nodes.Device) string {
	const shown = 8
	var all []string
	for _, d := range devices {
		for _, p := range d.Addrs {
			if !p.Addr().IsLoopback() {
				all = append(all, d.Name+" "+p.Addr().String())
			}
		}
	}
	if len(all) == 0 {
		return "no device has an IPv4 address"
	}
	if len(all) > shown {
		all = append(all[:shown], "...")
	}
	return strings.Join(all, ", ")
}
