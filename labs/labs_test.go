package labs_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"labctl/lab"
	"labctl/labs"
)

func TestEveryLabParsesAndPlans(t *testing.T) {
	t.Parallel()
	if len(labs.Names()) == 0 {
		t.Fatal("Names() is empty")
	}
	for _, name := range labs.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := labs.Read(name)
			if err != nil {
				t.Fatal(err)
			}
			s, err := lab.Parse(name+".yaml", data)
			if err != nil {
				if e, ok := errors.AsType[*lab.FileError](err); ok {
					t.Fatal(e.Excerpt())
				}
				t.Fatal(err)
			}
			if s.Name != name {
				t.Errorf("name = %s, want the file's", s.Name)
			}
			if len(s.Checks) == 0 {
				t.Error("no checks: a built-in lab must show what it claims")
			}
			if _, err := lab.NewPlan(s, lab.Machine{GCThresh3: 1024}); err != nil {
				t.Error(err)
			}
			if !strings.HasPrefix(string(data), "# yaml-language-server: $schema=lab.schema.json\n") {
				t.Error("first line does not name the schema")
			}
		})
	}
}

func TestAllHasTheSummaryOfEachLab(t *testing.T) {
	t.Parallel()
	for _, l := range labs.All() {
		s, err := lab.BuiltIn(l.Name)
		if err != nil {
			t.Fatal(err)
		}
		if l.About != s.About || l.About == "" {
			t.Errorf("%s: about = %q, want %q", l.Name, l.About, s.About)
		}
	}
}

func TestReadUnknown(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", "nope", "vxlan", "../labs/bridge-nat", "flannel-vxlan.yaml"} {
		_, err := labs.Read(name)
		if !errors.Is(err, labs.ErrUnknown) || !strings.Contains(err.Error(), "bridge-nat") {
			t.Errorf("Read(%q) = %v, want ErrUnknown with the names there are", name, err)
		}
	}
}

func TestNamesAreTheFiles(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yaml"); ok {
			want = append(want, name)
		}
	}
	if got := strings.Join(labs.Names(), " "); got != strings.Join(want, " ") {
		t.Errorf("Names() = %s, want %s", got, want)
	}
}
