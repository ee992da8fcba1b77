package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"labctl/lab"
	"labctl/labs"
)

// allPassed are the results of a run of the built-in labs in which nothing
// failed. That it is so is for the tests of cmd/labctl.
func allPassed(t *testing.T) results {
	t.Helper()
	var r results
	for _, name := range labs.Names() {
		spec, err := lab.BuiltIn(name)
		if err != nil {
			t.Fatal(err)
		}
		l := labResult{Lab: name}
		for _, c := range spec.Checks {
			l.Checks = append(l.Checks, checkResult{c.Title(), c.Claim, "passed", ""})
		}
		r.Labs = append(r.Labs, l)
	}
	return r
}

// README.md's table is the one that the results make.
func TestReadmeTableIsUpToDate(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(readme, want, 0o644); err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(allPassed(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := run(strings.NewReader(string(in)), readme); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("README.md is out of date; run: labctl test --all -o json | go run ./scripts/claims (-README +results):\n%s", diff)
	}
}

func TestTableRefusesWhatDidNotPass(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, claim, outcome, want string }{
		{"failed", "D2", "failed", "D2 title: failed: found"},
		{"could not run", "D2", "cannot", "cannot: found"},
		{"no such claim", "Z9", "passed", "Z9: shown by a lab"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := results{Labs: []labResult{{"l", []checkResult{{"title", c.claim, c.outcome, "found"}}}}}
			if _, err := r.table(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("table() = %v, want %q", err, c.want)
			}
		})
	}
}

// Arguments that nobody reads are refused: -sizes 100 200 would be -sizes 100.
func TestArgumentsAreRefused(t *testing.T) {
	t.Parallel()
	if os.Getenv("LABCTL_TEST_MAIN") != "" {
		os.Args = []string{"claims", "200"}
		main()
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestArgumentsAreRefused$")
	cmd.Env = append(os.Environ(), "LABCTL_TEST_MAIN=1")
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(out), `["200"]`) {
		t.Errorf("exit status %d (%v), %s; want 2 and the argument", code, err, out)
	}
}
