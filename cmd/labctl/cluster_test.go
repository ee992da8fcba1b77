package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hosts stand for real machines: a lab without network, so without etcd and
// agents of labctl's own.
const hosts = `name: hosts
segments: {lan: {subnet: 192.168.50.0/24}}
nodes:
  node1: {subnet: 172.17.0.0/16}
  node2: {subnet: 172.17.0.0/16}
  node3: {subnet: 172.17.0.0/16}
  node4: {subnet: 172.17.0.0/16}
`

// cluster is a real etcd of three members, on node1 to node3 of a lab, with
// TLS and with users.
type cluster struct {
	*running
	dir     string // of certificates, data and programs, the user's
	program string // labctl
	members map[string]*background
}

// background is a program that runs in an endpoint.
type background struct {
	cmd    *exec.Cmd
	output watched
	ended  chan struct{}
}

// start runs a program in an endpoint until the test is over.
func (l *running) start(t *testing.T, endpoint string, env []string, argv ...string) *background {
	t.Helper()
	b := &background{cmd: l.command(append([]string{"exec", "-l", l.name, endpoint, "--"}, argv...)...), ended: make(chan struct{})}
	b.cmd.Env = append(b.cmd.Env, env...)
	b.cmd.Stdout, b.cmd.Stderr = &b.output, &b.output
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(b.ended)
		_ = b.cmd.Wait() // the status is asked for by exit
	}()
	t.Cleanup(func() {
		b.end(t)
		if out := b.output.String(); t.Failed() && argv[0] != "ping" {
			t.Logf("%s: %s:\n%s", endpoint, strings.Join(argv, " "), out[max(0, len(out)-3000):])
		}
	})
	return b
}

// end asks the program to end, and returns its status.
func (b *background) end(t *testing.T) int {
	t.Helper()
	_ = b.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	return b.exit(t)
}

// exit waits for the program's end.
func (b *background) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(20 * time.Second):
		t.Errorf("%s: does not end", strings.Join(b.cmd.Args, " "))
		_ = b.cmd.Process.Kill() // a failure in any case
		<-b.ended
	}
	return b.cmd.ProcessState.ExitCode()
}

// says waits for a line.
func (b *background) says(t *testing.T, re string) {
	t.Helper()
	line := regexp.MustCompile("(?m)" + re)
	eventually(t, 20*time.Second, func() error {
		if out := b.output.String(); !line.MatchString(out) {
			return fmt.Errorf("no line %s in\n%s", re, out)
		}
		return nil
	})
}

// newCluster brings up the hosts and the three members.
func newCluster(t *testing.T, u user) *cluster {
	t.Helper()
	dir := filepath.Join(u.runtime, "cluster")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chown(dir, u.uid, -1)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "hosts.yaml")
	certificates(t, u, dir)
	write(t, u, file, []byte(hosts))
	c := &cluster{dir: dir, program: filepath.Join(dir, "labctl"), members: map[string]*background{}}
	for _, name := range []string{c.program, filepath.Join(dir, "labget")} {
		if err := errors.Join(copyProgram(name), os.Chown(name, u.uid, -1)); err != nil {
			t.Fatal(err)
		}
	}
	c.running = u.up(t, file)
	names := []string{"node1", "node2", "node3"}
	var peers []string
	for i, n := range names {
		peers = append(peers, fmt.Sprintf("%s=https://192.168.50.%d:2380", n, i+1))
	}
	for i, n := range names {
		at := fmt.Sprintf("https://192.168.50.%d:", i+1)
		c.members[n] = c.start(t, n, nil, "etcd", "--name", n, "--data-dir", filepath.Join(dir, n), "--logger", "zap", "--log-level", "error",
			"--listen-client-urls", at+"2379", "--advertise-client-urls", at+"2379",
			"--listen-peer-urls", at+"2380", "--initial-advertise-peer-urls", at+"2380",
			"--initial-cluster", strings.Join(peers, ","), "--initial-cluster-state", "new",
			"--cert-file", dir+"/etcd.pem", "--key-file", dir+"/etcd.key",
			"--peer-cert-file", dir+"/etcd.pem", "--peer-key-file", dir+"/etcd.key", "--peer-trusted-ca-file", dir+"/ca.pem")
	}
	eventually(t, 20*time.Second, func() error {
		_, stderr, code := c.try(t, c.etcdctlArgs("", "endpoint", "health")...)
		if code != 0 {
			return errors.New(stderr)
		}
		return nil
	})
	return c
}

// endpoints are the members' as agents are told them.
const endpoints = "https://192.168.50.1:2379,https://192.168.50.2:2379,https://192.168.50.3:2379"

func (c *cluster) etcdctlArgs(login string, args ...string) []string {
	argv := []string{"exec", "-l", c.name, "node4", "--", "env", "ETCDCTL_API=3", "etcdctl", "--endpoints", endpoints, "--cacert", c.dir + "/ca.pem"}
	if login != "" {
		argv = append(argv, "--user", login)
	}
	return append(argv, args...)
}

// etcdctl is etcd's own client, as root of the store.
func (c *cluster) etcdctl(t *testing.T, args ...string) string {
	t.Helper()
	return c.run(t, c.etcdctlArgs("root:secret", args...)...)
}

// leases are what the store holds of the hosts, by etcdctl.
func (c *cluster) leases(t *testing.T) []storedLease {
	t.Helper()
	var r struct{ KVs []storedLease }
	unmarshal(t, c.etcdctl(t, "get", "--prefix", "/coreos.com/network/subnets/", "-w", "json"), &r)
	return r.KVs
}

// agentArgs is an agent that has all that it needs for the store.
func (c *cluster) agentArgs(node string, args ...string) []string {
	return append([]string{c.program, "agent", "-etcd-endpoints=" + endpoints, "-etcd-cafile=" + c.dir + "/ca.pem",
		"-etcd-username", "flannel", "-etcd-password", "hosts", "-subnet-file=" + c.subnetFile(node)}, args...)
}

func (c *cluster) subnetFile(node string) string { return filepath.Join(c.dir, node+".env") }

// joined waits until a node's agent is ready, and gives the node the first
// address of its subnet.
func (c *cluster) joined(t *testing.T, node string, b *background) (addr string) {
	t.Helper()
	b.says(t, "msg=ready subnet=10.244.*")
	text, err := os.ReadFile(c.subnetFile(node))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^FLANNEL_SUBNET=(.*)/24$`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("%s:\n%s", c.subnetFile(node), text)
	}
	addr = string(m[1])
	c.exec(t, node, "ip", "address", "add", addr+"/32", "dev", "lo")
	return addr
}

// get fetches a URL in a node.
func (c *cluster) get(t *testing.T, node, url string) (code int, body string) {
	t.Helper()
	stdout, stderr, exit := c.try(t, "exec", "-l", c.name, node, "--", filepath.Join(c.dir, "labget"), url)
	if exit != 0 {
		t.Fatalf("%s: %s", url, stderr)
	}
	first, body, _ := strings.Cut(stdout, "\n")
	code, err := strconv.Atoi(first)
	if err != nil {
		t.Fatalf("%s: %s", url, stdout)
	}
	return code, body
}

// labget prints the status and the body of what its argument names.
func labget() {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Agents on hosts that no lab's supervisor knows, and a cluster of etcd's own
// program with TLS and users: what is wrong is told in a line, what is right
// becomes a network, and a member's death is not noticed.
func TestAgentOnRealCluster(t *testing.T) {
	t.Parallel()
	needTool(t, "etcd", "etcdctl", "ip", "ping", "env")
	u := users(t)[0]
	c := newCluster(t, u)

	for _, argv := range [][]string{
		{"user", "add", "root:secret"}, {"user", "grant-role", "root", "root"},
		{"role", "add", "hosts"}, {"role", "grant-permission", "hosts", "readwrite", "--prefix=true", "/coreos.com/network/"},
		{"user", "add", "flannel:hosts"}, {"user", "grant-role", "flannel", "hosts"}, {"auth", "enable"},
	} {
		// root's role is there from the start in some versions.
		c.run(t, c.etcdctlArgs("", argv...)...)
	}

	t.Run("one line for each mistake", func(t *testing.T) {
		for name, tt := range map[string]struct {
			args []string
			want string
		}{
			"another CA":     {[]string{"-etcd-cafile=" + c.dir + "/other.pem"}, `err="its certificate is not signed by [^"]*/other\.pem" cure="give the cluster's CA: --etcd-cafile"`},
			"the machine's":  {[]string{"-etcd-cafile="}, `err="its certificate is not signed by any authority that this machine trusts"`},
			"no TLS":         {[]string{"-etcd-endpoints=http://192.168.50.1:2379", "-etcd-cafile="}, `err="it hangs up" cure="if it encrypts, write https://`},
			"wrong password": {[]string{"-etcd-password=wrong"}, `err="wrong user or password \(user flannel\)"`},
			"no user":        {[]string{"-etcd-username=", "-etcd-password="}, `err="it wants a user" cure="give --etcd-username`},
			"another prefix": {[]string{"-etcd-prefix=/other"}, `err="user flannel may not do that" cure="etcdctl role grant-permission`},
			"nobody there":   {[]string{"-etcd-endpoints=https://192.168.50.4:2379"}, `err="dial tcp 192.168.50.4:2379: connect: connection refused" cure="start etcd there`},
			"no config":      {nil, `msg="no network config" err="/coreos.com/network/config: not found in etcd" cure="etcdctl put /coreos.com/network/config `},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := c.start(t, "node4", nil, c.agentArgs("node4", append([]string{"-iface=eth0"}, tt.args...)...)...)
				b.says(t, tt.want)
				if code := b.end(t); code != 0 {
					t.Errorf("exit status %d after SIGTERM, want 0", code)
				}
				if lines := strings.Count(b.output.String(), "level=WARN"); lines != 1 {
					t.Errorf("%d lines, want one:\n%s", lines, b.output.String())
				}
			})
		}
		for name, tt := range map[string]struct {
			args []string
			code int
			want string
		}{
			"NAT":        {[]string{"-public-ip=203.0.113.9"}, 1, `^labctl: underlay: no device here has the public address 203\.0\.113\.9; an address that NAT brings here is not supported\n  cure: .*eth0 192\.168\.50\.4`},
			"no default": {nil, 1, `^labctl: underlay: there is no default route to take the device of\n  cure: name the device with --iface: .*eth0 192\.168\.50\.4`},
			"no match":   {[]string{"-iface-regex=^wl"}, 1, `^labctl: underlay: no device fits --iface-regex \^wl\n  cure: `},
			"no CA":      {[]string{"-iface=eth0", "-etcd-cafile=/nowhere"}, 2, `^labctl: etcd: CA: open /nowhere: no such file or directory\n  cure: `},
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				b := c.start(t, "node4", nil, c.agentArgs("node4", tt.args...)...)
				if code := b.exit(t); code != tt.code || !regexp.MustCompile(tt.want).MatchString(b.output.String()) {
					t.Errorf("exit status %d, want %d and %s\n%s", code, tt.code, tt.want, b.output.String())
				}
			})
		}
	})

	c.etcdctl(t, "put", "/coreos.com/network/config", `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`)
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(c.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	if err := os.Chown(filepath.Join(c.dir, "notify"), u.uid, -1); err != nil {
		t.Fatal(err)
	}
	one := c.start(t, "node1", []string{"NOTIFY_SOCKET=" + filepath.Join(c.dir, "notify")},
		c.agentArgs("node1", "-iface=eth0", "--ip-masq", "-healthz-port=8471", "-healthz-ip=127.0.0.1")...)
	// All by variables; a regex for the device.
	two := c.start(t, "node2", []string{"FLANNELD_ETCD_ENDPOINTS=" + endpoints, "FLANNELD_ETCD_CAFILE=" + c.dir + "/ca.pem",
		"FLANNELD_ETCD_USERNAME=flannel", "FLANNELD_ETCD_PASSWORD=hosts", "FLANNELD_IFACE_REGEX=^192\\.168\\.", "FLANNELD_SUBNET_FILE=" + c.subnetFile("node2")},
		c.program, "agent")
	addr1, addr2 := c.joined(t, "node1", one), c.joined(t, "node2", two)
	t.Logf("node1 %s, node2 %s", addr1, addr2)
	datagram := make([]byte, 100)
	if err := manager.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := manager.Read(datagram); err != nil || string(datagram[:n]) != "READY=1" {
		t.Errorf("service manager was told %q, %v, want READY=1", datagram[:n], err)
	}
	for _, path := range []string{"healthz", "readyz"} {
		code, body := c.get(t, "node1", "http://127.0.0.1:8471/"+path)
		var h struct {
			Healthy, Ready bool
			Subnet         string
			Expires        time.Time
		}
		unmarshal(t, body, &h)
		if code != 200 || !h.Healthy || !h.Ready || !strings.HasPrefix(addr1, strings.TrimSuffix(h.Subnet, "0/24")) {
			t.Errorf("%s = %d, %s", path, code, body)
		}
		if left := time.Until(h.Expires); left < 23*time.Hour || left > 24*time.Hour {
			t.Errorf("%s: the lease ends in %v, want flannel's 24 h", path, left)
		}
	}

	// node2 hears of node1 when it hears of it.
	eventually(t, 10*time.Second, func() error {
		stdout, _, code := c.try(t, "exec", "-l", c.name, "node1", "--", "ping", "-n", "-c", "1", "-W", "1", "-I", addr1, addr2)
		if code != 0 {
			return errors.New(stdout)
		}
		return nil
	})
	pings := c.start(t, "node1", nil, "ping", "-n", "-i", "0.02", "-W", "5", "-I", addr1, addr2)
	pings.says(t, "bytes from "+addr2)
	before := c.leases(t)
	if len(before) != 2 {
		t.Fatalf("%d leases, want 2", len(before))
	}
	dead := c.killLeader(t)

	t.Run("with a member dead", func(t *testing.T) {
		three := c.start(t, "node4", nil, c.agentArgs("node4", "-iface-can-reach=192.168.50.1", "-public-ip=192.168.50.4")...)
		addr3 := c.joined(t, "node4", three)
		c.exec(t, "node1", "ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", "-I", addr1, addr3)
		// Not the route that the pings take: until it is back they would be lost.
		to := strings.TrimSuffix(addr3, "1") + "0/24"
		c.exec(t, "node1", "ip", "route", "del", to)
		one.says(t, `msg=healed what=".*route `+to)
		if out := c.exec(t, "node1", "ip", "route", "show", to); !strings.Contains(out, "flannel.1") {
			t.Errorf("route to %s: %q", to, out)
		}
		after := c.leases(t)
		if len(after) != 3 {
			t.Errorf("%d leases, want 3", len(after))
		}
		kept := slices.DeleteFunc(after, func(l storedLease) bool { return strings.Contains(string(l.Value), `"192.168.50.4"`) })
		sameLeases(t, before, kept)
		if code := three.end(t); code != 0 {
			t.Errorf("exit status %d after SIGTERM, want 0", code)
		}
		if out := c.exec(t, "node4", "ip", "route", "show", "dev", "flannel.1"); !strings.Contains(out, strings.TrimSuffix(addr2, "1")+"0/24") {
			t.Errorf("after its agent's end node4's routes:\n%s\nwant them as they were", out)
		}
		if n := len(c.leases(t)); n != 3 {
			t.Errorf("after an agent's end %d leases, want 3", n)
		}
	})

	_ = pings.cmd.Process.Signal(syscall.SIGINT) // exit sees what comes of it
	pings.exit(t)
	if out := pings.output.String(); !regexp.MustCompile(`(\d+) packets transmitted, (\d+) received, 0% packet loss`).MatchString(out) {
		t.Errorf("pings while a member died, want none lost; there are %v of\n%s",
			regexp.MustCompile(`icmp_seq=\d+`).FindAllString(out, -1), out[max(0, len(out)-200):])
	}

	t.Run("a deleted key is registered again", func(t *testing.T) {
		key := "/coreos.com/network/subnets/" + strings.TrimSuffix(addr2, "1") + "0-24"
		c.etcdctl(t, "del", key)
		two.says(t, `msg=lease err=".*its key was deleted"`)
		eventually(t, 10*time.Second, func() error {
			if out := c.etcdctl(t, "get", key); !strings.Contains(out, `"192.168.50.2"`) {
				return fmt.Errorf("%s: %q", key, out)
			}
			return nil
		})
		c.exec(t, "node1", "ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", "-I", addr1, addr2)
	})
	t.Run("two with one address", func(t *testing.T) {
		twin := c.start(t, "node2", nil, c.agentArgs("twin", "-iface=192.168.50.2")...)
		if code := two.exit(t); code != 1 || !strings.Contains(two.output.String(), "another agent with the same public address") {
			t.Errorf("exit status %d, want 1 and why\n%s", code, two.output.String())
		}
		twin.says(t, "msg=ready")
	})
	t.Run("without a majority", func(t *testing.T) {
		node := "node1"
		if dead == node {
			node = "node2"
		}
		c.kill(t, node)
		one.says(t, `msg="etcd does not answer" endpoints=.* err=.* cure=`)
		code, body := c.get(t, "node1", "http://127.0.0.1:8471/readyz")
		if code != 200 || !strings.Contains(body, "etcd does not answer since") {
			t.Errorf("readyz = %d, %s, want 200, for traffic goes on, and the reason", code, body)
		}
		c.exec(t, "node1", "ping", "-n", "-c", "3", "-i", "0.2", "-W", "5", "-I", addr1, addr2)
		if code := one.end(t); code != 0 {
			t.Errorf("exit status %d after SIGTERM, want 0", code)
		}
	})
}

// killLeader kills the member that leads, as kill -9 does.
func (c *cluster) killLeader(t *testing.T) (node string) {
	t.Helper()
	var all []struct {
		Endpoint string
		Status   struct {
			Header struct {
				MemberID uint64 `json:"member_id"`
			} `json:"header"`
			Leader uint64 `json:"leader"`
		}
	}
	unmarshal(t, c.etcdctl(t, "endpoint", "status", "-w", "json"), &all)
	for i, m := range all {
		if m.Status.Leader == m.Status.Header.MemberID {
			node := fmt.Sprintf("node%d", i+1)
			c.kill(t, node)
			t.Logf("killed the leader, %s", node)
			return node
		}
	}
	t.Fatalf("no leader in %+v", all)
	return ""
}

// kill kills a member as kill -9 does. Its pid is that of the lab's namespace.
func (c *cluster) kill(t *testing.T, node string) {
	t.Helper()
	c.exec(t, node, "sh", "-c", `for p in /proc/[0-9]*; do
		if tr '\0' ' ' <$p/cmdline | grep -q "^etcd --name `+node+` .*`+c.dir+`"; then kill -9 ${p#/proc/}; fi; done`)
	c.members[node].exit(t)
}

// certificates writes a CA, a certificate for the members signed by it, and
// another CA.
func certificates(t *testing.T, u user, dir string) {
	t.Helper()
	ca, caKey := certificate(t, u, dir, "ca", nil, nil)
	certificate(t, u, dir, "etcd", ca, caKey)
	certificate(t, u, dir, "other", nil, nil)
}

// certificate writes one, for the members when there is somebody who signs it.
func certificate(t *testing.T, u user, dir, name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, BasicConstraintsValid: true,
	}
	if parent == nil {
		cert.IsCA, parent, by = true, cert, key
	} else {
		cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		for i := range 3 {
			cert.IPAddresses = append(cert.IPAddresses, net.IPv4(192, 168, 50, byte(i+1)))
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, u, filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, u, filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return cert, key
}

func write(t *testing.T, u user, file string, text []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file, text, 0o600), os.Chown(file, u.uid, -1)); err != nil {
		t.Fatal(err)
	}
}
