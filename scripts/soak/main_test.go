package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shown is what a host of three prints: node1, whose others are .2 and .3.
const shown = `"addrs"
[{"ifindex":1,"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8}]},
 {"ifname":"eth0","address":"02:01:c0:a8:32:01","addr_info":[{"family":"inet","local":"192.168.50.1","prefixlen":24}]},
 {"ifname":"cni0","address":"92:bc:31:20:65:24","addr_info":[{"family":"inet","local":"10.244.1.1","prefixlen":24}]},
 {"ifname":"flannel.1","address":"aa:00:00:00:00:01","addr_info":[{"family":"inet","local":"10.244.1.0","prefixlen":32},{"family":"inet6","local":"fe80::1","prefixlen":64}]}]
"routes"
[{"dst":"10.244.2.0/24","gateway":"10.244.2.0","protocol":"97","flags":["onlink"]},{"dst":"10.244.3.0/24","gateway":"10.244.3.0","protocol":"97","flags":["onlink"]}]
"neighbours"
[{"dst":"10.244.2.0","lladdr":"aa:00:00:00:00:02","state":["PERMANENT"]},{"dst":"10.244.3.0","lladdr":"aa:00:00:00:00:03","state":["PERMANENT"]}]
"fdb"
[{"mac":"aa:00:00:00:00:02","dst":"192.168.50.2","flags":["self"],"state":"permanent"},{"mac":"aa:00:00:00:00:03","dst":"192.168.50.3","flags":["self"],"state":"permanent"}]
`

// three are the hosts of a lab in which nothing is missing.
func three(t *testing.T) map[string]*host {
	t.Helper()
	one, err := parseHost([]byte(shown))
	if err != nil {
		t.Fatal(err)
	}
	return map[string]*host{
		"node1": one,
		"node2": {"192.168.50.2", "10.244.2.0/24", "10.244.2.0", "aa:00:00:00:00:02",
			map[string]string{"10.244.1.0/24": "10.244.1.0", "10.244.3.0/24": "10.244.3.0"},
			map[string]string{"10.244.1.0": "aa:00:00:00:00:01", "10.244.3.0": "aa:00:00:00:00:03"},
			map[string]string{"aa:00:00:00:00:01": "192.168.50.1", "aa:00:00:00:00:03": "192.168.50.3"}},
		"node3": {"192.168.50.3", "10.244.3.0/24", "10.244.3.0", "aa:00:00:00:00:03",
			map[string]string{"10.244.1.0/24": "10.244.1.0", "10.244.2.0/24": "10.244.2.0"},
			map[string]string{"10.244.1.0": "aa:00:00:00:00:01", "10.244.2.0": "aa:00:00:00:00:02"},
			map[string]string{"aa:00:00:00:00:01": "192.168.50.1", "aa:00:00:00:00:02": "192.168.50.2"}},
	}
}

// What is lost, wrong or left over in any table is found.
func TestCompare(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		harm func(map[string]*host)
		want []string
	}{
		{"nothing", func(map[string]*host) {}, nil},
		{"a lost route", func(h map[string]*host) { delete(h["node1"].routes, "10.244.3.0/24") }, []string{"node1: no route 10.244.3.0/24 to 10.244.3.0"}},
		{"a lost neighbour", func(h map[string]*host) { delete(h["node2"].neighbours, "10.244.1.0") }, []string{"node2: no neighbour 10.244.1.0 to aa:00:00:00:00:01"}},
		{"a wrong forwarding entry", func(h map[string]*host) { h["node3"].fdb["aa:00:00:00:00:01"] = "192.168.50.2" },
			[]string{"node3: forwarding entry aa:00:00:00:00:01 to 192.168.50.2, want 192.168.50.1"}},
		{"entries of one that left", func(h map[string]*host) { h["node3"].routes["10.244.9.0/24"] = "10.244.9.0" },
			[]string{"node3: route 10.244.9.0/24 to 10.244.9.0 is of nobody"}},
		{"a VTEP that is another", func(h map[string]*host) { h["node1"].mac = "aa:00:00:00:00:11" }, []string{
			"node2: neighbour 10.244.1.0 to aa:00:00:00:00:01, want aa:00:00:00:00:11",
			"node2: no forwarding entry aa:00:00:00:00:11 to 192.168.50.1", "node2: forwarding entry aa:00:00:00:00:01 to 192.168.50.1 is of nobody",
			"node3: neighbour 10.244.1.0 to aa:00:00:00:00:01, want aa:00:00:00:00:11",
			"node3: no forwarding entry aa:00:00:00:00:11 to 192.168.50.1", "node3: forwarding entry aa:00:00:00:00:01 to 192.168.50.1 is of nobody"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			hosts := three(t)
			c.harm(hosts)
			if diff := cmp.Diff(c.want, compare(hosts)); diff != "" {
				t.Errorf("compare() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestGrowth(t *testing.T) {
	t.Parallel()
	run := func(f func(i int) usage) []sample {
		var s []sample
		for i := range 12 {
			s = append(s, sample{"agents": f(i)})
		}
		return s
	}
	for _, c := range []struct {
		name string
		f    func(i int) usage
		want string // "" for no growth
	}{
		{"steady", func(int) usage { return usage{12, 40, 10} }, ""},
		{"a peak", func(i int) usage {
			if i == 6 {
				return usage{200, 400, 100}
			}
			return usage{12, 40, 10}
		}, ""},
		{"up and down", func(i int) usage { return usage{12 + float64(i%3), 40 + i%3, 10 + i%3} }, ""},
		{"a file each time", func(i int) usage { return usage{12, 40 + i, 10} }, "agents: open files grew from 43 to 48"},
		{"threads", func(i int) usage { return usage{12, 40, 10 + 2*i} }, "agents: threads grew from 16 to 26"},
		{"memory", func(i int) usage { return usage{12 + 3*float64(i), 40, 10} }, "agents: memory grew from 21.0 to 36.0 MB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := strings.Join(growth(run(c.f)), "; "); got != c.want {
				t.Errorf("growth() = %q, want %q", got, c.want)
			}
		})
	}
	if got := growth(nil); len(got) != 1 || !strings.Contains(got[0], "too few") {
		t.Errorf("growth() of nothing = %q", got)
	}
}

// Arguments that nobody reads are refused: -sizes 100 200 would be -sizes 100.
func TestArgumentsAreRefused(t *testing.T) {
	t.Parallel()
	if os.Getenv("LABCTL_TEST_MAIN") != "" {
		os.Args = []string{"soak", "200"}
		main()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestArgumentsAreRefused$")
	cmd.Env = append(os.Environ(), "LABCTL_TEST_MAIN=1")
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(out), `["200"]`) {
		t.Errorf("exit status %d (%v), %s; want 2 and the argument", code, err, out)
	}
}
