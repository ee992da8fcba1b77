package check

import (
	"errors"
	"testing"

	"labctl/lab"
)

func TestCompare(t *testing.T) {
	t.Parallel()
	than := lab.PathSpec{From: "node1", To: "node2"}
	c := lab.ThroughputCheck{From: "node1.c1", To: "node2.c1", Than: &than, Least: 0.5, Mbit: 100}
	broken := errors.New("no route")
	for _, tt := range []struct {
		name  string
		carry func(round int, p lab.PathSpec) (float64, error)
		want  string // and the error's text
		calls int
	}{
		{"holds", func(int, lab.PathSpec) (float64, error) { return 300, nil },
			"at least 0.5 times node1 -> node2 and 100 Mbit/s; 1.00 times (medians 300 and 300 Mbit/s of 5)", 10},
		{"holds when the machine is less busy", func(round int, p lab.PathSpec) (float64, error) {
			if round < 5 && p != than {
				return 30, nil
			}
			return 300, nil
		}, "at least 0.5 times node1 -> node2 and 100 Mbit/s; 1.00 times (medians 300 and 300 Mbit/s of 25)", 50},
		{"slower", func(_ int, p lab.PathSpec) (float64, error) {
			if p == than {
				return 300, nil
			}
			return 120, nil
		}, "found 0.40 times (medians 120 and 300 Mbit/s of 25), want at least 0.5 times node1 -> node2 and 100 Mbit/s", 50},
		{"slow", func(int, lab.PathSpec) (float64, error) { return 99, nil },
			"found 1.00 times (medians 99 and 99 Mbit/s of 25), want at least 0.5 times node1 -> node2 and 100 Mbit/s", 50},
		{"broken", func(int, lab.PathSpec) (float64, error) { return 0, broken }, "no route", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			calls := 0
			got, err := compare(c, func(p lab.PathSpec) (float64, error) {
				calls++
				return tt.carry((calls-1)/2, p)
			})
			if err != nil {
				got = err.Error()
			}
			if got != tt.want || calls != tt.calls {
				t.Errorf("compare() = %s after %d calls, want %s after %d", got, calls, tt.want, tt.calls)
			}
		})
	}
}
