package supervisor

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"labctl/lab"
)

func TestAssign(t *testing.T) {
	t.Parallel()
	fixed := netip.MustParseAddr("10.1.1.3")
	tests := []struct {
		name       string
		subnet     string
		containers []netip.Addr // fixed addresses; invalid for none
		want       string       // addresses, or the error
	}{
		{"in order after the bridge", "10.1.1.0/24", []netip.Addr{{}, {}}, "10.1.1.2/24 10.1.1.3/24"},
		{"fixed ones are left out", "10.1.1.0/24", []netip.Addr{{}, fixed, {}}, "10.1.1.2/24 10.1.1.3/24 10.1.1.4/24"},
		{"the broadcast address is not given out", "10.1.1.0/30", []netip.Addr{{}, {}}, "n.c2: subnet 10.1.1.0/30 has no address left"},
		{"a fixed address outside", "10.1.2.0/24", []netip.Addr{fixed}, "n.c1: address 10.1.1.3: not free in the node's subnet 10.1.2.0/24"},
		{"the bridge's address", "10.1.1.2/31", []netip.Addr{fixed}, "n.c1: address 10.1.1.3: not free in the node's subnet 10.1.1.2/31"},
		{"IPv6", "fd00:1::/64", []netip.Addr{{}}, "fd00:1::2/64"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := &host{}
			for i, a := range tt.containers {
				h.containers = append(h.containers, &container{
					endpoint: &endpoint{name: "n.c" + string(rune('1'+i))}, plan: lab.ContainerPlan{Addr: a}})
			}
			err := h.assign(netip.MustParsePrefix(tt.subnet), 1450)
			var got []string
			for _, c := range h.containers {
				got = append(got, c.addr.String())
			}
			result := strings.Join(got, " ")
			if err != nil {
				result = err.Error()
			}
			if result != tt.want {
				t.Errorf("assign(%s) = %s, want %s", tt.subnet, result, tt.want)
			}
		})
	}
}

func TestLookPath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"tool": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name, program, path string
		want                string
		code                int
	}{
		{"in PATH", "tool", dir, filepath.Join(dir, "tool"), 0},
		{"relative to the command's directory", "./tool", "/nowhere", filepath.Join(dir, "tool"), 0},
		{"not executable", "text", dir, "", 126},
		{"not there", "nothing", dir, "", 127},
		{"not in this PATH", "tool", "/nowhere", "", 127},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, code, err := lookPath(tt.program, dir, []string{"PATH=" + tt.path})
			if got != tt.want || code != tt.code || (err != nil) != (code != 0) {
				t.Errorf("lookPath(%s) = %q, %d, %v; want %q, %d", tt.program, got, code, err, tt.want, tt.code)
			}
		})
	}
}

func TestParsePidfdInfo(t *testing.T) {
	t.Parallel()
	if pid, err := parsePidfdInfo([]byte("pos:\t0\nflags:\t02000002\nPid:\t4711\nNSpid:\t4711\t12\n")); pid != 4711 || err != nil {
		t.Errorf("parsePidfdInfo() = %d, %v, want 4711", pid, err)
	}
	if _, err := parsePidfdInfo([]byte("pos:\t0\n")); err == nil {
		t.Error("parsePidfdInfo() without a Pid line: no error")
	}
}
