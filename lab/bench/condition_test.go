package bench

import (
	"strings"
	"testing"
)

func TestConditionHolds(t *testing.T) {
	t.Parallel()
	r := four().run(seeded(5))
	r.Variants = append(r.Variants, Variant{Name: "gone", Kind: Contestant, Missing: "the kernel has no such device"})
	for _, tt := range []struct {
		text    string
		want    bool
		missing string
	}{
		{"udp.tcp1 < 0.9*vxlan.tcp1", true, ""},
		{"udp.tcp1 < 0.5*vxlan.tcp1", false, ""},
		{"vxlan.tcp1 > udp.tcp1", true, ""},
		{"host-gw.tcp1 < calico.tcp1", false, ""}, // equals: never sure
		{"host-gw.tcp1 > calico.tcp1", false, ""},
		{"host-gw.tcp1 >= host-gw.tcp1", true, ""},
		{"(udp.tcp1 + vxlan.tcp1) / 2 < host-gw.tcp1 - 1", true, ""},
		{"udp.tcp1/udp.tcp1 <= 1", true, ""},
		{"gone.tcp1 < udp.tcp1", false, "gone.tcp1 was not measured: the kernel has no such device"},
		{"udp.tcp1 - vxlan.tcp1 > 1", false, "no ratio"},
	} {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			c, err := ParseCondition(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			a := c.Holds(r)
			if a.Holds != tt.want || !strings.Contains(a.Missing, tt.missing) || (a.Missing == "") != (tt.missing == "") {
				t.Errorf("Holds() = %+v, want %v, %q", a, tt.want, tt.missing)
			}
		})
	}
}

func TestParseConditionRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                         "column 1: want VARIANT.METRIC or a number here",
		"udp.tcp1":                 "column 9: want <, <=, > or >= here",
		"udp.tcp1 < ":              "want VARIANT.METRIC or a number here",
		"udp.tcp1 < 1 2":           "column 14: nothing more",
		"udp < 1":                  "column 1: not a figure",
		"1 < 2":                    "no figure in it",
		"(udp.tcp1 < 2":            "column 11: want ) here",
		"udp.tcp1 ~ 2":             "column 10: not a figure",
		"udp.tcp1 < 2 = 3":         "column 14: not a figure",
		strings.Repeat("(", 200):   "too many parentheses",
		"udp.tcp1 < 2 < vxlan.rr":  "column 14: nothing more",
		"udp.tcp1 * < vxlan.tcp1":  "column 12: want VARIANT.METRIC or a number here",
		"udp.tcp1 < 1e309*udp.rr ": "column 13",
	} {
		if _, err := ParseCondition(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseCondition(%.20q) = %v, want %q", text, err, want)
		}
	}
}

func TestConditionCheck(t *testing.T) {
	t.Parallel()
	r := four().run(seeded(6))
	for text, want := range map[string]string{
		"udp.tcp1 < vxlan.tcp1": "",
		"upd.tcp1 < vxlan.tcp1": "upd: is not measured; there are host-gw, vxlan, udp, host-gw-2, calico",
		"udp.tpc1 < vxlan.tcp1": "tpc1: is not measured; there are tcp1",
	} {
		c, err := ParseCondition(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Check(r.Variants, r.Metrics); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: Check() = %v, want %q", text, err, want)
		}
	}
}

func FuzzParseCondition(f *testing.F) {
	f.Add("udp.tcp1 < 0.9*vxlan.tcp1")
	f.Add("(a.b-2 + 1) >= c.d/3 - 0.5")
	r := four().run(seeded(7))
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCondition(text)
		if err != nil {
			return
		}
		if err := c.Check(r.Variants, r.Metrics); err == nil {
			c.Holds(r)
		}
	})
}
