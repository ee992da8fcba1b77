package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tun is the device that the kernel routes packets into. Reads do not block.
// One thread reads, another writes.
type tun struct {
	name string
	fd   int
	// vnet: a header before each packet says whether it is many in one.
	vnet bool
}

// TUN is the file by which devices are made.
const TUN = "/dev/net/tun"

// offloads is what the kernel may leave to us: checksums, and cutting TCP and
// UDP packets (the latter from Linux 6.2 on, and in both families or none).
func offloads() []uintptr {
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4
	return []uintptr{tcp | unix.TUN_F_USO4 | unix.TUN_F_USO6, tcp}
}

// openTun makes the device, in the network namespace of the calling thread.
func openTun(name string, vnet bool) (*tun, error) {
	fd, err := unix.Open(TUN, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("%s: open %s: %w; load the module by modprobe tun, in a container also pass the device", name, TUN, err)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%s: open %s: %w; let this user read and write it (chmod 666), in a container also allow the device", name, TUN, err)
	case err != nil:
		return nil, fmt.Errorf("%s: open %s: %w", name, TUN, err)
	}
	t := &tun{name: name, fd: fd, vnet: vnet}
	if err := t.attach(); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// attach makes the device of an open file. The namespace is the one that the
// file was opened in. After the device was deleted it can be done again.
func (t *tun) attach() error {
	req, err := unix.NewIfreq(t.name)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if t.vnet {
		flags |= unix.IFF_VNET_HDR
	}
	req.SetUint16(flags)
	err = unix.IoctlIfreq(t.fd, unix.TUNSETIFF, req)
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%s: make the device: %w; run as root, or with the capability NET_ADMIN", t.name, err)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: make the device: %w; end the process that has it open, such as another agent", t.name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s: make the device: %w; one of another kind has the name: ip link del %s", t.name, err, t.name)
	case err != nil:
		return fmt.Errorf("%s: make the device: %w", t.name, err)
	}
	if !t.vnet {
		return nil
	}
	for _, o := range offloads() {
		if err = ioctl(t.fd, unix.TUNSETOFFLOAD, o); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s: switch offloads on: %w", t.name, err)
}

func (t *tun) close() { unix.Close(t.fd) }

func ioctl(fd int, request, arg uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, arg); errno != 0 {
		return errno
	}
	return nil
}

// vnetHeader is struct virtio_net_hdr, in the machine's byte order: how the
// bytes behind it are to be made one or more packets.
type vnetHeader struct {
	flags      uint8
	gso        uint8  // which kind of many in one, 0 for a plain packet
	headerLen  uint16 // of all headers, as a hint
	size       uint16 // of the payload of each packet but the last
	csumStart  uint16 // with needsChecksum: where the sum begins
	csumOffset uint16 // and where it is stored, from there
}

const (
	vnetLen = int(unsafe.Sizeof(vnetHeader{}))

	needsChecksum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	gsoTCP4       = 1 // VIRTIO_NET_HDR_GSO_TCPV4
	gsoUDP        = 5 // VIRTIO_NET_HDR_GSO_UDP_L4
	gsoECN        = 0x80
)

func readVnet(b []byte) vnetHeader {
	ne := binary.NativeEndian
	return vnetHeader{b[0], b[1], ne.Uint16(b[2:]), ne.Uint16(b[4:]), ne.Uint16(b[6:]), ne.Uint16(b[8:])}
}

func (h vnetHeader) put(b []byte) {
	ne := binary.NativeEndian
	b[0], b[1] = h.flags, h.gso
	ne.PutUint16(b[2:], h.headerLen)
	ne.PutUint16(b[4:], h.size)
	ne.PutUint16(b[6:], h.csumStart)
	ne.PutUint16(b[8:], h.csumOffset)
}

// rawRead and rawWrite do not tell the Go scheduler: they do not block, and
// what it does around a system call costs as much as a small one.
func rawRead(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func rawWrite(fd int, b []byte) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b))); errno != 0 {
		return errno
	}
	return nil
}
