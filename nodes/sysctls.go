package nodes

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// ofDevice returns the device that a setting belongs to; "" for none.
func (s Sysctl) ofDevice() string {
	part := strings.Split(s.Key, "/")
	if len(part) < 5 || part[0] != "net" || part[2] != "conf" && part[2] != "neigh" || part[3] == "all" || part[3] == "default" {
		return ""
	}
	return part[3]
}

// sysctls makes those settings what the State says that belong to a device
// (devices true), or those that do not. /proc/sys/net shows the namespace of
// the thread that looks, so all of it happens in one Do.
func (p *pass) sysctls(devices, others bool) {
	var list []Sysctl
	for _, s := range p.want.Sysctls {
		dev := s.ofDevice()
		switch {
		case dev == "" && others:
			list = append(list, s)
		case dev != "" && devices:
			if _, ok := p.device(Change{Modify, "sysctl", s.Key, "missing, want " + s.Value}, dev); ok {
				list = append(list, s)
			}
		}
	}
	if len(list) == 0 {
		return
	}
	err := p.r.ns.Do(func() error {
		for _, s := range list {
			if p.ctx.Err() != nil {
				return nil
			}
			have, err := readSysctl(s.Key)
			if err != nil {
				p.fail("sysctl "+s.Key, "read", err)
				continue
			}
			if have != strings.Join(strings.Fields(s.Value), " ") {
				ch := Change{Modify, "sysctl", s.Key, fmt.Sprintf("%s, want %s", have, s.Value)}
				p.do(ch, "write "+s.Value, func() error { return writeSysctl(s.Key, s.Value) })
			}
		}
		return nil
	})
	if err != nil {
		p.fail("sysctls", "write", err)
	}
}

func readSysctl(key string) (string, error) {
	fd, err := unix.Open("/proc/sys/"+key, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return "", err
	}
	return strings.Join(strings.Fields(string(buf[:n])), " "), nil
}

func writeSysctl(key, value string) error {
	fd, err := unix.Open("/proc/sys/"+key, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value))
	return errors.Join(err, unix.Close(fd))
}
