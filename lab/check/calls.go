package check

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"labctl/backends"
	"labctl/lab"
)

// What calls sends: bursts that the sender's kernel cuts into packets of this
// size (UDP_SEGMENT), or leaves whole where the agent's device takes them so.
const (
	rounds        = 5
	roundOf       = 10 // bursts
	burstOf       = 40 // packets
	payload       = 1400
	carriedWithin = 300 * time.Millisecond // a round
)

// calls sends packets and divides what their node's agent says it did.
func (r *Runner) calls(ctx context.Context, c lab.CallsCheck) (string, error) {
	expected := fmt.Sprintf("%v to %v system calls a packet", c.Least, c.Most)
	node, _, _ := strings.Cut(c.From, ".")
	to, err := r.client.Address(ctx, c.To)
	if err != nil {
		return expected, err
	}
	sink, addr, err := r.udpSocket(ctx, c.To, to)
	if err != nil {
		return expected, err
	}
	defer sink.Close()
	from, err := r.client.Socket(ctx, c.From, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return expected, err
	}
	defer from.Close()
	fd := int(from.Fd())
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, payload); err != nil {
		return expected, fmt.Errorf("%s: UDP_SEGMENT: %w", c.From, err)
	}
	// The path is warm, so that no packet waits for an ARP answer.
	if _, err := r.ping(ctx, lab.PingCheck{From: c.From, To: to.String()}); err != nil {
		return expected, err
	}
	before, err := r.traffic(ctx, node)
	if err != nil {
		return expected, err
	}
	burst := make([]byte, burstOf*payload)
	var now backends.Flow
	for round := range rounds {
		// What a TUN's queue holds, no more: what it drops nobody carries.
		for range roundOf {
			if err := unix.Sendto(fd, burst, 0, addr); err != nil {
				return expected, fmt.Errorf("%s: send: %w", c.From, err)
			}
		}
		for deadline := time.Now().Add(carriedWithin); ; {
			if now, err = r.traffic(ctx, node); err != nil {
				return expected, err
			}
			if now.Packets-before.Packets >= uint64((round+1)*roundOf*burstOf) || time.Now().After(deadline) {
				break
			}
		}
	}
	packets, calls := now.Packets-before.Packets, now.Calls-before.Calls
	if packets < rounds*roundOf*burstOf/2 {
		return expected, &failure{expected, fmt.Sprintf("%d of %d packets carried", packets, rounds*roundOf*burstOf)}
	}
	each := float64(calls) / float64(packets)
	if each > c.Most && c.Most < 1 {
		if v := kernel(); v != "" && !burstsFromTUN(v) {
			return expected, &unableError{fmt.Sprintf("this kernel, %s, hands over one UDP packet at a time: a TUN device takes bursts from Linux 6.2 on; %.2f measured", v, each)}
		}
	}
	if each < c.Least || each > c.Most {
		return expected, &failure{expected, fmt.Sprintf("%.2f (%d calls, %d packets)", each, calls, packets)}
	}
	return fmt.Sprintf("%s; %.2f measured", expected, each), nil
}

// burstsFromTUN says whether a kernel of this release has TUN_F_USO4: without, it
// cuts what is sent in bursts before the agent can read it.
func burstsFromTUN(release string) bool {
	var major, minor int
	_, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return err != nil || major > 6 || major == 6 && minor >= 2
}

// kernel is the running kernel's release, "" when it does not tell.
func kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// udpSocket is a bound one: what comes finds a port, and the sender no error.
func (r *Runner) udpSocket(ctx context.Context, endpoint string, a netip.Addr) (*os.File, unix.Sockaddr, error) {
	f, err := r.client.Socket(ctx, endpoint, unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Bind(int(f.Fd()), &unix.SockaddrInet4{Addr: a.As4()}); err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: bind: %w", endpoint, err)
	}
	sa, err := unix.Getsockname(int(f.Fd()))
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("%s: getsockname: %w", endpoint, err)
	}
	return f, sa, nil
}

// traffic is what a node's agent has sent so far.
func (r *Runner) traffic(ctx context.Context, node string) (backends.Flow, error) {
	st, err := r.client.Status(ctx)
	if err != nil {
		return backends.Flow{}, err
	}
	for _, n := range st.Nodes {
		if n.Name == node && n.Traffic != nil {
			return n.Traffic.Out, nil
		}
	}
	return backends.Flow{}, errors.New(node + ": its agent carries no packets itself")
}
