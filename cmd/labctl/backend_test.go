package main

import (
	"strings"
	"testing"
)

// One lab file under every backend: the picture stays, what is between the
// hosts is another.
func TestUpBackend(t *testing.T) {
	t.Parallel()
	needTool(t, "ip")
	for _, b := range []struct{ backend, device string }{
		{"vxlan", "flannel.1"},
		{"host-gw", ""},
		{"udp", "flannel0"},
	} {
		t.Run(b.backend, func(t *testing.T) {
			t.Parallel()
			u := users(t)[0]
			if b.backend == "udp" && u.deniedTUN(t, "flannel-docker0") {
				return
			}
			l := u.up(t, "flannel-docker0", "--backend", b.backend)
			if got := l.status(t).Backend; got != b.backend {
				t.Errorf("status: backend %s, want %s", got, b.backend)
			}
			links := l.exec(t, "node1", "ip", "-o", "link")
			for _, dev := range []string{"flannel.1", "flannel0"} {
				if there := strings.Contains(links, " "+dev+":"); there != (dev == b.device) {
					t.Errorf("%s is there: %v, with backend %s:\n%s", dev, there, b.backend, links)
				}
			}
			if addr := l.exec(t, "node1", "ip", "-o", "-4", "addr", "show", "dev", "docker0"); !strings.Contains(addr, "172.17.8.1/24") {
				t.Errorf("docker0: %s", addr)
			}
			l.run(t, "ping", "-l", l.name, "--all")
			// The same again is the same lab, the file as it stands is another.
			if _, stderr, code := l.try(t, "up", "flannel-docker0", "--backend", b.backend, "--name", l.name); code != 0 || !strings.Contains(stderr, "unchanged") {
				t.Errorf("up again: exit status %d: %s", code, stderr)
			}
			if _, stderr, code := l.try(t, "up", "flannel-vxlan", "--name", l.name); code != 2 {
				t.Errorf("up of another file: exit status %d: %s", code, stderr)
			}
		})
	}
}
