package fault

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"labctl/lab"
)

func TestOutages(t *testing.T) {
	t.Parallel()
	const ms = time.Millisecond
	samples := func(oks ...bool) []sample {
		var s []sample
		for i, ok := range oks {
			s = append(s, sample{time.Duration(i) * 10 * ms, ok})
		}
		return s
	}
	for _, c := range []struct {
		name string
		in   []sample
		want []Outage
	}{
		{"none", samples(true, true, true), []Outage{}},
		{"nothing sent", nil, []Outage{}},
		{"one in between", samples(true, false, false, true), []Outage{{AtMs: 10, Ms: 20, Lost: 2}}},
		{"two", samples(false, true, false, true), []Outage{{AtMs: 0, Ms: 10, Lost: 1}, {AtMs: 20, Ms: 10, Lost: 1}}},
		{"to the end", samples(true, false), []Outage{{AtMs: 10, Ms: 90, Lost: 1, Open: true}}},
	} {
		if diff := cmp.Diff(c.want, outages(c.in, 100*ms)); diff != "" {
			t.Errorf("%s: outages (-want +got):\n%s", c.name, diff)
		}
	}
	if got := (PathReport{Outages: []Outage{{Ms: 1}, {Ms: 7}, {Ms: 3}}}).Longest().Ms; got != 7 {
		t.Errorf("Longest() = %v, want 7", got)
	}
}

func TestEventsAreInOrder(t *testing.T) {
	t.Parallel()
	all, err := events([]lab.FaultSpec{
		{At: 2 * time.Second, Do: "kill etcd"},
		{At: time.Second, For: 3 * time.Second, Do: "drop node1 10%"},
		{At: 3 * time.Second, Do: "heal"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range all {
		s := e.at.String() + " " + e.Fault.String()
		if e.heal {
			s += " ends"
		}
		got = append(got, s)
	}
	want := []string{"1s drop node1:eth0 10%", "2s kill etcd", "3s heal", "4s drop node1:eth0 10% ends"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}
