package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"labctl/lab"
)

// ipv6 tells whether the kernel has IPv6, by what is below proc (/proc).
func ipv6(proc string) Finding {
	f := Finding{Name: "IPv6", OK: true, For: "no lab: they turn it off in their namespaces"}
	if _, err := os.Stat(filepath.Join(proc, "sys/net/ipv6")); err != nil {
		f.Detail = "not in this kernel, or off (ipv6.disable=1)"
	}
	return f
}

// userNamespaces tells which settings keep ordinary users
// from making labs. Trying has the last word: with able, namespaces were made,
// and what a setting forbids in general is allowed to labctl.
func userNamespaces(settings []lab.Setting, rootless, able bool) []Finding {
	var found []Finding
	for _, s := range settings {
		f := Finding{Name: s.Key, OK: !s.Forbids, For: "labs of ordinary users", Required: rootless && !able, Detail: s.Value, Cure: s.Cure}
		if s.Forbids && rootless && able {
			f.OK, f.Detail = true, s.Value+", and labctl may all the same"
		}
		found = append(found, f)
	}
	return found
}

// tunCure is how to make /dev/net/tun usable that could not be opened: dev is
// its path, misc the list of the kernel's small drivers (/proc/misc).
func tunCure(dev, misc string, err error) string {
	list, _ := os.ReadFile(misc)
	driver := false
	for line := range strings.Lines(string(list)) {
		f := strings.Fields(line)
		driver = driver || len(f) == 2 && f[1] == "tun"
	}
	st, missing := os.Stat(dev)
	switch {
	case !driver:
		return "the kernel needs tun: modprobe tun (as root)"
	case missing != nil:
		return fmt.Sprintf("mkdir -p %s && mknod -m 666 %s c 10 200 (as root); in a container: --device %s", filepath.Dir(dev), dev, dev)
	case errors.Is(err, unix.EPERM):
		return "the control group's rules for devices forbid it: in a container, --device " + dev
	case errors.Is(err, unix.EACCES) && st.Mode().Perm()&0o006 == 0o006:
		return fmt.Sprintf("the file system of %s is mounted nodev: mount -o remount,dev (as root)", dev)
	case errors.Is(err, unix.EACCES):
		return fmt.Sprintf("chmod 666 %s (as root; its mode is %#o, 0666 on stock systems, and opening it gives no power over the machine's own network)", dev, st.Mode().Perm())
	}
	return "look at " + dev
}
