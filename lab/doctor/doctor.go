// Package doctor finds out what a machine can run by trying it.
//
// `labctl doctor` calls Examine, which starts the binary again as __probe in
// namespaces like a lab's; Probe does there what labs do and tells how it
// went. Everything tried ends with that process.
//
// The trap: asking is not enough. Where AppArmor restricts user namespaces,
// one can be made, and everything inside it is then refused.
package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"labctl/lab"
)

// Finding is one thing that was looked at.
type Finding struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"` // no lab runs without it
	Detail   string `json:"detail"`
	For      string `json:"for"`            // what needs it
	Cure     string `json:"cure,omitempty"` // when it is not OK
}

// Report is the whole examination.
type Report struct {
	SchemaVersion int       `json:"schemaVersion"`
	Able          bool      `json:"able"` // everything required is there
	Rootless      bool      `json:"rootless"`
	Findings      []Finding `json:"findings"`
}

// Examine looks at everything. With a plan it says of what a lab of that plan
// needs whether there is enough, and what such a lab cannot do without is required.
func Examine(ctx context.Context, p *lab.Plan) (*Report, error) {
	r := &Report{SchemaVersion: 1, Able: true, Rootless: lab.Rootless()}
	r.Findings = append(r.Findings, kernelVersion())
	if p == nil {
		r.Findings = append(r.Findings, openFiles())
	} else {
		r.Findings = append(r.Findings, limits(lab.Needs(p, lab.ThisCapacity()))...)
	}
	r.Findings = append(r.Findings, namespaces(probe(ctx), r.Rootless)...)
	r.Findings = append(r.Findings, neighbourTable())
	r.Findings = append(r.Findings, tools()...)
	for i := range r.Findings {
		f := &r.Findings[i]
		if p != nil && needed(p, f.Name) {
			f.Required = true
		}
		if f.OK {
			f.Cure = ""
		} else if f.Required {
			r.Able = false
		}
	}
	return r, nil
}

// limits are what a lab needs of things that a machine has so many of.
func limits(needs []lab.Need) []Finding {
	var found []Finding
	for _, n := range needs {
		f := Finding{Name: n.Name, OK: n.Enough(), Required: true, Detail: n.String(), For: "a lab of this size"}
		if !f.OK {
			f.Cure = n.Cure + ", or a smaller lab"
		}
		found = append(found, f)
	}
	return found
}

// needed says whether a lab of the plan fails without what was looked at.
// Backends and Calico's kinds of network are named for what wraps packets.
func needed(p *lab.Plan, name string) bool {
	switch name {
	case tun:
		return p.Backend == "udp" || strings.Contains(p.Backend, "ipip")
	case "vxlan":
		return strings.Contains(p.Backend, "vxlan")
	}
	return false
}

// namespaces adds the settings that decide whether ordinary users may make
// them to what was found by trying.
func namespaces(probed []Finding, rootless bool) []Finding {
	able := true
	for _, f := range probed {
		able = able && (f.OK || !strings.HasSuffix(f.Name, "namespaces"))
	}
	settings := lab.UserNamespaceSettings("/proc")
	if rootless && slices.ContainsFunc(settings, func(s lab.Setting) bool { return s.Forbids }) {
		for i := range probed {
			if f := &probed[i]; !f.OK && f.Name == networkNamespaces {
				f.Cure = lab.UserNamespacesCure(settings)
			}
		}
	}
	return append(probed, userNamespaces(settings, rootless, able)...)
}

func kernelVersion() Finding {
	f := Finding{Name: "kernel", Required: true, For: "every lab", Cure: "labs need Linux 5.14 or newer"}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		f.Detail = err.Error()
		return f
	}
	f.Detail = unix.ByteSliceToString(u.Release[:]) + " " + unix.ByteSliceToString(u.Machine[:])
	var major, minor int
	if _, err := fmt.Sscanf(f.Detail, "%d.%d", &major, &minor); err == nil {
		f.OK = major > 5 || major == 5 && minor >= 14
	}
	return f
}

func openFiles() Finding {
	f := Finding{Name: "open files", Required: true, For: "etcd (200) and about 9 for each namespace of a lab", Cure: "ulimit -Hn 4096 (as root)"}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		f.Detail = err.Error()
		return f
	}
	f.Detail = fmt.Sprintf("limit %d", r.Max)
	f.OK = r.Max >= 256
	return f
}

// probe runs the probing process in namespaces of its own.
func probe(ctx context.Context) []Finding {
	const name = "namespaces"
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "__probe")
	cmd.Args[0] = "labctl"
	cmd.SysProcAttr = lab.NamespaceAttr()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && out.Len() == 0 {
		return []Finding{{Name: name, Required: true, For: "every lab", Cure: lab.NamespaceFailure(err).Cure,
			Detail: strings.TrimSpace(err.Error() + " " + errs.String())}}
	}
	found := []Finding{{Name: name, OK: true, Required: true, For: "every lab", Detail: "pid, mount and network" + map[bool]string{true: ", in a user namespace", false: ""}[lab.Rootless()]}}
	var more []Finding
	if err := json.Unmarshal(out.Bytes(), &more); err != nil {
		return append(found, Finding{Name: "probe", Required: true, For: "every lab", Detail: err.Error(), Cure: "report this as a bug of labctl"})
	}
	return append(found, more...)
}

func neighbourTable() Finding {
	const path = "/proc/sys/net/ipv4/neigh/default/gc_thresh3"
	f := Finding{Name: "neighbour table", OK: true, For: "big labs: above half of it, neighbours are set beforehand"}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Detail = "cannot be read; 1024 is assumed"
		return f
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		f.OK, f.Detail, f.Cure = false, err.Error(), "look at "+path
		return f
	}
	f.Detail = fmt.Sprintf("%d entries for the whole machine", n)
	return f
}

// tools are programs that labctl can do without, and people often not.
func tools() []Finding {
	var found []Finding
	for _, t := range []struct{ program, pkg, use string }{
		{"ip", "iproute2", "looking at links and routes"},
		{"bridge", "iproute2", "looking at forwarding databases"},
		{"nft", "nftables", "looking at firewall rules"},
		{"tcpdump", "tcpdump", "looking at packets"},
		{"iperf3", "iperf3", "measuring with a known tool"},
		{"etcdctl", "etcd-client", "looking into the store"},
		{"bird", "bird2", "BGP speakers that are bird, as in calico-mixed-bird"},
	} {
		f := Finding{Name: t.program, For: t.use}
		if path, err := exec.LookPath(t.program); err == nil {
			f.OK, f.Detail = true, path
		} else if path, err := exec.LookPath("/usr/sbin/" + t.program); err == nil {
			f.OK, f.Detail = true, path+" (not in PATH)"
		} else {
			f.Detail, f.Cure = "not found", "install it (Debian: "+t.pkg+")"
		}
		found = append(found, f)
	}
	return found
}
