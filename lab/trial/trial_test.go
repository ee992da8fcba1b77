package trial

import (
	"bytes"
	"encoding/xml"
	"strings"
	"testing"
	"time"

	"labctl/lab"
	"labctl/lab/check"
)

// JUnit's numbers add up, its names carry claims, and its text is XML whatever
// a check found.
func TestWriteJUnit(t *testing.T) {
	t.Parallel()
	s := &Summary{TookMs: 1500, Labs: []Report{
		{Lab: "one", Outcome: check.Failed, Started: time.Unix(0, 0), TookMs: 1250, Kept: "/tmp/kept", Checks: []check.Result{
			{Title: "fine", Claim: "D2", Outcome: check.Passed, TookMs: 12.5},
			{Title: "bad", Claim: "D3", Outcome: check.Failed, Expected: "a <tag>", Found: "\x00\xff ]]> & \"" + strings.Repeat("é", 200)},
			{Title: "no tool", Outcome: check.Cannot, Found: "tcpdump: not found"},
			{Title: "other", Outcome: check.Left, Found: "about vxlan"},
		}},
		{Lab: "two", Outcome: check.Cannot, Reason: "no TUN", Cure: "load it", Checks: []check.Result{}},
		{Lab: "three", Outcome: check.Failed, Reason: "could not be removed", Checks: []check.Result{{Title: "fine", Outcome: check.Passed}}},
	}}
	var b bytes.Buffer
	if err := s.WriteJUnit(&b); err != nil {
		t.Fatal(err)
	}
	type message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	var got struct {
		Tests    int    `xml:"tests,attr"`
		Failures int    `xml:"failures,attr"`
		Skipped  int    `xml:"skipped,attr"`
		Time     string `xml:"time,attr"`
		Suites   []struct {
			Cases []struct {
				Class   string   `xml:"classname,attr"`
				Name    string   `xml:"name,attr"`
				Time    string   `xml:"time,attr"`
				Failure *message `xml:"failure"`
				Skipped *message `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if got.Tests != 7 || got.Failures != 2 || got.Skipped != 3 || got.Time != "1.500" {
		t.Errorf("%d tests, %d failures, %d skipped in %s s, want 7, 2, 3, 1.500", got.Tests, got.Failures, got.Skipped, got.Time)
	}
	one := got.Suites[0]
	if one.Cases[0].Name != "D2 fine" || one.Cases[0].Class != "labctl.one" || one.Cases[0].Time != "0.013" && one.Cases[0].Time != "0.012" {
		t.Errorf("case %+v, want D2 fine of labctl.one", one.Cases[0])
	}
	if f := one.Cases[1].Failure; f == nil || !strings.Contains(f.Text, "expected: a <tag>") {
		t.Errorf("failure %+v, want what was expected", f)
	}
	if c := got.Suites[1].Cases[0]; c.Skipped == nil || c.Skipped.Message != "no TUN; cure: load it" {
		t.Errorf("%+v, want it skipped with the reason and the cure", c)
	}
	if c := got.Suites[2].Cases[1]; c.Failure == nil {
		t.Errorf("%+v, want a failure", c)
	}
}

func TestFreshName(t *testing.T) {
	t.Parallel()
	for _, of := range []string{"a", "flannel-vxlan", "a234567890123456789012-abcdefg", "a2345678901234567890123456789-x"} {
		one, two := FreshName(of), FreshName(of)
		if one == two {
			t.Errorf("FreshName(%s) = %s, twice", of, one)
		}
		for _, name := range []string{one, two} {
			if err := new(lab.Spec).Rename(name); err != nil {
				t.Errorf("FreshName(%s): %v", of, err)
			}
		}
	}
}

// A failure counts for more than what could not run.
func TestErrChoosesTheExitStatus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		outcomes []check.Outcome
		want     int
	}{
		{"all passed", []check.Outcome{check.Passed, check.Passed}, 0},
		{"one cannot", []check.Outcome{check.Passed, check.Cannot}, 4},
		{"one failed", []check.Outcome{check.Cannot, check.Failed, check.Passed}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &Summary{}
			for _, o := range c.outcomes {
				s.Labs = append(s.Labs, Report{Outcome: o})
			}
			if got := lab.ExitCode(s.Err()); got != c.want {
				t.Errorf("Err() = %v, exit status %d, want %d", s.Err(), got, c.want)
			}
		})
	}
}
