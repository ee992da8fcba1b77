package fault

import (
	"fmt"
	"testing"
	"testing/synctest"
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

// However long it takes to do a fault, it lasts as long as it says from then on.
func TestFaultsLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const ms = time.Millisecond
		todo, err := events([]lab.FaultSpec{
			{Do: "kill node1"},
			{At: 200 * ms, For: 400 * ms, Do: "link down node1:eth0"},
			{At: 700 * ms, Do: "restart node2"},
			{At: 900 * ms, For: 100 * ms, Do: "drop node1 10%"},
		})
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		takes := map[lab.FaultKind]time.Duration{lab.KillFault: 150 * ms, lab.LinkFault: 130 * ms, lab.RestartFault: 300 * ms}
		var got []string
		err = inTime(t.Context(), begin, todo, func(e event) error {
			from := time.Since(begin)
			if !e.heal {
				time.Sleep(takes[e.Kind])
			}
			got = append(got, fmt.Sprintf("%s %t %v to %v", e.Kind, e.heal, from, time.Since(begin)))
			return nil
		})
		want := []string{
			"kill false 0s to 150ms",
			"link false 200ms to 330ms",
			"link true 730ms to 730ms",
			"restart false 830ms to 1.13s",
			"drop false 1.13s to 1.13s",
			"drop true 1.23s to 1.23s",
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("inTime() = %v (-want +got):\n%s", err, diff)
		}
	})
}
