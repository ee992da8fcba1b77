package iperf

import (
	"encoding/json"
	"testing"
)

// FuzzParseIperf3 turns whatever an iperf3 may print into a report that can be
// printed in turn, or an error.
func FuzzParseIperf3(f *testing.F) {
	f.Add([]byte(`{"start":{"test_start":{"blksize":131072}},"intervals":[{"streams":[{"start":0,"end":1,"bytes":1000}]}],
		"end":{"streams":[{"sender":{"seconds":1,"bytes":1000,"retransmits":1},"receiver":{"seconds":1,"bytes":900}}],"cpu_utilization_percent":{"host_total":10}}}`), false)
	f.Add([]byte(`{"end":{"streams":[{"udp":{"seconds":5e-324,"bytes":9223372036854775807,"packets":-1,"lost_packets":3}}]}}`), true)
	f.Add([]byte(`{"intervals":[{"streams":[{"start":1e308,"end":-1e308,"bytes":1}]}],"error":"refused"}`), false)
	f.Fuzz(func(t *testing.T, data []byte, udp bool) {
		r, err := parseIperf3(data, Params{UDP: udp})
		if r == nil {
			if err == nil {
				t.Error("neither a report nor an error")
			}
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Errorf("the report cannot be printed: %v", err)
		}
	})
}
