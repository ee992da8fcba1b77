package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// NamespaceAttr starts a process as PID 1 of the namespaces that a lab lives
// in: PID, mount and network, and for a rootless one a user namespace around.
func NamespaceAttr() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
	}
	if Rootless() {
		a.Cloneflags |= unix.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// Rootless says whether a lab of the caller needs a user namespace of its own:
// it is not root, or root without the capabilities (in a container).
func Rootless() bool {
	if os.Geteuid() != 0 {
		return true
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false // then try as root; the kernel's answer will say what is missing
	}
	const need = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return data[0].Effective&need != need
}

// InUserNamespace says whether the caller is inside a user namespace that maps
// a single user, as the init shim of a rootless lab is.
func InUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false // no user namespaces in this kernel
	}
	f := strings.Fields(string(b))
	return len(f) == 3 && f[2] == "1"
}

// NamespaceFailure says why new namespaces were refused, and what allows them:
// which setting or limit it is is found out by looking and trying.
func NamespaceFailure(err error) *Failure {
	return &Failure{Kind: Unable, Err: fmt.Errorf("namespaces: create: %w", err), Cure: namespaceCure(err, "/proc", Rootless(), tryNamespace)}
}

// kinds are the namespaces that a lab is born in, in the order in which the
// kernel makes them.
var kinds = []struct {
	flag           uintptr
	name, file     string
	limit, feature string
}{
	{unix.CLONE_NEWUSER, "user", "user", "user.max_user_namespaces", "CONFIG_USER_NS"},
	{unix.CLONE_NEWNS, "mount", "mnt", "user.max_mnt_namespaces", "CONFIG_NAMESPACES"},
	{unix.CLONE_NEWPID, "PID", "pid", "user.max_pid_namespaces", "CONFIG_PID_NS"},
	{unix.CLONE_NEWNET, "network", "net", "user.max_net_namespaces", "CONFIG_NET_NS"},
}

// namespaceCure is for what the kernel said. proc is /proc; try says whether it
// would make a namespace of one kind.
func namespaceCure(err error, proc string, rootless bool, try func(flag uintptr) error) string {
	full := func(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS) }
	switch {
	case full(err):
		for _, k := range kinds {
			if k.flag == unix.CLONE_NEWUSER && !rootless || !full(try(k.flag)) {
				continue
			}
			const plenty = 10000
			is, more := "", uint64(plenty)
			if n := readLimit(sysctlFile(proc, k.limit)); n != Unlimited {
				is, more = fmt.Sprintf("; it is %d", n), max(2*n, plenty)
			}
			return fmt.Sprintf("no more %s namespaces are allowed: sysctl %s=%d (as root%s), in a container on its host", k.name, k.limit, more, is)
		}
		return "they were used up for a moment: try again"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		if rootless {
			return UserNamespacesCure(UserNamespaceSettings(proc))
		}
		return UserNamespacesCure(nil)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		for _, k := range kinds {
			if _, err := os.Stat(filepath.Join(proc, "self/ns", k.file)); errors.Is(err, fs.ErrNotExist) && (rootless || k.flag != unix.CLONE_NEWUSER) {
				return fmt.Sprintf("this kernel has no %s namespaces (%s): %s", k.name, k.feature, withoutNamespaces)
			}
		}
	case errors.Is(err, fs.ErrNotExist):
		return "mount /proc"
	}
	return "labctl doctor tells what is missing"
}

// tryNamespace makes a namespace of one kind, in a user namespace where a lab
// is in one, and lets it go.
func tryNamespace(flag uintptr) error {
	cmd := exec.Command("/proc/self/exe", InitCommand) // which ends at once: it is not told what for
	cmd.Args[0] = "labctl"
	cmd.SysProcAttr = NamespaceAttr()
	cmd.SysProcAttr.Cloneflags &= flag | unix.CLONE_NEWUSER
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = cmd.Wait() // how it ends says nothing
	return nil
}

// Setting is one of the kernel's settings that decide whether ordinary users may
// have user namespaces, as it is.
type Setting struct {
	Key     string // user.max_user_namespaces
	Value   string // or why there is none
	Forbids bool
	Cure    string // when it forbids them
}

// UserNamespaceSettings are those that this kernel has, below proc (/proc).
func UserNamespaceSettings(proc string) []Setting {
	var found []Setting
	for _, s := range []struct {
		key     string
		forbids func(n int) bool
		cure    string
		absent  string // what it means that there is no such setting; "" when that forbids nothing
	}{
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
	} {
		b, err := os.ReadFile(sysctlFile(proc, s.key))
		text := strings.TrimSpace(string(b))
		n, bad := strconv.Atoi(text)
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.absent == "":
		case errors.Is(err, fs.ErrNotExist):
			found = append(found, Setting{s.key, s.absent, true, withoutNamespaces})
		case err != nil:
			found = append(found, Setting{s.key, err.Error(), true, "mount /proc"})
		case bad != nil:
			found = append(found, Setting{s.key, fmt.Sprintf("%q is no number", text), true, "report this as a bug of labctl"})
		default:
			found = append(found, Setting{s.key, text, s.forbids(n), s.cure})
		}
	}
	return found
}

// sysctlFile is where a setting is below proc.
func sysctlFile(proc, key string) string {
	return filepath.Join(proc, "sys", strings.ReplaceAll(key, ".", "/"))
}

// withoutNamespaces is the cure where nothing can be allowed.
const withoutNamespaces = "run labctl as root, or in a kernel of its own: scripts/uml/boot labctl ..."

// UserNamespacesCure is how to get namespaces where they were refused: what
// forbids them, when a setting does, else what may.
func UserNamespacesCure(settings []Setting) string {
	var cures []string
	for _, s := range settings {
		if s.Forbids {
			cures = append(cures, s.Cure)
		}
	}
	if len(cures) > 0 {
		return strings.Join(cures, "; ")
	}
	return "a container's or a security module's rules forbid it: allow them (docker: --privileged), or " + withoutNamespaces
}
