package iperf

import (
	"encoding/json"
	"math"
	"slices"
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

// FuzzProc reads /proc/stat and /proc/PID/stat: what they say can be printed.
func FuzzProc(f *testing.F) {
	f.Add([]byte("cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1\n"))
	f.Add([]byte("12 (a b) c) S 1 12 12 0 -1 4194560 1 0 0 0 11 12 0 0 20 0 1 0 4711\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		softirq, busy, err := parseMachine(data)
		if err == nil && softirq > busy {
			t.Errorf("%q: %v of %v", data, softirq, busy)
		}
		seconds, _ := parseProcess(data)
		if _, err := json.Marshal([]float64{softirq, busy, seconds}); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	})
}

// FuzzArrivals has a receiver count datagrams that say anything.
func FuzzArrivals(f *testing.F) {
	numbered := func(numbers ...int64) (all []byte) {
		for _, n := range numbers {
			b := make([]byte, headerSize)
			putHeader(b, 7, n, wallClock())
			all = append(all, b...)
		}
		return all
	}
	f.Add(numbered(0, 1, 3, 2, 2, hello), uint8(headerSize))
	f.Add(numbered(0, window+10, 5, math.MaxInt64, 3), uint8(headerSize))
	f.Add(numbered(math.MaxInt64-1, math.MinInt64, 1), uint8(headerSize+1))
	f.Add([]byte("short"), uint8(3))
	f.Fuzz(func(t *testing.T, all []byte, size uint8) {
		s := newStream(1, Params{})
		s.cookie = 7
		var q sequence
		came := int64(0)
		b := newBatch(max(int(size), 1), true)
		for data := range slices.Chunk(all, max(int(size), 1)) {
			b.msgs[0].n = uint32(copy(b.bufs[0], data))
			s.take(b, 1, &q)
			came++
		}
		if q.received+q.duplicates > came || q.received < 0 || q.reordered < 0 || q.reordered > q.received || q.next < 0 {
			t.Errorf("of %d datagrams: %d received, %d twice, %d out of order, next %d", came, q.received, q.duplicates, q.reordered, q.next)
		}
		if math.IsNaN(q.jitter) || math.IsInf(q.jitter, 0) || q.jitter < 0 {
			t.Errorf("jitter %v", q.jitter)
		}
	})
}
