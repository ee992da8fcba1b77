package trial

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"labctl/lab/check"
)

// WriteJUnit writes the summary in the JUnit format as CI servers read it: a
// suite for each lab, a case for each check.
//
// It is written by hand: encoding/xml's Encoder would be 80 KB more of labctl.
func (s *Summary) WriteJUnit(w io.Writer) error {
	var suites bytes.Buffer
	var all tally
	for _, r := range s.Labs {
		all.add(r.junit(&suites))
	}
	_, err := fmt.Fprintf(w, "%s<testsuites name=\"labctl test\" %v time=\"%s\">\n%s</testsuites>\n", xml.Header, all, seconds(s.TookMs), suites.Bytes())
	return err
}

// tally counts cases.
type tally struct{ tests, failures, skipped int }

func (t *tally) add(more tally) {
	t.tests += more.tests
	t.failures += more.failures
	t.skipped += more.skipped
}

// String is the tally as attributes.
func (t tally) String() string {
	return fmt.Sprintf(`tests="%d" failures="%d" errors="0" skipped="%d"`, t.tests, t.failures, t.skipped)
}

// junit writes a suite.
func (r Report) junit(w *bytes.Buffer) tally {
	var cases bytes.Buffer
	var t tally
	for _, c := range r.Checks {
		t.add(junitCase(&cases, r.Lab, c))
	}
	// Why a lab could not run, or was not run to its end, is a case of its own,
	// unless a check has said so.
	if r.Reason != "" && t.failures == 0 {
		c := check.Result{Title: "the lab runs", Outcome: r.Outcome, Expected: "a lab to check", Found: r.Reason}
		if r.Cure != "" {
			c.Found += "; cure: " + r.Cure
		}
		t.add(junitCase(&cases, r.Lab, c))
	}
	fmt.Fprintf(w, "  <testsuite name=\"%s\" %v time=\"%s\" timestamp=\"%s\">\n%s",
		escape(r.Lab), t, seconds(r.TookMs), r.Started.UTC().Format(time.RFC3339), cases.Bytes())
	if r.Kept != "" {
		fmt.Fprintf(w, "    <system-out>kept in %s</system-out>\n", escape(r.Kept))
	}
	w.WriteString("  </testsuite>\n")
	return t
}

func junitCase(w *bytes.Buffer, lab string, c check.Result) tally {
	t := tally{tests: 1}
	fmt.Fprintf(w, "    <testcase classname=\"labctl.%s\" name=\"%s\" time=\"%s\">", escape(lab), escape(c.Line()), seconds(c.TookMs))
	switch c.Outcome {
	case check.Failed:
		t.failures = 1
		fmt.Fprintf(w, "<failure message=\"%s\">%s</failure>", escape("found "+clip(c.Found)),
			escape(fmt.Sprintf("expected: %s\nfound:    %s\n", c.Expected, c.Found)))
	case check.Cannot, check.Left:
		t.skipped = 1
		fmt.Fprintf(w, "<skipped message=\"%s\"></skipped>", escape(c.Found))
	}
	w.WriteString("</testcase>\n")
	return t
}

// escape makes text of anything fit for XML, in attributes too.
func escape(s string) string {
	var b strings.Builder
	// A Builder takes everything.
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// clip keeps an attribute readable; the whole is in the text.
func clip(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

func seconds(ms float64) string { return fmt.Sprintf("%.3f", ms/1000) }
