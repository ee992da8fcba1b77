package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"labctl/backends/catalogue"
	"labctl/lab"
	"labctl/labs"
	"labctl/nodes/nodestest"
)

// fence is a fenced block of a Markdown file.
type fence struct {
	info string // what stands behind the backquotes: "console", "yaml fragment"
	line int
	text []string
}

func fences(t *testing.T, file string) []fence {
	t.Helper()
	var found []fence
	open := false
	for i, l := range markdown(t, file) {
		info, marks := strings.CutPrefix(l, "```")
		switch {
		case marks && open:
			open = false
		case marks:
			open = true
			found = append(found, fence{info: info, line: i + 2})
		case open:
			f := &found[len(found)-1]
			f.text = append(f.text, l)
		}
	}
	if open {
		t.Errorf("%s: the last block does not end", file)
	}
	return found
}

func markdown(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

// rows are the cells of a table, found by its header's first cell, without
// backquotes.
func rows(t *testing.T, file, header string) [][]string {
	t.Helper()
	var found [][]string
	first, in := true, false // of a table; in the one that is looked for
	for _, l := range markdown(t, file) {
		if !strings.HasPrefix(l, "|") {
			first, in = true, false
			continue
		}
		var cells []string
		for c := range strings.SplitSeq(strings.Trim(l, "|"), "|") {
			cells = append(cells, strings.TrimSpace(strings.ReplaceAll(c, "`", "")))
		}
		switch {
		case first:
			first, in = false, cells[0] == header
		case in && !strings.HasPrefix(l, "|-"):
			found = append(found, cells)
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s: no table %q", file, header)
	}
	return found
}

const readme = "../../README.md"

// backendReadmes are the README.md of each backend.
func backendReadmes(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, i := range catalogue.All() {
		files = append(files, "../../backends/"+strings.ReplaceAll(i.Type, "-", "")+"/README.md")
	}
	return files
}

// Every command of README.md's console blocks is run, in order and as an
// ordinary user, and prints what stands below it.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	needTool(t, "ip", "bridge", "sh")
	all := users(t)
	u := all[len(all)-1]
	// The user must be able to read the program: it is theirs.
	bin := filepath.Join(u.runtime, "bin")
	work := filepath.Join(u.runtime, "work")
	for _, d := range []string{bin, work} {
		if err := errors.Join(os.Mkdir(d, 0o700), os.Chown(d, u.uid, -1)); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(bin, "labctl")
	if err := errors.Join(copyProgram(program), os.Chown(program, u.uid, -1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.run(t, "down", "--all") })
	ran := 0
	for _, f := range fences(t, readme) {
		if f.info != "console" {
			continue
		}
		for i, l := range f.text {
			command, ok := strings.CutPrefix(l, "$ ")
			if !ok {
				if i == 0 {
					t.Fatalf("README.md:%d: a console block begins with a command", f.line)
				}
				continue
			}
			want := f.text[i+1:]
			if end := slices.IndexFunc(want, func(l string) bool { return strings.HasPrefix(l, "$ ") }); end >= 0 {
				want = want[:end]
			}
			ran++
			ctx, cancel := context.WithTimeout(t.Context(), nodestest.Slow(t, 2*time.Minute))
			cmd := exec.CommandContext(ctx, "sh", "-c", command)
			cmd.WaitDelay = time.Minute // what the shell has begun may go on for a while
			cmd.Dir = work
			cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+u.runtime, "NO_COLOR=1", "HOME="+work, "PATH="+bin+":"+os.Getenv("PATH"))
			if u.uid != os.Geteuid() {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.uid)}}
			}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			cancel()
			if err != nil {
				t.Fatalf("README.md:%d: %s: %v\n%s", f.line+i, command, err, out.String())
			}
			var got []string
			for l := range strings.Lines(out.String()) {
				got = append(got, shape(l))
			}
			for _, l := range want {
				if l != "..." && !slices.Contains(got, shape(l)) {
					t.Errorf("README.md:%d: %s: no line such as\n%s\nin\n%s", f.line+i, command, l, out.String())
				}
			}
			// Without dots that is all there is; another user's labs may be told of.
			if whole := !slices.Contains(want, "..."); whole && !strings.HasPrefix(command, "labctl ls") && len(got) != len(want) {
				t.Errorf("README.md:%d: %s: %d lines, README has %d:\n%s", f.line+i, command, len(got), len(want), out.String())
			}
		}
	}
	if ran < 10 {
		t.Errorf("%d commands run, want all of README's", ran)
	}
}

var (
	macs    = regexp.MustCompile(`\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`)
	numbers = regexp.MustCompile(`[0-9]+(\.[0-9]+)*(µs|ms|s\b)?`)
)

// shape is a line of output but for what differs from run to run.
func shape(line string) string {
	line = macs.ReplaceAllString(line, "MAC")
	line = numbers.ReplaceAllString(line, "N")
	return strings.Join(strings.Fields(line), " ")
}

// A shell block is for what needs root, or a clone. Other commands belong in
// console blocks, where the test above runs them.
func TestReadmeBlocks(t *testing.T) {
	t.Parallel()
	for _, file := range append(backendReadmes(t), readme) {
		for _, f := range fences(t, file) {
			switch f.info {
			case "sh":
				for i, l := range f.text {
					if strings.HasPrefix(l, "labctl ") {
						t.Errorf("%s:%d: %s: not run by any test; put it in a console block", file, f.line+i, l)
					}
				}
			case "yaml":
				spec, err := lab.Parse("README.yaml", []byte(strings.Join(f.text, "\n")))
				if err == nil {
					_, err = lab.NewPlan(spec, lab.Machine{GCThresh3: 1024})
				}
				if fe, ok := errors.AsType[*lab.FileError](err); ok {
					t.Errorf("%s:%d:\n%s", file, f.line, fe.Excerpt())
				} else if err != nil {
					t.Errorf("%s:%d: %v", file, f.line, err)
				}
			case "", "console", "yaml fragment":
			default:
				t.Errorf("%s:%d: block of kind %q: not known", file, f.line, f.info)
			}
		}
	}
}

func TestReadmeSections(t *testing.T) {
	t.Parallel()
	for file, want := range map[string][]string{
		readme: {"What is real and what is not", "Install", "Commands", "Built-in labs", "Follow a packet", "Looking at packets", "How much a path carries", "Compare backends", "Healing, and how to stop it", "The lab file",
			"Labs in your own Go tests", "Past one machine", "Limits", "How to remove everything", "How it works", "Speed", "How to add to it", "Licence"},
	} {
		sections(t, file, want)
	}
	for _, file := range backendReadmes(t) {
		sections(t, file, []string{"Name", "How a packet travels", "Syntax", "Examples", "Limits", "See also"})
	}
}

// sections checks that a file has these, in this order.
func sections(t *testing.T, file string, want []string) {
	t.Helper()
	var got []string
	for _, l := range markdown(t, file) {
		if s, ok := strings.CutPrefix(l, "## "); ok && slices.Contains(want, s) {
			got = append(got, s)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: sections (-want +got):\n%s", file, diff)
	}
}

// README's tables of commands, exit codes and labs are those of the program.
func TestReadmeTables(t *testing.T) {
	t.Parallel()
	t.Run("commands", func(t *testing.T) {
		t.Parallel()
		root := (&app{}).rootCommand()
		root.InitDefaultHelpCmd()
		var want, got []string
		for _, c := range root.Commands() {
			if !c.Hidden {
				want = append(want, "labctl "+c.Name())
			}
		}
		for _, r := range rows(t, readme, "command") {
			got = append(got, r[0])
		}
		same(t, "commands", got, want)
	})
	t.Run("exit codes", func(t *testing.T) {
		t.Parallel()
		want := []string{"0"}
		for k := lab.Failed; k <= lab.Interrupted; k++ {
			want = append(want, strconv.Itoa(lab.ExitCode(&lab.Failure{Kind: k, Err: errors.New("any")})))
		}
		if more := lab.ExitCode(&lab.Failure{Kind: lab.Interrupted + 1, Err: errors.New("any")}); more != 1 {
			t.Errorf("there is a kind of failure after Interrupted, with exit code %d: add it here", more)
		}
		var got []string
		for _, r := range rows(t, readme, "code") {
			got = append(got, r[0])
		}
		same(t, "exit codes", got, want)
	})
	t.Run("labs", func(t *testing.T) {
		t.Parallel()
		var want, got []string
		for _, name := range labs.Names() {
			spec := builtIn(t, name)
			want = append(want, name+" "+strconv.Itoa(len(spec.Nodes)))
		}
		for _, r := range rows(t, readme, "lab") {
			got = append(got, r[0]+" "+r[1])
		}
		same(t, "labs", got, want)
	})
	t.Run("flags of the agent", func(t *testing.T) {
		t.Parallel()
		var want, got []string
		(&app{}).agentCommand().Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				want = append(want, "--"+f.Name)
			}
		})
		for _, r := range rows(t, readme, "flag") {
			got = append(got, strings.Split(r[0], ", ")...)
		}
		same(t, "flags", got, want)
	})
	t.Run("who can run what", func(t *testing.T) {
		t.Parallel()
		var got []string
		for _, r := range rows(t, readme, "feature or lab") {
			if name, isLab := strings.CutPrefix(r[0], "lab "); isLab {
				got = append(got, name)
			}
			if slices.Contains(r[1:], "FAILED") || len(r) != 6 {
				t.Errorf("%v: want five ways, in which it runs or is refused", r)
			}
		}
		if same(t, "labs", got, labs.Names()); t.Failed() {
			t.Log("make test-all WRITE=1 writes the table")
		}
	})
	t.Run("claims", func(t *testing.T) {
		t.Parallel()
		want, got := map[string]string{}, map[string]string{}
		shown := map[string][]string{}
		for _, name := range labs.Names() {
			for _, c := range builtIn(t, name).Checks {
				if c.Claim == "" {
					continue
				}
				if !isClaim(c.Claim) {
					t.Errorf("%s: check %q: no claim is called %s", name, c.Title(), c.Claim)
				}
				if !slices.Contains(shown[c.Claim], name) {
					shown[c.Claim] = append(shown[c.Claim], name)
				}
			}
		}
		for claim, by := range shown {
			slices.Sort(by)
			want[claim] = strings.Join(by, ", ")
		}
		for _, r := range rows(t, readme, "claim") {
			by := strings.Split(r[2], ", ")
			slices.Sort(by)
			got[r[0]] = strings.Join(by, ", ")
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("claims and the labs that show them (-labs/*.yaml +README.md):\n%s", diff)
		}
	})
	t.Run("checks", func(t *testing.T) {
		t.Parallel()
		want := []string{"ping", "command", "http", "count", "mtu", "store", "calls", "converged", "latency", "throughput", "kill", "capture", "blackout", "policy"}
		var got []string
		for _, r := range rows(t, readme, "kind") {
			got = append(got, r[0])
		}
		same(t, "kinds of checks", got, want)
	})
}

// builtInText is a built-in lab's file.
func builtInText(t *testing.T, name string) string {
	t.Helper()
	data, err := labs.Read(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func builtIn(t *testing.T, name string) *lab.Spec {
	t.Helper()
	spec, err := lab.BuiltIn(name)
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// isClaim says whether the texts that labs were built after have such a claim:
// one host (A), flannel (B), its udp (C), vxlan (D) and host-gw (E) backends,
// Calico (F), other terms (G).
func isClaim(name string) bool {
	last := map[byte]int{'A': 4, 'B': 7, 'C': 5, 'D': 8, 'E': 3, 'F': 6, 'G': 2}
	if name == "" {
		return false
	}
	n, err := strconv.Atoi(name[1:])
	return err == nil && n >= 1 && n <= last[name[0]]
}
