package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Arguments that nobody reads are refused: -sizes 100 200 would be -sizes 100.
func TestArgumentsAreRefused(t *testing.T) {
	t.Parallel()
	if os.Getenv("LABCTL_TEST_MAIN") != "" {
		os.Args = []string{"bench", "-scale", "-sizes", "100", "200"}
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
