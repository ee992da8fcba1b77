package bench

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzParseResult renders every result that is accepted in all forms, and
// compares it with itself.
func FuzzParseResult(f *testing.F) {
	r := whole()
	for i := range r.Series { // fewer rounds are fuzzed faster
		s := &r.Series[i]
		s.Rounds, s.Values = s.Rounds[:min(len(s.Rounds), 3)], s.Values[:min(len(s.Values), 3)]
	}
	data, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"schemaVersion":1,"metrics":[{"name":"tcp1"}],"variants":[{"name":"a"},{"name":"a"}],"series":[{"metric":"tcp1","variant":"a","rounds":[1,1],"values":[0,1e308]}]}`))
	f.Add([]byte(`{"schemaVersion":1,"metrics":[{"name":"m"}],"variants":[{"name":"v"}],"series":[{"metric":"x","variant":"y","rounds":[-1],"values":[5e-324]}],"curves":[{"metric":"m","variant":"v","parts":[0.5],"micros":[0]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseResult(data)
		if err != nil {
			return
		}
		a := Analyse(r)
		if page := HTML(r, a); !strings.HasPrefix(page, "<!DOCTYPE html>") {
			t.Error("HTML() is no page")
		}
		_ = Markdown(r, a)
		for _, s := range Sections(r, a) {
			header, rows := s.Text()
			for _, row := range rows {
				if len(row) != len(header) {
					t.Errorf("%d cells in a row of %d: %q", len(row), len(header), row)
				}
			}
		}
		if d, err := Compare(r, r, ""); err == nil && d.Err() != nil {
			t.Errorf("worse than itself: %v", d.Err())
		}
	})
}

// FuzzProc reads what a run measures under /proc.
func FuzzProc(f *testing.F) {
	f.Add([]byte("cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1\n"))
	f.Add([]byte("12 (a b) c) S 1 12 12 0 -1 4194560 1 0 0 0 11 12 0 0 20 0 1 0 4711\n"))
	f.Add([]byte("1000-2000 ---p 00000000 00:00 0 [rollup]\nPrivate_Clean:  12 kB\nPrivate_Dirty:  NaN kB\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		u, err := parseMachine(data)
		if err == nil && (u.busy() < 0 || u.foreign() > u.total() || u.steal > u.total()) {
			t.Errorf("%q: %+v", data, u)
		}
		all, user, err := parseProcess(data)
		if err == nil && user > all {
			t.Errorf("%q: %v of %v", data, user, all)
		}
		mb, err := parsePrivate(string(data))
		if err == nil && mb < 0 {
			t.Errorf("%q: %v MB", data, mb)
		}
		if _, err := json.Marshal([]float64{u.total(), all, user, mb}); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	})
}
