package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// setting is one of the kernel's that may forbid ordinary users what labs do.
type setting struct {
	key     string // user.max_user_namespaces
	forbids func(n int) bool
	cure    string
	absent  string // what it means that there is no such setting; "" when that forbids nothing
}

var settings = []setting{
	{
		key: "user.max_user_namespaces", forbids: func(n int) bool { return n == 0 },
		cure: "sysctl user.max_user_namespaces=10000 (as root)", absent: "the kernel has no user namespaces (CONFIG_USER_NS)",
	},
	{ // of Debian's kernels, and of others that took it over
		key: "kernel.unprivileged_userns_clone", forbids: func(n int) bool { return n == 0 },
		cure: "sysctl kernel.unprivileged_userns_clone=1 (as root)",
	},
	{ // Ubuntu 23.10 and newer
		key: "kernel.apparmor_restrict_unprivileged_userns", forbids: func(n int) bool { return n != 0 },
		cure: "sysctl kernel.apparmor_restrict_unprivileged_userns=0 (as root), or an AppArmor profile with the rule userns for labctl alone",
	},
}

// ipv6 tells whether the kernel has IPv6, by what is below proc (/proc).
func ipv6(proc string) Finding {
	f := Finding{Name: "IPv6", OK: true, For: "no lab: they turn it off in their namespaces"}
	if _, err := os.Stat(filepath.Join(proc, "sys/net/ipv6")); err != nil {
		f.Detail = "not in this kernel, or off (ipv6.disable=1)"
	}
	return f
}

// userNamespaces tells which settings below proc (/proc) keep ordinary users
// from making labs. Trying has the last word: with able, namespaces were made,
// and what a setting forbids in general is allowed to labctl.
func userNamespaces(proc string, rootless, able bool) []Finding {
	var found []Finding
	for _, s := range settings {
		f := Finding{Name: s.key, OK: true, For: "labs of ordinary users", Required: rootless && !able}
		b, err := os.ReadFile(filepath.Join(proc, "sys", strings.ReplaceAll(s.key, ".", "/")))
		text := strings.TrimSpace(string(b))
		n, bad := strconv.Atoi(text)
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.absent == "":
			continue
		case errors.Is(err, fs.ErrNotExist):
			f.OK, f.Detail, f.Cure = false, s.absent, withoutNamespaces
		case err != nil:
			f.OK, f.Detail, f.Cure = false, err.Error(), "mount /proc"
		case bad != nil:
			f.OK, f.Detail, f.Cure = false, fmt.Sprintf("%q is no number", text), "report this as a bug of labctl"
		case s.forbids(n) && rootless && able:
			f.Detail = text + ", and labctl may all the same"
		case s.forbids(n):
			f.OK, f.Detail, f.Cure = false, text, s.cure
		default:
			f.Detail = text
		}
		found = append(found, f)
	}
	return found
}

// withoutNamespaces is the cure where nothing can be allowed.
const withoutNamespaces = "run labctl as root, or in a kernel of its own: scripts/uml/boot labctl ..."

// namespacesCure is how to get namespaces where they were refused: what forbids
// them, when a setting does, else what may.
func namespacesCure(found []Finding) string {
	var cures []string
	for _, f := range found {
		if !f.OK {
			cures = append(cures, f.Cure)
		}
	}
	if len(cures) > 0 {
		return strings.Join(cures, "; ")
	}
	return "a container's or a security module's rules forbid it: allow them (docker: --privileged), or " + withoutNamespaces
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
