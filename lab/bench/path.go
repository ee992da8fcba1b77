package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"labctl/lab"
)

// hops are the devices of the endpoints, but for loopback: what could decide on
// how fast packets go by.
func hops(ctx context.Context, c *lab.Client, endpoints ...string) ([]Hop, error) {
	var all []Hop
	for _, e := range slices.Compact(endpoints) {
		links, err := linksOf(ctx, c, e)
		if err != nil {
			return nil, fmt.Errorf("%s: devices: %w", e, err)
		}
		all = append(all, links...)
	}
	return all, nil
}

// linksOf asks the endpoint's kernel tables: RTM_GETLINK (rtnetlink(7)).
func linksOf(ctx context.Context, c *lab.Client, endpoint string) ([]Hop, error) {
	f, err := c.Socket(ctx, endpoint, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	features, err := c.Socket(ctx, endpoint, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	defer features.Close()
	var request bytes.Buffer
	for _, part := range []any{
		unix.NlMsghdr{Len: unix.SizeofNlMsghdr + unix.SizeofIfInfomsg, Type: unix.RTM_GETLINK, Flags: unix.NLM_F_REQUEST | unix.NLM_F_DUMP},
		unix.IfInfomsg{Family: unix.AF_UNSPEC},
	} {
		if err := binary.Write(&request, binary.NativeEndian, part); err != nil {
			return nil, err
		}
	}
	fd := int(f.Fd()) // blocks from here on; the kernel answers at once
	if err := unix.Sendto(fd, request.Bytes(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var all []Hop
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return all, nil
			case unix.NLMSG_ERROR:
				return nil, fmt.Errorf("netlink: error %x", m.Data)
			}
			attrs, err := syscall.ParseNetlinkRouteAttr(&m)
			if err != nil {
				return nil, err
			}
			if h, ok := hop(attrs); ok {
				h.Offloads = offloadsOf(features, h.Device)
				h.Device = endpoint + ":" + h.Device
				all = append(all, h)
			}
		}
	}
}

func hop(attrs []syscall.NetlinkRouteAttr) (h Hop, ok bool) {
	for _, a := range attrs {
		text := strings.TrimRight(string(a.Value), "\x00")
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			h.Device = text
		case unix.IFLA_QDISC:
			h.Qdisc = text
		case unix.IFLA_MTU:
			if len(a.Value) >= 4 {
				h.MTU = int(binary.NativeEndian.Uint32(a.Value))
			}
		}
	}
	return h, h.Device != "lo"
}

// offloadsOf are those of a device that are on, in ethtool -K's words.
func offloadsOf(socket *os.File, device string) []string {
	on := []string{}
	for _, o := range []struct {
		name    string
		command uint32
	}{
		{"tx", unix.ETHTOOL_GTXCSUM}, {"tso", unix.ETHTOOL_GTSO}, {"gso", unix.ETHTOOL_GGSO}, {"gro", unix.ETHTOOL_GGRO},
	} {
		value := struct{ command, data uint32 }{command: o.command}
		var request struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(request.name[:unix.IFNAMSIZ-1], device)
		request.data = unsafe.Pointer(&value)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, socket.Fd(), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
		if errno == 0 && value.data != 0 {
			on = append(on, o.name)
		}
	}
	return on
}
