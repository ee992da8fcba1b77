package nodes

import (
	"errors"
	"fmt"
	"strings"
	"sync"

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
			have, err := p.r.ns.trees.read(s.Key)
			if errors.Is(err, unix.ENOENT) && p.r.ns.trees.vacuous(s) {
				continue
			}
			if err != nil {
				p.fail("sysctl "+s.Key, "read", err)
				continue
			}
			if have != strings.Join(strings.Fields(s.Value), " ") {
				ch := Change{Modify, "sysctl", s.Key, fmt.Sprintf("%s, want %s", have, s.Value)}
				p.do(ch, "write "+s.Value, func() error { return p.r.ns.trees.write(s.Key, s.Value) })
			}
		}
		return nil
	})
	if err != nil {
		p.fail("sysctls", "write", err)
	}
}

// sysctlTrees are a namespace's directories /proc/sys/net/ipv4 and the like,
// kept open. All namespaces' are entries of one name in one directory, which the
// kernel looks through one by one, under one lock, for each path that begins
// with it: with hundreds of namespaces that takes longer than all the rest of a
// setting. What is below belongs to the namespace, and is found at once.
//
// They are used on a thread that is in the namespace: on another the kernel
// finds the same files, but makes their entries anew each time. Reconcilers of
// one namespace share them.
type sysctlTrees struct {
	mu   sync.Mutex // held while a file is opened and used
	dirs map[string]int
}

// split is the directory that is kept open for a setting, and its path below.
func (t *sysctlTrees) split(key string) (dir, path string) {
	at := strings.IndexByte(key, '/') // net/
	if next := strings.IndexByte(key[at+1:], '/'); next >= 0 {
		at += 1 + next
	}
	return key[:at], key[at+1:]
}

// open opens a setting's file. t.mu is held.
func (t *sysctlTrees) open(key string, flags int) (int, error) {
	for again := false; ; again = true {
		dir, path := t.split(key)
		tree, open := t.dirs[dir]
		if !open {
			var err error
			if tree, err = unix.Open("/proc/sys/"+dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
				return -1, err
			}
			if t.dirs == nil {
				t.dirs = map[string]int{}
			}
			t.dirs[dir] = tree
		}
		fd, err := unix.Openat(tree, path, flags|unix.O_CLOEXEC, 0)
		if err == unix.ENOENT && !again {
			// A module that was loaded anew has a directory anew.
			t.drop()
			continue
		}
		return fd, err
	}
}

// vacuous says whether a setting that could not be found turns IPv6 off where
// there is none: not in this kernel, or off since it began (ipv6.disable=1).
func (t *sysctlTrees) vacuous(s Sysctl) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	dir, path := t.split(s.Key)
	_, there := t.dirs[dir]
	return dir == "net/ipv6" && !there && strings.HasSuffix(path, "/disable_ipv6") && s.Value == "1"
}

func (t *sysctlTrees) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop()
}

// drop is close for who holds t.mu.
func (t *sysctlTrees) drop() {
	for _, fd := range t.dirs {
		unix.Close(fd)
	}
	clear(t.dirs)
}

func (t *sysctlTrees) read(key string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fd, err := t.open(key, unix.O_RDONLY)
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

func (t *sysctlTrees) write(key, value string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	fd, err := t.open(key, unix.O_WRONLY)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value))
	return errors.Join(err, unix.Close(fd))
}

// writeAll writes settings.
func (t *sysctlTrees) writeAll(settings []Sysctl) error {
	for _, s := range settings {
		err := t.write(s.Key, s.Value)
		if errors.Is(err, unix.ENOENT) && t.vacuous(s) {
			continue
		}
		if err != nil {
			return fmt.Errorf("sysctl %s: write %s: %w", s.Key, s.Value, err)
		}
	}
	return nil
}
