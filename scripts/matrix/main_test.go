package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTable(t *testing.T) {
	t.Parallel()
	got := table([]way{{says: "root"}, {says: "user"}}, []result{
		{Rows: []row{{Name: "`up`", Cell: "yes"}, {Name: "lab `a`", Cell: "2 of 2"}}},
		{Rows: []row{{Name: "`up`", Cell: "yes"}, {Name: "lab `a`", Cell: "no", Why: "no tun"}}},
	})
	want := "| feature or lab | root | user |\n|---|---|---|\n| `up` | yes | yes |\n| lab `a` | 2 of 2 | no |\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestInsert(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "README.md")
	for _, test := range []struct{ name, text, want string }{
		{"between its lines", "a\n" + begin + "\n\nold\n\n" + end + "\nb\n", "a\n" + begin + "\n\nnew\n\n" + end + "\nb\n"},
		{"no end", "a\n" + begin + "\nold\n", ""},
		{"no lines", "a\n", ""},
	} {
		if err := os.WriteFile(file, []byte(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := insert(file, "new\n")
		got, rerr := os.ReadFile(file)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if (err != nil) != (test.want == "") || err == nil && string(got) != test.want || err != nil && string(got) != test.text {
			t.Errorf("%s: insert = %v, %q, want %q", test.name, err, got, test.want)
		}
	}
}

// A command that ends with 4 has told why; any other failure is one.
func TestRow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, command string
		want          row
	}{
		{"done", "true", row{Name: "f", Cell: "yes"}},
		{"refused", "echo 'labctl: x: no netem' && echo '  cure: modprobe sch_netem' && exit 4", row{Name: "f", Cell: "no", Why: "x: no netem; cure: modprobe sch_netem"}},
		{"broken", "echo bang && exit 1", row{Name: "f", Cell: "FAILED", Why: "exit status 1: bang\n", Failed: true}},
	} {
		out, err := exec.Command("sh", "-c", test.command).CombinedOutput()
		if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, feature{name: "f"}.row(err, out)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

// Every feature is a command of labctl's, or of ip's.
func TestFeatures(t *testing.T) {
	t.Parallel()
	for _, f := range features {
		if !strings.Contains(f.command, "labctl ") {
			t.Errorf("%s: %s: no labctl in it", f.name, f.command)
		}
	}
}

// Arguments that nobody reads are refused: -sizes 100 200 would be -sizes 100.
func TestArgumentsAreRefused(t *testing.T) {
	t.Parallel()
	if os.Getenv("LABCTL_TEST_MAIN") != "" {
		os.Args = []string{"matrix", "-labs", "x", "200"}
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

// README's table has a row for each feature; that it has one for each lab, a
// test of labctl's holds.
func TestReadmeHasEveryFeature(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), begin)
	written, _, _ := strings.Cut(rest, end)
	var want, got []string
	for _, f := range features {
		want = append(want, f.name)
	}
	for line := range strings.Lines(written) {
		if cells := strings.Split(line, " | "); len(cells) > 1 && !strings.HasPrefix(line, "| lab `") && !strings.HasPrefix(line, "| feature") {
			got = append(got, strings.TrimPrefix(cells[0], "| "))
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("features (-rows.go +README.md; make test-all WRITE=1 writes them):\n%s", diff)
	}
}
