// Package ipip is IP in IP (RFC 2003, IP protocol 4): the kernel's where it has
// it, else a [datapath] with the same packets on the wire.
//
// Calico's IPIP uses it: [InKernel] says which of the two a namespace is for,
// [Open] opens the path of one whose kernel has none. Either way the device is
// called tunl0.
//
// The trap: the name is an alias of the kernel's module. Who as root asks for
// tunl0 by an ioctl (if_nametoindex(3), ethtool) in a namespace where there is
// no such device makes the kernel load ipip, and every namespace of the machine,
// the machine's own included, then gets a tunl0. Nothing here asks so, and
// neither netlink's list of links nor a raw socket nor TUNSETIFF loads anything.
package ipip
