package lab

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// FuzzParse holds what must be true of any file at all: Parse does not panic,
// each problem stands within the file, and what is accepted can be planned.
// Interesting inputs are kept in testdata/fuzz/FuzzParse.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/plans/*.yaml", "../labs/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkAnyFile(t, data) })
}

// checkAnyFile parses, and plans what is accepted.
func checkAnyFile(t interface {
	Helper()
	Errorf(string, ...any)
	Fatalf(string, ...any)
}, data []byte) (accepted bool) {
	t.Helper()
	s, err := Parse("fuzz.yaml", data)
	if err != nil {
		e, ok := errors.AsType[*FileError](err)
		if !ok || len(e.Problems) == 0 {
			t.Fatalf("Parse() = %T %v, want a *FileError with problems", err, err)
		}
		checkPositions(t, data, e)
		_, _ = e.Excerpt(), e.Error()
		return false
	}
	p, err := NewPlan(s, Machine{GCThresh3: 1024})
	if err != nil {
		t.Fatalf("NewPlan() of an accepted file: %v", err)
	}
	if problem := checkPlan(p); problem != "" {
		t.Fatalf("%s", problem)
	}
	if lines := DiffPlans(p, p); len(lines) > 0 {
		t.Fatalf("the plan differs from itself: %v", lines)
	}
	return true
}

// TestParseMutations does what FuzzParse does, but keeps close to YAML that
// has a meaning: words and lines of real labs are changed for others.
func TestParseMutations(t *testing.T) {
	t.Parallel()
	var labs [][]byte
	var words []string
	word := regexp.MustCompile(`[^\s{}\[\],:]+`)
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/plans/*.yaml", "../labs/*.yaml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			data = regexp.MustCompile(`(?m)^#.*\n`).ReplaceAll(data, nil)
			labs = append(labs, data)
			words = append(words, word.FindAllString(string(data), -1)...)
		}
	}
	words = append(words, "[]", "{}", "", "null", "0", "-1", "1000", "99999999999999999999", "0.0.0.0/0", "10.0.0.0/31", "255.255.255.255", "::1/64", "~", "&a", "*a", "!!int", "1e3")
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		data := string(rapid.SampledFrom(labs).Draw(t, "lab"))
		for range rapid.IntRange(0, 4).Draw(t, "changes") {
			if rapid.Bool().Draw(t, "line") {
				lines := strings.SplitAfter(data, "\n")
				i := rapid.IntRange(0, len(lines)-1).Draw(t, "which")
				lines[i] = rapid.SampledFrom([]string{"", lines[i] + lines[i], " " + lines[i], strings.TrimSpace(lines[i]) + "\n"}).Draw(t, "becomes")
				data = strings.Join(lines, "")
				continue
			}
			places := word.FindAllStringIndex(data, -1)
			if len(places) == 0 {
				break
			}
			at := rapid.SampledFrom(places).Draw(t, "word")
			data = data[:at[0]] + rapid.SampledFrom(words).Draw(t, "new") + data[at[1]:]
		}
		if checkAnyFile(t, []byte(data)) {
			accepted++
		}
	})
	if accepted == 0 {
		t.Error("no mutated lab was accepted: the mutations are too wild to test planning")
	}
}
