package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// world is the machine that labs are killed on: everything in it is ours or
// planted.
type world struct {
	labctl  string
	users   []user
	planted []*exec.Cmd
}

// user is somebody whose labs are killed.
type user struct {
	name    string
	uid     int
	runtime string // XDG_RUNTIME_DIR
}

// ordinary is an ordinary user's number, of nobody on a usual machine.
const ordinary = 54321

// newWorld makes the namespaces that the program is in a machine with other
// people's things on it.
func newWorld(labctl string) (*world, error) {
	w := &world{labctl: "/run/bin/labctl", users: []user{{"root", 0, "/run/user0"}}}
	program, err := os.ReadFile(labctl)
	if err != nil {
		return nil, err
	}
	for dir, mode := range map[string]string{"/run": "mode=755", "/tmp": "mode=1777"} {
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, mode); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	}
	if b, err := os.ReadFile("/proc/self/uid_map"); err == nil && len(strings.Fields(string(b))) == 3 && strings.Fields(string(b))[2] != "1" {
		w.users = append(w.users, user{"user", ordinary, "/run/user1"})
	}
	for _, d := range []string{"bin", "netns", "work", "flannel", "labctl-other"} {
		if err := os.Mkdir("/run/"+d, 0o755); err != nil {
			return nil, err
		}
	}
	for _, u := range w.users {
		if err := errors.Join(os.Mkdir(u.runtime, 0o700), os.Chown(u.runtime, u.uid, u.uid)); err != nil {
			return nil, err
		}
	}
	for path, text := range map[string]string{
		w.labctl:                           string(program),
		"/run/work/lab.yaml":               labFile,
		"/run/flannel/subnet.env":          "FLANNEL_SUBNET=10.244.9.1/24\n",
		"/run/labctl-other/record.json":    `{"name":"other"}`,
		"/run/netns/" + labName + ".mine":  "a file of somebody's\n",
		"/run/work/" + labName + ".backup": "another\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Symlink("/proc/self/ns/net", "/run/netns/"+labName+".link"); err != nil {
		return nil, err
	}
	out, err := exec.Command("sh", "-e", "-c", strings.ReplaceAll(plant, "LAB", labName)).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("other people's things: %w: %s", err, out)
	}
	// Processes: one in each named namespace, a container with namespaces of its
	// own, and two that look as if they were labctl's.
	for _, argv := range [][]string{
		{"ip", "netns", "exec", "other", "sleep", "1000000"},
		{"ip", "netns", "exec", labName + ".node9", "sleep", "1000000"},
		{"unshare", "--net", "--pid", "--fork", "--kill-child", "sleep", "1000000"},
		{"sleep", "1000000"},
		{"sh", "-c", "read x", "__init", "/run/labctl/" + labName},
	} {
		cmd := exec.Command(argv[0], argv[1:]...)
		if len(w.planted) >= 3 {
			cmd.Args[0] = "labctl"
		}
		if _, err := cmd.StdinPipe(); err != nil { // held open: read waits
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		w.planted = append(w.planted, cmd)
	}
	// They are there when they are what they will be.
	deadline := time.Now().Add(10 * time.Second)
	for n := 0; n < 6; {
		if n = 0; time.Now().After(deadline) {
			return nil, errors.New("other people's processes: not all have started")
		}
		all, err := processes()
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			if strings.HasSuffix(p.args, "sleep 1000000") && !strings.HasPrefix(p.args, "ip ") || strings.HasPrefix(p.args, "labctl ") {
				n++
			}
		}
	}
	return w, nil
}

const labName = "crash"

// labFile is a small lab with all kinds of processes.
const labFile = `name: crash
network: {Network: 10.244.0.0/16, Backend: {Type: vxlan}}
segments: {lan: {subnet: 192.168.50.0/24}}
nodes: 2
`

// plant makes what other people have: some of it is called, or marked, as
// labctl's own things are in its labs.
const plant = `
for f in all default; do echo 1 >/proc/sys/net/ipv6/conf/$f/disable_ipv6; done # it would change by itself
ip link set lo up
ip netns add other
ip netns add LAB.node9
ip netns add LAB-x.node1
ip link add br0 type bridge
ip link add docker0 type bridge
ip link add cni0 type bridge
ip link add mine0 type bridge
ip link add eth0 type veth peer name eth0 netns other
ip link add veth1 type veth peer name node1 netns LAB.node9
ip link add flannel.1 type vxlan id 1 dev mine0 dstport 8472
for d in br0 docker0 cni0 mine0 eth0 veth1 flannel.1; do ip link set $d up; done
ip address add 192.168.50.1/24 dev br0
ip address add 10.244.1.0/32 dev flannel.1
ip route add 10.244.2.0/24 via 192.168.50.2 proto 97
ip route add 10.244.3.0/24 dev mine0 proto 96
ip route add blackhole 10.99.0.0/16 table 77
ip rule add from 10.244.0.0/16 table 77
ip neigh add 192.168.50.2 lladdr 02:01:c0:a8:32:02 dev br0 nud permanent
bridge fdb add 02:00:00:00:00:07 dev flannel.1 dst 192.168.50.7
nft add table inet labctl-flannel
nft add chain inet labctl-flannel postrouting '{ type nat hook postrouting priority 100; }'
nft add rule inet labctl-flannel postrouting ip saddr 10.244.0.0/16 masquerade
nft add table ip filter
ip netns exec other nft add table inet labctl-runtime
`

func (w *world) close() {
	for _, c := range w.planted {
		_ = c.Process.Kill() // none of them ends by itself
		_ = c.Wait()         // by that signal
	}
}

// look is all there is to see: each key a thing, each value what it is like.
func (w *world) look() (map[string]string, error) {
	seen := map[string]string{}
	if err := w.network(seen); err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		id, _, _ := strings.Cut(line, " ")
		seen["mount "+id] = line
	}
	if err := files(seen); err != nil {
		return nil, err
	}
	all, err := processes()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		seen[fmt.Sprintf("process %d", p.pid)] = p.start + " " + p.args
		for _, ns := range p.namespaces {
			seen["namespace "+ns] = "in use"
		}
	}
	return seen, nil
}

// network looks at every namespace that has a name of somebody's, and our own.
func (w *world) network(seen map[string]string) error {
	for _, ns := range []string{"", "other", labName + ".node9", labName + "-x.node1"} {
		for _, what := range []string{"ip link", "ip -d link show type vxlan", "ip address", "ip route show table all", "ip -6 route show table all", "ip rule", "ip neigh show nud permanent", "bridge fdb", "nft -s list ruleset"} {
			argv := strings.Fields(what)
			if ns != "" {
				argv = append([]string{"ip", "netns", "exec", ns}, argv...)
			}
			out, err := exec.Command(argv[0], argv[1:]...).Output()
			if err != nil {
				return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
			}
			n := 0
			for line := range strings.Lines(string(out)) {
				n++
				seen[fmt.Sprintf("%s, line %d", strings.Join(argv, " "), n)] = strings.TrimSpace(line)
			}
		}
	}
	return nil
}

// files looks at all of /run and /tmp.
func files(seen map[string]string) error {
	for _, root := range []string{"/run", "/tmp"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			s := fi.Mode().String()
			if st, ok := fi.Sys().(*syscall.Stat_t); ok {
				s += fmt.Sprintf(" %d:%d inode %d", st.Uid, st.Gid, st.Ino)
			}
			switch {
			case fi.Mode()&fs.ModeSymlink != 0:
				to, err := os.Readlink(path)
				if err != nil {
					return err
				}
				s += " -> " + to
			case fi.Mode().IsRegular() && fi.Size() < 1<<20:
				b, err := os.ReadFile(path)
				if err != nil && !errors.Is(err, syscall.EINVAL) { // a namespace's mount
					return err
				}
				s += fmt.Sprintf(" %x", sha256.Sum256(b))
			}
			seen["file "+path] = s
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// process is one that runs.
type process struct {
	pid         int
	start, args string   // start is in clock ticks after boot
	namespaces  []string // that it is in or holds open, net:[4026531840]
}

// processes are all but this one and its PID 1.
func processes() ([]process, error) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(filepath.Base(e))
		if err != nil || pid == os.Getpid() || pid == 1 {
			continue
		}
		args, err := os.ReadFile(e + "/cmdline")
		if err != nil {
			continue // gone
		}
		stat, err := os.ReadFile(e + "/stat")
		if err != nil {
			continue // gone
		}
		f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(f) < 20 {
			return nil, fmt.Errorf("%s/stat: %q", e, stat)
		}
		p := process{pid: pid, start: f[19], args: strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))}
		for _, pattern := range []string{"/ns/net", "/ns/mnt", "/ns/pid", "/ns/user", "/fd/*"} {
			links, err := filepath.Glob(e + pattern)
			if err != nil {
				return nil, err
			}
			for _, l := range links {
				if to, err := os.Readlink(l); err == nil && strings.Contains(to, ":[") && !strings.HasPrefix(to, "socket:") && !strings.HasPrefix(to, "pipe:") && !strings.HasPrefix(to, "anon_inode:") {
					p.namespaces = append(p.namespaces, to)
				}
			}
		}
		all = append(all, p)
	}
	return all, nil
}

// find is a process that was started so, 0 when there is none.
func find(args string) int {
	all, err := processes()
	if err != nil {
		return 0
	}
	for _, p := range all {
		if strings.HasPrefix(p.args, args) {
			return p.pid
		}
	}
	return 0
}

// compare tells what is there that was not before, and what of before is
// another now. What is dead may take a moment to go: it is looked for again.
func (w *world) compare(before map[string]string) (left, changed []string, err error) {
	deadline := time.Now().Add(3 * time.Second)
	for {
		now, err := w.look()
		if err != nil {
			return nil, nil, err
		}
		left, changed = differ(before, now)
		if len(left)+len(changed) == 0 || time.Now().After(deadline) {
			return left, changed, nil
		}
	}
}

// differ tells what is new, and what is gone or another.
func differ(before, now map[string]string) (left, changed []string) {
	for _, k := range slices.Sorted(maps.Keys(now)) {
		if _, ok := before[k]; !ok {
			left = append(left, k+": "+now[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(before)) {
		if now[k] != before[k] {
			changed = append(changed, fmt.Sprintf("%s: %q, was %q", k, now[k], before[k]))
		}
	}
	return left, changed
}

// run runs labctl as u, to its end.
func (w *world) run(u user, args ...string) (string, int, error) {
	cmd := w.command(u, args...)
	out, err := cmd.CombinedOutput()
	if ee, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), ee.ExitCode(), nil
	}
	return string(out), 0, err
}

func (w *world) command(u user, args ...string) *exec.Cmd {
	cmd := exec.Command(w.labctl, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+u.runtime)
	if u.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.uid)}}
	}
	return cmd
}

// base is where u's labs have their run directories.
func (u user) base() string {
	if u.uid == 0 {
		return "/run/labctl"
	}
	return u.runtime + "/labctl"
}
