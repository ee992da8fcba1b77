package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"labctl/lab"
	"labctl/lab/check"
	"labctl/labs"
)

// Every built-in lab shows what its file claims, for root and for others.
func TestBuiltInLabs(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "nft")
	for _, name := range labs.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			forUsers(t, func(t *testing.T, u user) {
				if usesTUN(t, builtIn(t, name)) && u.deniedTUN(t, name) {
					return
				}
				if len(builtIn(t, name).Faults) > 0 { // which are played after the checks
					u.run(t, "test", name)
					return
				}
				u.up(t, name).check(t, name)
			})
		})
	}
}

// check runs the checks of a built-in lab, or of a file with a path, on the
// lab. A lab answers its owner only: they run as that user.
func (l *running) check(t *testing.T, file string) {
	t.Helper()
	cmd := l.program("labcheck", file, l.dir())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("labcheck: %v\n%s%s", err, out, errs.String())
	}
	var results []check.Result
	unmarshal(t, string(out), &results)
	if len(results) == 0 {
		t.Errorf("no checks")
	}
	for _, res := range results {
		switch {
		case res.Outcome == check.Cannot && l.uid != 0:
			t.Logf("%s: not run: %s", res.Line(), res.Found)
		case res.Outcome != check.Passed:
			t.Errorf("%s: %s: want %s; found %s", res.Line(), res.Outcome, res.Expected, res.Found)
		case res.Claim == "C5":
			t.Logf("%s %s: %s", res.Claim, res.Title, res.Expected)
		}
	}
}

// labcheck runs the checks of a built-in lab on a running one and prints their
// results.
func labcheck() {
	results, err := runChecks(os.Args[1], lab.Dir(os.Args[2]))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(results)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runChecks(name string, dir lab.Dir) ([]check.Result, error) {
	ctx := context.Background()
	read := labs.Read
	if strings.Contains(name, "/") {
		read = os.ReadFile
	}
	data, err := read(name)
	if err != nil {
		return nil, err
	}
	spec, err := lab.Parse(name+".yaml", data)
	if err != nil {
		return nil, err
	}
	r, err := check.NewRunner(ctx, &lab.Client{Dir: dir}, 1)
	if err != nil {
		return nil, err
	}
	var results []check.Result
	for _, c := range spec.Checks {
		results = append(results, r.Run(ctx, c))
	}
	return results, nil
}

// Seeds D2 to D4 and D6: one route, one neighbour and one forwarding entry for
// each other host, exactly these, by tools that are not ours.
func TestVXLANTables(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge")
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		st := l.status(t)
		for _, n := range st.Nodes {
			var routes, neighbours, fdb []string
			for _, p := range st.Nodes {
				if p.Name == n.Name {
					continue
				}
				subnet := p.Subnets[0]
				base := subnet[:len(subnet)-len("/24")]
				routes = append(routes, subnet+" via "+base+" onlink")
				neighbours = append(neighbours, base+" "+p.VTEPMAC+" PERMANENT")
				fdb = append(fdb, p.VTEPMAC+" "+p.PublicIP+" permanent")
			}
			var gotRoutes, gotNeighbours, gotFDB []string
			for _, e := range l.entries(t, n.Name, "ip", "-j", "route", "show", "dev", "flannel.1") {
				gotRoutes = append(gotRoutes, text(e["dst"])+" via "+text(e["gateway"])+" "+text(e["flags"]))
			}
			for _, e := range l.entries(t, n.Name, "ip", "-j", "neigh", "show", "dev", "flannel.1") {
				gotNeighbours = append(gotNeighbours, text(e["dst"])+" "+text(e["lladdr"])+" "+text(e["state"]))
			}
			for _, e := range l.entries(t, n.Name, "bridge", "-j", "fdb", "show", "dev", "flannel.1") {
				gotFDB = append(gotFDB, text(e["mac"])+" "+text(e["dst"])+" "+text(e["state"]))
			}
			same(t, n.Name+" routes", gotRoutes, routes)
			same(t, n.Name+" neighbours", gotNeighbours, neighbours)
			same(t, n.Name+" forwarding entries", gotFDB, fdb)
		}
	})
}

func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		s := ""
		for _, x := range v {
			s += text(x)
		}
		return s
	}
	return ""
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	sort.Strings(got)
	sort.Strings(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// Every pair of containers passes 1450 bytes whole, and not one more.
func TestVXLANMTU(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, u user) {
		l := u.up(t, "flannel-vxlan")
		l.run(t, "ping", "-l", l.name, "--all", "--df", "-s", "1422")
		stdout, _, code := l.try(t, "ping", "-l", l.name, "--all", "--df", "-s", "1423", "-o", "json")
		var m struct{ Sent, Received int }
		unmarshal(t, stdout, &m)
		if code != 1 || m.Sent != 30 || m.Received != 0 {
			t.Errorf("1451 bytes: exit status %d, %d of %d passed, want 1 and none of 30", code, m.Received, m.Sent)
		}
		// ping(8) agrees.
		if _, err := os.Stat("/usr/bin/ping"); err != nil {
			t.Log("iputils-ping is not installed: not compared with it")
			return
		}
		to := l.status(t).Nodes[1].Containers[0].IP
		l.exec(t, "node1.c1", "ping", "-c", "1", "-W", "2", "-M", "do", "-s", "1422", to)
		if _, _, code := l.try(t, "exec", "-l", l.name, "node1.c1", "--", "ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1423", to); code == 0 {
			t.Error("ping -M do -s 1423: passed, want it refused")
		}
	})
}

// Ten labs have the same addresses and do not see each other.
func TestTenLabsAtOnce(t *testing.T) {
	t.Parallel()
	forUsers(t, func(t *testing.T, u user) {
		var all []*running
		for range 10 {
			all = append(all, u.up(t, "flannel-vxlan"))
		}
		for _, l := range all {
			l.run(t, "ping", "-l", l.name, "--all")
			st := l.status(t)
			if st.State != lab.Ready || len(st.Nodes) != 3 || st.Nodes[0].PublicIP != "192.168.50.1" || st.Nodes[0].Peers != 2 {
				t.Errorf("%s: %s, %d nodes, node1 at %s with %d peers, want ready, 3, 192.168.50.1, 2",
					l.name, st.State, len(st.Nodes), st.Nodes[0].PublicIP, st.Nodes[0].Peers)
			}
		}
		names := u.run(t, "ls", "-o", "json")
		var list labList
		unmarshal(t, names, &list)
		for _, l := range all {
			if !slices.ContainsFunc(list.Labs, func(x labLine) bool { return x.Name == l.name && x.State == lab.Ready }) {
				t.Errorf("labctl ls: %s is missing", l.name)
			}
		}
	})
}
