package trial

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"labctl/lab/check"
)

// The JUnit format as CI servers read it: a suite for each lab, a case for
// each check.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
		Out       string      `xml:"system-out,omitempty"`
	}
	junitCase struct {
		Class   string   `xml:"classname,attr"`
		Name    string   `xml:"name,attr"`
		Time    string   `xml:"time,attr"`
		Failure *message `xml:"failure"`
		Skipped *message `xml:"skipped"`
	}
	message struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the summary as JUnit XML.
func (s *Summary) WriteJUnit(w io.Writer) error {
	all := junitSuites{Name: "labctl test", Time: seconds(s.TookMs)}
	for _, r := range s.Labs {
		suite := r.junit()
		all.Tests += suite.Tests
		all.Failures += suite.Failures
		all.Skipped += suite.Skipped
		all.Suites = append(all.Suites, suite)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func (r Report) junit() junitSuite {
	s := junitSuite{Name: r.Lab, Time: seconds(r.TookMs), Timestamp: r.Started.UTC().Format(time.RFC3339)}
	if r.Kept != "" {
		s.Out = "kept in " + r.Kept
	}
	for _, c := range r.Checks {
		s.add(junitOf(c, r.Lab))
	}
	// Why a lab could not run, or was not run to its end, is a case of its own,
	// unless a check has said so.
	if r.Reason == "" || s.Failures > 0 {
		return s
	}
	c := check.Result{Title: "the lab runs", Outcome: r.Outcome, Expected: "a lab to check", Found: r.Reason}
	if r.Cure != "" {
		c.Found += "; cure: " + r.Cure
	}
	s.add(junitOf(c, r.Lab))
	return s
}

func (s *junitSuite) add(c junitCase) {
	s.Cases = append(s.Cases, c)
	s.Tests++
	if c.Failure != nil {
		s.Failures++
	}
	if c.Skipped != nil {
		s.Skipped++
	}
}

func junitOf(c check.Result, lab string) junitCase {
	j := junitCase{Class: "labctl." + lab, Name: c.Line(), Time: seconds(c.TookMs)}
	switch c.Outcome {
	case check.Failed:
		j.Failure = &message{"found " + clip(c.Found), fmt.Sprintf("expected: %s\nfound:    %s\n", c.Expected, c.Found)}
	case check.Cannot, check.Left:
		j.Skipped = &message{Message: c.Found}
	}
	return j
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
