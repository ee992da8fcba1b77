package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"labctl/lab"
	"labctl/lab/ping"
)

// answerTime is how long one packet's answer may take.
const answerTime = time.Second

func parseSubnet(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err
}

// address is an endpoint's or the one that text is, placeholders filled in.
func (r *Runner) address(ctx context.Context, text string) (netip.Addr, error) {
	text, err := lab.Expand(text, r.value)
	if err != nil {
		return netip.Addr{}, err
	}
	return r.client.Address(ctx, text)
}

func (r *Runner) pingAll(ctx context.Context) error {
	eps, done, err := Containers(ctx, r.client, r.status)
	if err != nil {
		return err
	}
	defer done()
	m, err := ping.All(ctx, eps, ping.Probe{Size: 56, Wait: answerTime})
	if err != nil {
		return err
	}
	lost := m.Lost()
	if len(lost) == 0 {
		return nil
	}
	from, to, _ := m.FirstLost()
	return &lostPair{failure{"every pair answers", fmt.Sprintf("%d of %d lost: %s", m.Sent-m.Received, m.Sent, strings.Join(lost, ", "))}, from, to}
}

// lostPair is the failure of a matrix, with its first pair that lost a packet.
type lostPair struct {
	failure
	from, to string
}

func (l *lostPair) Unwrap() error { return &l.failure }

// Containers opens a Pinger in every container of the nodes that have power.
// done closes them.
func Containers(ctx context.Context, c *lab.Client, st *lab.Status) (eps []ping.Endpoint, done func(), err error) {
	done = func() {
		for _, e := range eps {
			e.Pinger.Close()
		}
	}
	for _, n := range st.Nodes {
		if n.State == lab.Dead {
			continue
		}
		for _, ct := range n.Containers {
			name := n.Name + "." + ct.Name
			addr, err := netip.ParseAddr(ct.IP)
			if err != nil {
				done()
				return nil, nil, fmt.Errorf("%s: has no address yet", name)
			}
			p, err := c.Pinger(ctx, name)
			if err != nil {
				done()
				return nil, nil, err
			}
			eps = append(eps, ping.Endpoint{Name: name, Addr: addr, Pinger: p})
		}
	}
	return eps, done, nil
}

func (r *Runner) ping(ctx context.Context, c lab.PingCheck) (string, error) {
	expected := "an answer"
	if c.Expect == lab.ExpectFail {
		expected = "no answer"
	}
	to, err := r.address(ctx, c.To)
	if err != nil {
		return expected, err
	}
	p, err := r.client.Pinger(ctx, c.From)
	if err != nil {
		return expected, err
	}
	defer p.Close()
	size := c.Size
	if size == 0 {
		size = 56
	}
	res, err := p.Probe(ctx, ping.Probe{To: to, Size: size, DF: c.DF, Wait: answerTime})
	switch {
	case err != nil:
		return expected, err
	case c.Expect == lab.ExpectFail && res.Lost == "":
		return expected, &failure{expected, fmt.Sprintf("an answer after %v", res.RTT)}
	case c.Expect != lab.ExpectFail && res.Lost != "":
		return expected, &failure{expected, res.Lost}
	}
	return expected, nil
}

// mtu searches for the largest packet that passes unfragmented.
func (r *Runner) mtu(ctx context.Context, c lab.MTUCheck) (string, error) {
	expected := fmt.Sprintf("%d bytes pass and %d do not", c.Is, c.Is+1)
	to, err := r.address(ctx, c.To)
	if err != nil {
		return expected, err
	}
	p, err := r.client.Pinger(ctx, c.From)
	if err != nil {
		return expected, err
	}
	defer p.Close()
	passes := func(packet int) (bool, error) {
		res, err := p.Probe(ctx, ping.Probe{To: to, Size: packet - 28, DF: true, Wait: answerTime})
		return err == nil && res.Lost == "", err
	}
	// The answer is most often the expected one: look there first.
	low, high := 28, 65536
	for _, try := range []int{c.Is, c.Is + 1} {
		ok, err := passes(try)
		if err != nil {
			return expected, err
		}
		if ok {
			low = try
		} else {
			high = try
			break
		}
	}
	for high-low > 1 {
		mid := (low + high) / 2
		ok, err := passes(mid)
		if err != nil {
			return expected, err
		}
		if ok {
			low = mid
		} else {
			high = mid
		}
	}
	if low != c.Is {
		return expected, &failure{expected, fmt.Sprintf("%d bytes pass and %d do not", low, high)}
	}
	return expected, nil
}

// http fetches a URL over a socket that was opened in the endpoint.
func (r *Runner) http(ctx context.Context, c lab.HTTPCheck) (string, error) {
	expected := "an answer"
	if c.Match != "" {
		expected = "an answer like " + c.Match
	}
	if c.Expect == lab.ExpectFail {
		expected = "no answer"
	}
	url, err := lab.Expand(c.URL, r.value)
	if err != nil {
		return expected, err
	}
	body, err := r.fetch(ctx, c.From, url)
	if c.Expect == lab.ExpectFail {
		if err == nil {
			return expected, &failure{expected, fmt.Sprintf("%q", body)}
		}
		return expected, nil
	}
	if err != nil {
		return expected, &failure{expected, err.Error()}
	}
	re, err := lab.ExpandRegexp(c.Match, r.value)
	if err != nil {
		return expected, err
	}
	if !re.MatchString(body) {
		return expected, &failure{"an answer like " + expression(re), fmt.Sprintf("%q", body)}
	}
	return expected, nil
}

func (r *Runner) fetch(ctx context.Context, from, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*answerTime)
	defer cancel()
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, fmt.Errorf("%s: want an address: names are not looked up inside a lab", addr)
			}
			f, err := r.client.Socket(ctx, from, unix.AF_INET, unix.SOCK_STREAM, 0)
			if err != nil {
				return nil, err
			}
			return connect(ctx, f, to)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", resp.Status)
	}
	return strings.TrimSpace(string(b)), nil
}

// connect makes a connection of an unconnected TCP socket.
func connect(ctx context.Context, f *os.File, to netip.AddrPort) (net.Conn, error) {
	defer f.Close()
	fd := int(f.Fd())
	timeout := answerTime
	if d, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(d))
	}
	// connect(2) of a blocking socket honours its send time-out.
	tv := unix.NsecToTimeval(max(timeout, time.Millisecond).Nanoseconds())
	err := errors.Join(unix.SetNonblock(fd, false), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &tv))
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}
	if errors.Is(err, unix.EINPROGRESS) {
		err = errors.New("timed out")
	}
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", to, err)
	}
	return net.FileConn(f)
}
