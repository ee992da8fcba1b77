package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// host is what a host's kernel has, as ip and bridge tell.
type host struct {
	addr   string // eth0's: where the others send
	subnet string // of its bridge
	vtep   string // flannel.1's address
	mac    string // and its MAC

	routes     map[string]string // by flannel.1: subnet, next hop
	neighbours map[string]string // on flannel.1: address, MAC
	fdb        map[string]string // of flannel.1: MAC, host
}

// show prints what a host is made of. Each table follows its name.
const show = `echo '"addrs"'; ip -j address show
echo '"routes"'; ip -j route show dev flannel.1
echo '"neighbours"'; ip -j neigh show dev flannel.1 nud permanent
echo '"fdb"'; bridge -j fdb show dev flannel.1
`

// entry is a line of any of these tables.
type entry struct {
	Ifname, Address string
	AddrInfo        []struct {
		Family, Local string
		Prefixlen     int
	} `json:"addr_info"`
	Dst, Gateway, Lladdr, Mac, Dev string
}

// parseHost reads what show prints.
func parseHost(out []byte) (*host, error) {
	h := &host{routes: map[string]string{}, neighbours: map[string]string{}, fdb: map[string]string{}}
	d := json.NewDecoder(bytes.NewReader(out))
	table := ""
	for {
		var raw json.RawMessage
		if err := d.Decode(&raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if raw[0] == '"' {
			table = strings.Trim(string(raw), `"`)
			continue
		}
		var entries []entry
		if err := json.Unmarshal(raw, &entries); err != nil {
			return nil, fmt.Errorf("%s: %w", table, err)
		}
		for _, e := range entries {
			switch table {
			case "addrs":
				h.device(e)
			case "routes":
				h.routes[e.Dst] = e.Gateway
			case "neighbours":
				h.neighbours[e.Dst] = e.Lladdr
			case "fdb":
				h.fdb[e.Mac] = e.Dst
			}
		}
	}
	return h, nil
}

// device takes what others must know from an interface.
func (h *host) device(e entry) {
	local := ""
	for _, a := range e.AddrInfo {
		if a.Family != "inet" {
			continue
		}
		local = a.Local
		if e.Ifname == "cni0" {
			if ip, err := netip.ParseAddr(a.Local); err == nil {
				h.subnet = netip.PrefixFrom(ip, a.Prefixlen).Masked().String()
			}
		}
	}
	switch e.Ifname {
	case "eth0":
		h.addr = local
	case "flannel.1":
		h.vtep, h.mac = local, e.Address
	}
}

// compare holds every host's tables against what the other hosts are. What it
// returns are entries that are missing, wrong, or of nobody.
func compare(hosts map[string]*host) []string {
	var problems []string
	for _, name := range slices.Sorted(maps.Keys(hosts)) {
		h := hosts[name]
		routes, neighbours, fdb := map[string]string{}, map[string]string{}, map[string]string{}
		for other, p := range hosts {
			if p.addr == "" || p.vtep == "" || p.mac == "" || p.subnet == "" {
				problems = append(problems, fmt.Sprintf("%s: incomplete: %+v", other, *p))
				continue
			}
			if other != name {
				routes[p.subnet], neighbours[p.vtep], fdb[p.mac] = p.vtep, p.mac, p.addr
			}
		}
		for _, t := range []struct {
			name      string
			got, want map[string]string
		}{{"route", h.routes, routes}, {"neighbour", h.neighbours, neighbours}, {"forwarding entry", h.fdb, fdb}} {
			for _, k := range slices.Sorted(maps.Keys(t.want)) {
				if got, ok := t.got[k]; !ok {
					problems = append(problems, fmt.Sprintf("%s: no %s %s to %s", name, t.name, k, t.want[k]))
				} else if got != t.want[k] {
					problems = append(problems, fmt.Sprintf("%s: %s %s to %s, want %s", name, t.name, k, got, t.want[k]))
				}
			}
			for _, k := range slices.Sorted(maps.Keys(t.got)) {
				if _, ok := t.want[k]; !ok {
					problems = append(problems, fmt.Sprintf("%s: %s %s to %s is of nobody", name, t.name, k, t.got[k]))
				}
			}
		}
	}
	return problems
}

// look reads all hosts' tables.
func (s *soak) look(ctx context.Context) ([]string, error) {
	hosts := map[string]*host{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	var errs []error
	for _, name := range s.hosts {
		wg.Go(func() {
			out, err := s.inside(ctx, name, show)
			var h *host
			if err == nil {
				h, err = parseHost(out)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			hosts[name] = h
		})
	}
	wg.Wait()
	s.traffic.tables += 3 * len(hosts)
	return compare(hosts), errors.Join(errs...)
}

// settle waits until nothing is missing. An error says what still is.
func (s *soak) settle(ctx context.Context) error {
	from := time.Now()
	for {
		why := s.unsettled(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if why == "" {
			s.took = append(s.took, time.Since(from))
			return nil
		}
		if time.Since(from) > patience {
			return fmt.Errorf("not settled after %v: %s", patience, why)
		}
		if err := rest(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// unsettled says why the lab is not as it should be, "" when it is.
func (s *soak) unsettled(ctx context.Context) string {
	st, err := s.status(ctx)
	if err != nil {
		return err.Error()
	}
	if st.State != "ready" {
		return st.State + ": " + strings.Join(st.Reasons, "; ")
	}
	problems, err := s.look(ctx)
	if err != nil {
		return err.Error() // a device that is missing makes ip fail
	}
	if len(problems) > 0 {
		return strings.Join(problems, "\n")
	}
	if _, err := s.command(ctx, "ping", "--all", "-l", s.name, "-W", "1s"); err != nil {
		return err.Error()
	}
	return ""
}
