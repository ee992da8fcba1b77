package ipip

import (
	"slices"

	"labctl/nodes"
)

// Device is the name of the tunnel device. The kernel's ipip gives each
// namespace one of that name, which takes packets from whomever they come, and
// of which a route's gateway is the host to send to.
const Device = "tunl0"

// InKernel says whether the namespace with these devices has the kernel's own.
// It has as soon as ipip is part of the kernel or loaded, unless
// net.core.fb_tunnels_only_for_init_net forbids it.
func InKernel(devices []nodes.Device) bool {
	return slices.ContainsFunc(devices, func(d nodes.Device) bool { return d.Name == Device && d.Kind == "ipip" })
}
