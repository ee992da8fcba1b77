package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"labctl/lab"
)

// tree makes files below a directory of the test's.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	most     = "sys/user/max_user_namespaces"
	clone    = "sys/kernel/unprivileged_userns_clone"
	apparmor = "sys/kernel/apparmor_restrict_unprivileged_userns"
)

func TestUserNamespaces(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		proc           map[string]string
		rootless, able bool
		rows           int
		lacks          string // the setting that forbids it, "" for none
		cure           string
	}{
		{"a stock kernel", map[string]string{most: "95000\n"}, true, true, 1, "", ""},
		{"Debian, allowed", map[string]string{most: "95000\n", clone: "1\n"}, true, true, 2, "", ""},
		{"Ubuntu, allowed", map[string]string{most: "95000\n", clone: "1\n", apparmor: "0\n"}, true, true, 3, "", ""},
		{"none at all", map[string]string{most: "0\n"}, true, false, 1, "user.max_user_namespaces", "sysctl user.max_user_namespaces=10000 (as root)"},
		{"Debian, forbidden", map[string]string{most: "95000\n", clone: "0\n"}, true, false, 2, "kernel.unprivileged_userns_clone", "sysctl kernel.unprivileged_userns_clone=1 (as root)"},
		{"Ubuntu, forbidden", map[string]string{most: "95000\n", apparmor: "1\n"}, true, false, 2, "kernel.apparmor_restrict_unprivileged_userns", "sysctl kernel.apparmor_restrict_unprivileged_userns=0 (as root)"},
		{"Ubuntu, with a profile for labctl", map[string]string{most: "95000\n", apparmor: "1\n"}, true, true, 2, "", ""},
		{"Ubuntu, seen by root", map[string]string{most: "95000\n", apparmor: "1\n"}, false, true, 2, "kernel.apparmor_restrict_unprivileged_userns", "userns for labctl alone"},
		{"a kernel without", map[string]string{}, true, false, 1, "user.max_user_namespaces", "scripts/uml/boot"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			settings := lab.UserNamespaceSettings(tree(t, test.proc))
			found := userNamespaces(settings, test.rootless, test.able)
			if len(found) != test.rows {
				t.Errorf("%d rows, want %d: %+v", len(found), test.rows, found)
			}
			var lacks []string
			for _, f := range found {
				if f.Required && !(test.rootless && !test.able) {
					t.Errorf("%s is required, and labs run without", f.Name)
				}
				if f.OK {
					continue
				}
				lacks = append(lacks, f.Name)
				if !strings.Contains(f.Cure, test.cure) || strings.Contains(f.Cure, "\n") {
					t.Errorf("cure of %s = %q, want one line with %q", f.Name, f.Cure, test.cure)
				}
			}
			if got := strings.Join(lacks, " "); got != test.lacks {
				t.Errorf("lacks %q, want %q", got, test.lacks)
			}
			if cure := lab.UserNamespacesCure(settings); test.cure != "" && !strings.Contains(cure, test.cure) {
				t.Errorf("cure of namespaces = %q, want %q in it", cure, test.cure)
			}
		})
	}
	if cure := lab.UserNamespacesCure(nil); !strings.Contains(cure, "--privileged") || !strings.Contains(cure, "scripts/uml/boot") {
		t.Errorf("cure of namespaces that no setting forbids = %q, want a container's and a kernel of one's own", cure)
	}
}

func TestTUNCure(t *testing.T) {
	t.Parallel()
	const with, without = "200 tun\n 10 ptmx\n", "130 watchdog\n"
	for _, test := range []struct {
		name  string
		files map[string]string
		mode  os.FileMode
		err   error
		want  string
	}{
		{"no driver, no node", map[string]string{"misc": without}, 0, unix.ENOENT, "modprobe tun"},
		{"no driver, a node that stands for it", map[string]string{"misc": without, "tun": ""}, 0o666, unix.ENODEV, "modprobe tun"},
		{"a driver, no node", map[string]string{"misc": with}, 0, unix.ENOENT, "mknod -m 666"},
		{"root's alone", map[string]string{"misc": with, "tun": ""}, 0o600, unix.EACCES, "chmod 666"},
		{"a group's", map[string]string{"misc": with, "tun": ""}, 0o660, unix.EACCES, "its mode is 0660"},
		{"the group of devices", map[string]string{"misc": with, "tun": ""}, 0o666, unix.EPERM, "--device"},
		{"no devices there", map[string]string{"misc": with, "tun": ""}, 0o666, unix.EACCES, "nodev"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := tree(t, test.files)
			if _, there := test.files["tun"]; there {
				if err := os.Chmod(filepath.Join(dir, "tun"), test.mode); err != nil {
					t.Fatal(err)
				}
			}
			got := tunCure(filepath.Join(dir, "tun"), filepath.Join(dir, "misc"), &os.PathError{Op: "open", Path: "tun", Err: test.err})
			if !strings.Contains(got, test.want) || strings.Contains(got, "\n") {
				t.Errorf("tunCure = %q, want one line with %q", got, test.want)
			}
		})
	}
}
