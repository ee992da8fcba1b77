package iperf

import "testing"

func TestParseTimes(t *testing.T) {
	t.Parallel()
	softirq, busy, err := parseMachine([]byte("cpu  100 20 300 4000 50 6 700 80 90 0\ncpu0 1 2 3\n"))
	if err != nil || softirq != 7 || busy != (100+20+300+6+700)/100.0 {
		t.Errorf("parseMachine() = %v, %v, %v; want 7, 11.26", softirq, busy, err)
	}
	s, err := parseProcess([]byte("42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1 2 3"))
	if err != nil || s != 2 {
		t.Errorf("parseProcess() = %v, %v; want 2", s, err)
	}
	for _, bad := range []string{"", "cpu", "intr 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 x 8 9"} {
		if _, _, err := parseMachine([]byte(bad)); err == nil {
			t.Errorf("parseMachine(%q): no error", bad)
		}
		if _, err := parseProcess([]byte(bad)); err == nil {
			t.Errorf("parseProcess(%q): no error", bad)
		}
	}
	u := usage{softirq: 3, machine: 5, agents: []Agent{{"node1", 7, 2.5}, {"node2", 8, 0.1}}}
	c := u.since(usage{softirq: 1, machine: 1, agents: []Agent{{"node1", 7, 2}, {"node2", 8, 4}}}, 250_000_000)
	if c.SoftirqPerGbit != 1 || c.MachinePerGbit != 2 || c.Agents[0].Seconds != 0.5 || c.Agents[1].Seconds != 0 {
		t.Errorf("since() = %+v, want 1 and 2 s a Gbit, agents 0.5 s and (restarted) 0", c)
	}
}
