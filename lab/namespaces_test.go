package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What forbids namespaces is found out: one cure is named, and no other.
func TestNamespaceCure(t *testing.T) {
	t.Parallel()
	const (
		most     = "sys/user/max_user_namespaces"
		clone    = "sys/kernel/unprivileged_userns_clone"
		apparmor = "sys/kernel/apparmor_restrict_unprivileged_userns"
	)
	all := map[string]string{most: "95000\n", "self/ns/user": "", "self/ns/mnt": "", "self/ns/pid": "", "self/ns/net": ""}
	with := func(more ...string) map[string]string {
		files := map[string]string{}
		for k, v := range all {
			files[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			files[more[i]] = more[i+1]
		}
		return files
	}
	without := func(name string) map[string]string {
		files := with()
		delete(files, name)
		return files
	}
	for _, test := range []struct {
		name     string
		err      error
		proc     map[string]string
		rootless bool
		full     uintptr // the kind of namespace of which there may be no more
		want     string
	}{
		{"user namespaces are off", unix.ENOSPC, with(most, "0\n"), true, unix.CLONE_NEWUSER, "sysctl user.max_user_namespaces=10000 (as root; it is 0)"},
		{"PID namespaces are used up", unix.ENOSPC, with("sys/user/max_pid_namespaces", "7000\n"), true, unix.CLONE_NEWPID, "sysctl user.max_pid_namespaces=14000 (as root; it is 7000)"},
		{"network namespaces are used up, root", unix.ENOSPC, with("sys/user/max_net_namespaces", "3\n"), false, unix.CLONE_NEWNET, "sysctl user.max_net_namespaces=10000 (as root; it is 3)"},
		{"by an older kernel's word", unix.EUSERS, with(), true, unix.CLONE_NEWUSER, "user.max_user_namespaces="},
		{"for a moment", unix.ENOSPC, with(), true, 0, "try again"},
		{"Debian", unix.EPERM, with(clone, "0\n"), true, 0, "sysctl kernel.unprivileged_userns_clone=1 (as root)"},
		{"Ubuntu", unix.EACCES, with(clone, "1\n", apparmor, "1\n"), true, 0, "sysctl kernel.apparmor_restrict_unprivileged_userns=0 (as root)"},
		{"a container", unix.EPERM, with(clone, "1\n", apparmor, "0\n"), true, 0, "docker: --privileged"},
		{"a container's root", unix.EPERM, with(clone, "0\n"), false, 0, "docker: --privileged"},
		{"no network namespaces", unix.EINVAL, without("self/ns/net"), true, 0, "CONFIG_NET_NS"},
		{"no user namespaces", unix.EINVAL, without("self/ns/user"), true, 0, "CONFIG_USER_NS"},
		{"no user namespaces, root", unix.EINVAL, without("self/ns/user"), false, 0, "labctl doctor"},
		{"no /proc", fmt.Errorf("fork/exec: %w", fs.ErrNotExist), nil, true, 0, "mount /proc"},
		{"anything else", errors.New("bang"), with(), true, 0, "labctl doctor"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			proc := t.TempDir()
			for name, text := range test.proc {
				path := filepath.Join(proc, name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			got := namespaceCure(test.err, proc, test.rootless, func(flag uintptr) error {
				if flag == test.full {
					return &os.PathError{Op: "fork/exec", Path: "/proc/self/exe", Err: unix.ENOSPC}
				}
				return nil
			})
			if !strings.Contains(got, test.want) || strings.Contains(got, "\n") {
				t.Errorf("cure = %q, want one line with %q", got, test.want)
			}
			for _, key := range []string{"max_user", "max_pid", "max_net", "userns_clone", "apparmor"} {
				if strings.Contains(got, key) && !strings.Contains(test.want, key) {
					t.Errorf("cure = %q, which names %s as well", got, key)
				}
			}
		})
	}
}
