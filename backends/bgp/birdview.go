package bgp

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// birdError is what bird answered in the place of what it was asked for.
type birdError struct{ question, text string }

func (e *birdError) Error() string { return "bird: " + e.question + ": " + e.text }

// birdPatience is how long bird may take for an answer.
const birdPatience = 2 * time.Second

// ask is what birdc does: one command on bird's socket. The answer's lines come
// without their codes.
func (b *Bird) ask(ctx context.Context, command string) ([]string, error) {
	// A path in dir may be longer than a socket's may be: go by a descriptor.
	dir, err := os.Open(b.dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(ctx, birdPatience)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), birdSocket))
	if err != nil {
		return nil, fmt.Errorf("bird: %w", err)
	}
	defer c.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d) // a dead socket tells by its next call
	}
	lines := bufio.NewScanner(c)
	if _, err := birdReply(lines, "hello"); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintln(c, command); err != nil {
		return nil, fmt.Errorf("bird: %w", err)
	}
	return birdReply(lines, command)
}

// birdReply reads one reply: lines CODE-TEXT, then one CODE TEXT; a line that
// begins with a space goes on with the code before it. Codes from 8000 are
// errors.
func birdReply(lines *bufio.Scanner, question string) ([]string, error) {
	var out []string
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, " ") || len(line) < 5 {
			out = append(out, strings.TrimPrefix(line, " "))
			continue
		}
		code, mark, text := line[:4], line[4], line[5:]
		if code >= "8000" {
			return nil, &birdError{question, text}
		}
		if mark == ' ' {
			if text != "" {
				out = append(out, text)
			}
			return out, nil
		}
		out = append(out, text)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("bird: %s: %w", question, err)
	}
	return nil, fmt.Errorf("bird: %s: no answer", question)
}

// View asks bird.
func (b *Bird) View(ctx context.Context, detail Detail) (View, error) {
	b.mu.Lock()
	c, exit, started := b.config, b.exit, b.started
	b.mu.Unlock()
	v := View{Sessions: []Session{}}
	if c.ASN == 0 {
		return v, nil
	}
	peers := map[netip.Addr]Peer{}
	for _, p := range c.Peers {
		peers[p.Addr] = p
	}
	v.Strangers = b.strangersBut(peers)
	lines, err := b.ask(ctx, "show protocols all")
	if err != nil {
		switch {
		case exit != nil:
			err = fmt.Errorf("bird: does not run: %w", exit)
		case time.Since(started) < birdPatience:
			err = nil // it is about to listen
		}
		for _, p := range c.Peers {
			v.Sessions = append(v.Sessions, session(p))
		}
		return v, err
	}
	stated := parseProtocols(lines)
	for _, p := range c.Peers {
		s := session(p)
		if st, ok := stated[p.Addr]; ok {
			s.State, s.Received, s.Accepted, s.Advertised, s.Failure = st.State, st.Received, st.Accepted, st.Advertised, st.Failure
			if s.State == Established {
				s.Since = st.Since
			} else if f := unanswered(st, c.Timers, time.Now()); f != nil {
				s.Failure = f
			}
		}
		v.Sessions = append(v.Sessions, s)
	}
	slices.SortFunc(v.Sessions, func(a, b Session) int { return a.Addr.Compare(b.Addr) })
	names := map[string]string{}
	for _, p := range c.Peers {
		names[birdName(p)] = p.Name
	}
	if lines, err = b.ask(ctx, "show route all"); err != nil {
		return v, err
	}
	all := parseRoutes(lines, names)
	for _, r := range all {
		if r.Best && r.Peer != "" {
			v.Best = append(v.Best, r)
		}
	}
	if !detail {
		return v, nil
	}
	for i := range v.Sessions {
		s := &v.Sessions[i]
		for _, r := range all {
			if r.Peer == s.Peer {
				s.In = append(s.In, r)
			}
		}
		if s.State != Established {
			continue
		}
		if lines, err = b.ask(ctx, "show route export "+birdName(Peer{Name: s.Peer})+" all"); err != nil {
			return v, err
		}
		s.Out = parseRoutes(lines, names)
		for k := range s.Out {
			s.Out[k].Best, s.Out[k].NextHop = false, s.Local
		}
	}
	return v, nil
}

func session(p Peer) Session {
	return Session{Peer: p.Name, Addr: p.Addr, Local: p.Local, ASN: p.ASN, Passive: p.Passive, Client: p.Client, State: Idle}
}

func (b *Bird) strangersBut(peers map[netip.Addr]Peer) []Stranger {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.strangers.but(peers)
}

// birdTime is "iso long ms".
const birdTime = "2006-01-02 15:04:05.000"

// unanswered is the failure of a session whose SYN is not answered, nil for any
// other. bird says nothing of it: it gives up each try after its connect retry
// time, long before the kernel does, and begins another. So it is seen in
// Connect, as one that is refused or finds no way hardly ever is, and that says
// so besides.
func unanswered(s Session, t Timers, now time.Time) *Failure {
	switch {
	case s.State != Connect || now.Sub(s.Since) < t.ConnectRetry:
		return nil
	case s.Failure == nil, s.Failure.Cause == Silent, s.Failure.Cause == Ended: // of the session before
		return &Failure{Cause: Filtered, Evidence: "BGP state: Connect"}
	}
	return nil
}

// parseProtocols reads "show protocols all": a line for each protocol, and
// indented ones about it.
//
//	to_h2      BGP        ---        up     2026-11-21 09:41:22.232  Established
//	  BGP state:          Established
//	    Neighbor address: 192.0.2.2
//	    Last error:       Socket: Connection refused
//	  Channel ipv4
//	    Routes:         1 imported, 1 exported, 1 preferred
//	      Import updates:              1          0          0          0          1
func parseProtocols(lines []string) map[netip.Addr]Session {
	found := map[netip.Addr]Session{}
	var s *Session
	keep := func() {
		if s != nil && s.Addr.IsValid() {
			found[s.Addr] = *s
		}
	}
	for _, line := range lines {
		if line != "" && line[0] != ' ' {
			keep()
			s = nil
			f := strings.Fields(line)
			if len(f) >= 6 && f[1] == "BGP" {
				s = &Session{State: Idle}
				// bird's times are the machine's own. It is when the session was
				// established, or when the one before it ended.
				s.Since, _ = time.ParseInLocation(birdTime, f[4]+" "+f[5], time.Local)
			}
			continue
		}
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if s == nil || !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch key {
		case "BGP state":
			s.State = birdState(value)
		case "Neighbor address":
			s.Addr, _ = netip.ParseAddr(value)
		case "Last error":
			f := birdFailure(value)
			s.Failure = &f
		case "Routes":
			// "1 imported, 1 filtered, 1 exported, 1 preferred"
			for part := range strings.SplitSeq(value, ",") {
				n, what, _ := strings.Cut(strings.TrimSpace(part), " ")
				count, err := strconv.Atoi(n)
				if err != nil {
					continue
				}
				switch what {
				case "imported":
					s.Accepted += count
					s.Received += count
				case "filtered":
					s.Received += count
				case "exported":
					s.Advertised += count
				}
			}
		}
	}
	keep()
	for a, s := range found {
		if s.State == Established {
			s.Failure = nil
			found[a] = s
		}
	}
	return found
}

func birdState(s string) SessionState {
	switch s {
	case "Connect":
		return Connect
	case "Active":
		return Active
	case "OpenSent":
		return OpenSent
	case "OpenConfirm":
		return OpenConfirm
	case "Established":
		return Established
	}
	return Idle
}

// birdFailure makes sense of bird's last error of a session.
func birdFailure(text string) Failure {
	switch lower := strings.ToLower(text); {
	case strings.Contains(lower, "bad peer as"):
		return Failure{Cause: WrongAS, Evidence: text}
	case strings.Contains(lower, "hold timer expired"), strings.Contains(lower, "bfd session down"):
		return Failure{Cause: Silent, Evidence: text}
	case strings.HasPrefix(lower, "socket: connection reset"), strings.HasPrefix(lower, "socket: connection closed"):
		// A peer that does not know the address closes without a word.
		return Failure{Cause: WrongSource, Evidence: text}
	case strings.HasPrefix(lower, "socket:"):
		f := dialFailure(text)
		f.At = time.Time{}
		return f
	}
	return Failure{Cause: Ended, Evidence: text}
}

// parseRoutes reads "show route all". A prefix stands before the first of its
// paths only, a star behind the one that is chosen.
//
//	10.1.2.0/26          unicast [to_h2 2026-11-21 09:41:24.850] * (100) [i]
//		via 192.0.2.2 on eth0
//		Type: BGP univ
//		BGP.as_path: 65001 65002
//		BGP.next_hop: 192.0.2.2
func parseRoutes(lines []string, peers map[string]string) []Route {
	var rs []Route
	var prefix netip.Prefix
	for _, line := range lines {
		if strings.HasPrefix(line, "\t") {
			if len(rs) == 0 {
				continue
			}
			r := &rs[len(rs)-1]
			key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
			if !ok {
				continue
			}
			value = strings.TrimSpace(value)
			switch key {
			case "BGP.next_hop":
				first, _, _ := strings.Cut(value, " ")
				r.NextHop, _ = netip.ParseAddr(first)
			case "BGP.as_path":
				for word := range strings.FieldsSeq(value) {
					if n, err := strconv.ParseUint(word, 10, 32); err == nil {
						r.Path = append(r.Path, uint32(n))
					}
				}
			case "BGP.local_pref":
				if n, err := strconv.ParseUint(value, 10, 32); err == nil {
					r.LocalPref = uint32(n)
				}
			case "BGP.originator_id":
				r.Originator, _ = netip.ParseAddr(value)
			case "BGP.cluster_list":
				for word := range strings.FieldsSeq(value) {
					if a, err := netip.ParseAddr(word); err == nil {
						r.Clusters = append(r.Clusters, a)
					}
				}
			}
			continue
		}
		head, rest, ok := strings.Cut(line, "[")
		if !ok {
			continue // Table master4:
		}
		if first, _, _ := strings.Cut(head, " "); first != "" {
			p, err := netip.ParsePrefix(first)
			if err != nil {
				continue
			}
			prefix = p
		}
		who, rest, _ := strings.Cut(rest, " ")
		_, marks, _ := strings.Cut(rest, "]")
		rs = append(rs, Route{Prefix: prefix, Peer: peers[strings.TrimSuffix(who, "]")], Best: strings.HasPrefix(strings.TrimSpace(marks), "*"),
			Stale: strings.Contains(marks, "s)")})
	}
	return rs
}
