package bench

import (
	"context"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/capture"
)

// hops are the devices of the endpoints, but for loopback: what could decide on
// how fast packets go by.
func hops(ctx context.Context, c *lab.Client, endpoints ...string) ([]Hop, error) {
	var all []Hop
	for _, e := range slices.Compact(endpoints) {
		devices, err := capture.Interfaces(ctx, c, e)
		if err != nil {
			return nil, err
		}
		features, err := c.Socket(ctx, e, unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			if !d.Loopback {
				all = append(all, Hop{Device: d.String(), MTU: d.MTU, Qdisc: d.Qdisc, Offloads: offloadsOf(features, d.Name)})
			}
		}
		features.Close()
	}
	return all, nil
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
