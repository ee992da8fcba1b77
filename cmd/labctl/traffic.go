package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"labctl/backends"
	"labctl/lab"
)

// printTraffic shows what agents carried themselves, and at what price.
func (a *app) printTraffic(st *lab.Status) error {
	var rows [][]string
	for _, n := range st.Nodes {
		t := n.Traffic
		if t == nil {
			continue
		}
		rows = append(rows, append([]string{n.Name, t.Level, "out"}, flow(t.Out)...), append([]string{"", "", "in"}, flow(t.In)...))
	}
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	if err := table(a.stdout, []string{"AGENT", "LEVEL", "WAY", "PACKETS", "BYTES", "BATCHES", "CALLS", "CALLS/PACKET"}, rows); err != nil {
		return err
	}
	for _, n := range st.Nodes {
		if n.Traffic == nil {
			continue
		}
		if n.Traffic.Why != "" {
			fmt.Fprintf(a.stdout, "%s: level %s: %s\n", n.Name, n.Traffic.Level, n.Traffic.Why)
		}
		var drops []string
		for _, reason := range slices.Sorted(maps.Keys(n.Traffic.Drops)) {
			if d := n.Traffic.Drops[reason]; d > 0 {
				drops = append(drops, fmt.Sprintf("%s %d", reason, d))
			}
		}
		if len(drops) > 0 {
			fmt.Fprintf(a.stdout, "%s: dropped: %s\n", n.Name, strings.Join(drops, ", "))
		}
	}
	return nil
}

// flow is one direction's cells.
func flow(f backends.Flow) []string {
	each := "-"
	if f.Packets > 0 {
		each = strconv.FormatFloat(float64(f.Calls)/float64(f.Packets), 'f', 2, 64)
	}
	u := func(n uint64) string { return strconv.FormatUint(n, 10) }
	return []string{u(f.Packets), u(f.Bytes), u(f.Batches), u(f.Calls), each}
}
