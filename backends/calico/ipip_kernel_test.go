package calico

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"labctl/nodes"
	"labctl/nodes/nodestest"
)

// Of packets of protocol 4 the kernel's device gets those of the network's
// hosts, and nftables counts the others'. A raw socket stands in its place here.
func TestIPIPSenders(t *testing.T) {
	t.Parallel()
	nodestest.Require(t, nodestest.Netns, nodestest.NFT, nodestest.Tool("nft"))
	ns, err := nodes.NewNamespaces([]string{"h1", "others"})
	if err != nil {
		t.Fatal(err)
	}
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	state := [2]nodes.State{
		{Links: []nodes.Link{nodes.Veth{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}, PeerNamespace: ns[1], PeerName: "eth0"}},
			Addrs: []nodes.Addr{{Dev: "eth0", Prefix: prefix("192.168.50.1/24")}}},
		{Links: []nodes.Link{nodes.Port{LinkAttrs: nodes.LinkAttrs{Name: "eth0"}}},
			Addrs: []nodes.Addr{{Dev: "eth0", Prefix: prefix("192.168.50.2/24")}, {Dev: "eth0", Prefix: prefix("192.168.50.3/24")}}},
	}
	desired, problems := Desired(Host{
		Config:   Config{Pool: prefix("10.244.0.0/16"), BlockSize: 26, Encapsulation: IPIP, Routes: FromStore, MaxBlocks: 1},
		Underlay: nodes.Underlay{Dev: "eth0", Addr: addr("192.168.50.1"), Prefix: prefix("192.168.50.1/24"), MTU: 1500},
		Remotes:  []Remote{{prefix("10.244.2.0/26"), "node2", addr("192.168.50.2"), netip.Addr{}}},
	})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	state[0].Tables = desired.Tables
	socket := [2]int{}
	for i, n := range ns {
		t.Cleanup(func() { n.Close() })
		r, err := nodes.NewReconciler(n, nodes.Owner{Name: "test", Protocol: 91})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		r.Set(state[i])
		if _, err := r.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.Do(func() (err error) {
			socket[i], err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_IPIP)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer unix.Close(socket[i])
	}
	send := func(from string, n int) {
		t.Helper()
		if err := unix.Bind(socket[1], &unix.SockaddrInet4{Addr: addr(from).As4()}); err != nil {
			t.Fatal(err)
		}
		for range n {
			if err := unix.Sendto(socket[1], []byte("a packet"), 0, &unix.SockaddrInet4{Addr: [4]byte{192, 168, 50, 1}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	send("192.168.50.3", 2)
	send("192.168.50.2", 3)
	nodestest.Eventually(t, 5*time.Second, func() error {
		list, err := nodestest.Run(ns[0], "nft", "list", "table", "inet", "labctl-ipip")
		if err != nil {
			return err
		}
		for _, want := range []string{"elements = { 192.168.50.2 }", `ip saddr @hosts meta l4proto ipencap counter packets 3 bytes 84 accept`, `meta l4proto ipencap counter packets 2 bytes 56 drop`} {
			if !strings.Contains(strings.ReplaceAll(list, "ip protocol 4", "meta l4proto ipencap"), want) {
				return fmt.Errorf("want %q in\n%s", want, list)
			}
		}
		return nil
	})
	limit := unix.NsecToTimeval(int64(5 * time.Second))
	if err := unix.SetsockoptTimeval(socket[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for range 3 {
		if n, _, err := unix.Recvfrom(socket[0], buf, 0); err != nil || n != 28 || buf[15] != 2 {
			t.Fatalf("%x, %v, want a packet of 192.168.50.2", buf[:max(n, 0)], err)
		}
	}
	if n, _, err := unix.Recvfrom(socket[0], buf, unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("%x, %v: want no more packets", buf[:max(n, 0)], err)
	}
}
