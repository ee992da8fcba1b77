package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Ten kills and a `labctl down --all` leave nothing, and nothing of others
// changed; `make stress` does 300.
func TestCrash(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"unshare", "ip", "bridge", "nft", "sh"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s, which is not installed: make tools installs it", tool)
		}
	}
	if out, err := exec.Command("unshare", "--net", "--map-root-user", "true").CombinedOutput(); err != nil {
		t.Skipf("needs namespaces of its own: %v: %s", err, bytes.TrimSpace(out))
	}
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir+"/", "labctl/cmd/labctl", "labctl/scripts/crash").CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	out, err := exec.Command(filepath.Join(dir, "crash"), "-labctl", filepath.Join(dir, "labctl"), "-kills", "10", "-v").CombinedOutput()
	t.Log(string(out))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "10 kills in ") || !strings.Contains(string(out), ": 0 leaks, 0 foreign changes, 0 commands") {
		t.Error("its last line is not that of ten good rounds")
	}
}

// The comparison sees what is left, what is gone and what is another.
func TestCompare(t *testing.T) {
	t.Parallel()
	before := map[string]string{"link": "up", "file": "a", "process": "1"}
	now := map[string]string{"link": "down", "file": "a", "namespace": "in use"}
	left, changed := differ(before, now)
	if want := "namespace: in use"; len(left) != 1 || left[0] != want {
		t.Errorf("left %q, want %q alone", left, want)
	}
	if len(changed) != 2 || !strings.HasPrefix(changed[0], "link:") || !strings.HasPrefix(changed[1], "process:") {
		t.Errorf("changed %q, want link and process", changed)
	}
}

// Arguments that nobody reads are refused: -sizes 100 200 would be -sizes 100.
func TestArgumentsAreRefused(t *testing.T) {
	t.Parallel()
	if os.Getenv("LABCTL_TEST_MAIN") != "" {
		os.Args = []string{"crash", "-kills", "1", "200"}
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
