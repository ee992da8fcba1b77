package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
	"labctl/backends/calico"
	"labctl/nodes"
)

// Probe is the probing process: it tries what labs do and writes its findings
// to w. It must be run in namespaces of its own (lab.NamespaceAttr).
func Probe(ctx context.Context, w io.Writer) error {
	if os.Getpid() != 1 {
		return errors.New("probe: not PID 1 of a PID namespace; it is for labctl doctor to start")
	}
	var found []Finding
	try := func(f Finding, do func() (string, error)) bool {
		detail, err := do()
		f.OK, f.Detail = err == nil, detail
		if err != nil {
			f.Detail = err.Error()
			if m, ok := errors.AsType[*nodes.MissingError](err); ok {
				f.Cure = m.Cure
			}
		} else {
			f.Cure = ""
		}
		found = append(found, f)
		return f.OK
	}
	module := func(name string) string { return "the kernel needs " + name + ": modprobe " + name + " (as root)" }

	var all []*nodes.Namespace
	ok := try(Finding{Name: networkNamespaces, Required: true, For: "every lab",
		Cure: "a security module forbids it in user namespaces, or the limit is reached: sysctl user.max_net_namespaces=10000 (as root)"},
		func() (detail string, err error) {
			all, err = nodes.NewNamespaces([]string{"a", "b"})
			return "", err
		})
	if ok {
		a, b := all[0], all[1]
		apply := func(st nodes.State) error {
			r, err := nodes.NewReconciler(a, nodes.Owner{Name: "doctor", Protocol: 96})
			if err != nil {
				return err
			}
			defer r.Close()
			r.Set(st)
			_, err = r.Apply(ctx)
			return err
		}
		try(Finding{Name: "veth", Required: true, For: "every lab", Cure: module("veth")}, func() (string, error) {
			return "", apply(nodes.State{Links: []nodes.Link{nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}, PeerNamespace: b, PeerName: "eth0"}},
				Addrs: []nodes.Addr{{Dev: "eth0", Prefix: netip.MustParsePrefix("192.0.2.1/24")}}})
		})
		try(Finding{Name: "bridge", Required: true, For: "every lab", Cure: module("bridge")}, func() (string, error) {
			return "", apply(nodes.State{Links: []nodes.Link{nodes.Bridge{LinkAttrs: nodes.LinkAttrs{Name: "br0"}}}})
		})
		try(Finding{Name: "vxlan", For: "labs with flannel's vxlan backend", Cure: module("vxlan")}, func() (string, error) {
			return "", apply(nodes.State{Links: []nodes.Link{nodes.VXLAN{LinkAttrs: nodes.LinkAttrs{Name: "flannel.1", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
				VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1"), Dev: "eth0"}}})
		})
		try(Finding{Name: "nftables", Required: true, For: "masquerade and published ports", Cure: "look at /proc/config.gz for CONFIG_NF_TABLES"}, func() (string, error) {
			return "", apply(nodes.State{Tables: []nodes.Table{{Name: "labctl-probe", Chains: []nodes.Chain{{Name: "postrouting", Hook: nodes.PostroutingNAT,
				Rules: []nodes.Rule{{Src: netip.MustParsePrefix("192.0.2.0/24"), Verdict: nodes.Masquerade}}}}}}})
		})
		try(Finding{Name: "sysctl", Required: true, For: "every lab", Cure: "mount /proc/sys writable"}, func() (string, error) {
			return "", apply(nodes.State{Sysctls: []nodes.Sysctl{{Key: "net/ipv4/ip_forward", Value: "1"}}})
		})
		found = append(found, ipv6("/proc"))
		errTUN := a.Do(openTUN)
		cure := tunCure(tun, "/proc/misc", errTUN)
		try(Finding{Name: tun, For: "labs with flannel's udp backend", Cure: cure}, func() (string, error) {
			return "", errTUN
		})
		try(Finding{Name: "ipip", For: "labs with Calico's IPIP", Cure: cure}, func() (string, error) {
			devices, err := a.Devices()
			if err != nil {
				return "", err
			}
			if calico.IPIPInKernel(devices) {
				return "the kernel's", nil
			}
			return "not in the kernel: agents carry the packets (TUN, raw sockets)", errTUN
		})
		try(Finding{Name: "raw sockets", Required: true, For: "ping and capture", Cure: "CAP_NET_RAW was taken away"}, func() (string, error) {
			return "", a.Do(func() error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
				if err != nil {
					return err
				}
				return unix.Close(fd)
			})
		})
	}
	return json.NewEncoder(w).Encode(found)
}

// Names of findings that are spoken of elsewhere.
const (
	networkNamespaces = "network namespaces"
	tun               = "/dev/net/tun"
)

// openTUN opens a TUN device of the calling thread's namespace; closing it
// removes it.
func openTUN() error {
	f, err := os.OpenFile(tun, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	ifr, err := unix.NewIfreq("flannel0")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("create a TUN device: %w", err)
	}
	return nil
}
