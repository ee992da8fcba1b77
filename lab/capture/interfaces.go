package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/packet"
)

// Sockets opens sockets inside of endpoints' namespaces: a lab.Client, or a
// test in its own namespace.
type Sockets interface {
	Socket(ctx context.Context, endpoint string, domain, typ, proto int) (*os.File, error)
}

// Interface is one network device of an endpoint.
type Interface struct {
	Endpoint string
	Name     string
	Index    int
	Link     packet.LinkType
	MAC      net.HardwareAddr // of Ethernet devices
	MTU      int
	Master   int    // the index of the bridge that it is a port of
	Qdisc    string // what queues its packets
	Up       bool
	Loopback bool
}

// String is its name in a lab: node1:eth0.
func (i Interface) String() string { return i.Endpoint + ":" + i.Name }

// Interfaces lists the devices of an endpoint in the kernel's order.
func Interfaces(ctx context.Context, s Sockets, endpoint string) ([]Interface, error) {
	f, err := s.Socket(ctx, endpoint, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := links(f)
	if err != nil {
		return nil, fmt.Errorf("%s: interfaces: %w", endpoint, err)
	}
	for i := range found {
		found[i].Endpoint = endpoint
	}
	return found, nil
}

// links asks a route netlink socket for a dump (rtnetlink(7), RTM_GETLINK).
func links(f *os.File) ([]Interface, error) {
	fd := int(f.Fd())
	ask := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(ask, uint32(len(ask)))
	binary.NativeEndian.PutUint16(ask[4:], unix.RTM_GETLINK)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var found []Interface
	buf := make([]byte, 1<<16)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		some, done, err := parseLinks(buf[:n])
		if err != nil {
			return nil, err
		}
		if found = append(found, some...); done {
			return found, nil
		}
	}
}

// parseLinks reads a part of a dump. done says that it was the last.
func parseLinks(datagram []byte) (found []Interface, done bool, err error) {
	msgs, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		return nil, false, err
	}
	for _, m := range msgs {
		switch m.Header.Type {
		case unix.NLMSG_DONE:
			return found, true, nil
		case unix.NLMSG_ERROR:
			return nil, false, errors.New("the kernel refuses the dump")
		case unix.RTM_NEWLINK:
			i, err := parseLink(m)
			if err != nil {
				return nil, false, err
			}
			found = append(found, i)
		}
	}
	return found, false, nil
}

// parseLink reads one RTM_NEWLINK message.
func parseLink(m syscall.NetlinkMessage) (Interface, error) {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return Interface{}, fmt.Errorf("a message of %d bytes about a device", len(m.Data))
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(&m)
	if err != nil {
		return Interface{}, err
	}
	typ, flags := binary.NativeEndian.Uint16(m.Data[2:]), binary.NativeEndian.Uint32(m.Data[8:])
	i := Interface{Index: int(binary.NativeEndian.Uint32(m.Data[4:])), Link: packet.LinkRaw,
		Up: flags&unix.IFF_UP != 0, Loopback: flags&unix.IFF_LOOPBACK != 0}
	if typ == unix.ARPHRD_ETHER || typ == unix.ARPHRD_LOOPBACK {
		i.Link = packet.LinkEthernet
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			i.Name = strings.TrimRight(string(a.Value), "\x00")
		case unix.IFLA_QDISC:
			i.Qdisc = strings.TrimRight(string(a.Value), "\x00")
		case unix.IFLA_MTU:
			i.MTU = number(a.Value)
		case unix.IFLA_MASTER:
			i.Master = number(a.Value)
		case unix.IFLA_ADDRESS:
			if typ == unix.ARPHRD_ETHER {
				i.MAC = net.HardwareAddr(a.Value)
			}
		}
	}
	return i, nil
}

// number reads an attribute of 32 bits.
func number(b []byte) int {
	if len(b) != 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b))
}

// Aggregate says whether a packet is larger than i can send at once: it is
// several, which the kernel cuts when it must (offload).
func (i Interface) Aggregate(p Packet) bool {
	const headers = 14 + 4 // Ethernet's and a VLAN's
	return i.MTU > 0 && p.Len > i.MTU+headers
}

// Find resolves a target: "node1:eth0" is that interface, "node1" all of the
// endpoint's that are up, loopback apart.
func Find(ctx context.Context, s Sockets, target string) ([]Interface, error) {
	endpoint, name, one := strings.Cut(target, ":")
	all, err := Interfaces(ctx, s, endpoint)
	if err != nil {
		return nil, err
	}
	var found []Interface
	var names []string
	for _, i := range all {
		if one && i.Name == name || !one && i.Up && !i.Loopback {
			found = append(found, i)
		}
		names = append(names, i.Name)
	}
	if one && len(found) == 0 {
		cure := "it has " + strings.Join(names, ", ")
		if near := lab.Nearest(name, names); near != "" {
			cure = "did you mean " + endpoint + ":" + near + "? " + cure
		}
		return nil, &lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("%s: no such interface", target), Cure: cure}
	}
	if one && !found[0].Up {
		return nil, &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: is down", target), Cure: fmt.Sprintf("labctl exec %s -- ip link set %s up", endpoint, name)}
	}
	return found, nil
}
