// Command matrix runs labctl's features and built-in labs as root, as an
// ordinary user and in a kernel of their own, fails when something breaks, and
// with -write puts who can run what into README.md:
//
//	make test-all
//
// A cell is never guessed: "yes" and "3 of 3" are commands and checks that
// passed, "no" is exit status 4 with its cure, which is printed. Anything else
// is a failure.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// uid is the ordinary user's that root becomes.
const uid = 54321

// way is one way to run labctl.
type way struct {
	name, says string
	root       bool     // only root can set it up
	argv       []string // what the command is put behind
}

// asUser drops everything of root's.
const asUser = "setpriv --reuid=54321 --regid=54321 --clear-groups "

var ways = []way{
	{"root", "root", true, nil},
	{"user", "ordinary user", true, strings.Fields(asUser)},
	// The machine's own node is left alone: this one is of a mount namespace.
	{"tun", "and `/dev/net/tun` 0666", true, []string{"unshare", "-m", "sh", "-c",
		"mount -t tmpfs -o mode=755 tun /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec " + asUser + `"$@"`, "sh"}},
	// What a container often is: root in name, no capability, no user namespace.
	{"bare", "neither root nor user namespaces", true, []string{"unshare", "-Urm", "sh", "-c",
		`echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"`, "sh"}},
	{"uml", "the same, in UML", true, append([]string{"unshare", "-Urm", "sh", "-c",
		`echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"`, "sh"}, "scripts/uml/boot")},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	labctl := flag.String("labctl", "bin/labctl", "the program")
	only := flag.String("ways", "", "some of root,user,tun,bare,uml (default: all that the caller can set up)")
	labs := flag.String("labs", "", "some of the built-in labs (default: all)")
	write := flag.Bool("write", false, "put the table into README.md")
	inner := flag.Bool("inner", false, "run everything here and print the result (what the ways run)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "matrix: %q: what is this? There are only flags; -h lists them\n", flag.Args())
		os.Exit(2)
	}
	var err error
	if *inner {
		err = here(ctx, *labctl, strings.Fields(strings.ReplaceAll(*labs, ",", " ")))
	} else {
		err = all(ctx, *labctl, *only, *labs, *write)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

// all runs each way and puts the results side by side.
func all(ctx context.Context, labctl, only, labs string, write bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := filepath.Abs(labctl)
	if err != nil {
		return err
	}
	var chosen []way
	for _, w := range ways {
		if os.Geteuid() != 0 {
			// An ordinary user is one already, and has no other tun.
			switch w.name {
			case "user":
				w.argv = nil
			case "uml":
				w.argv = []string{"scripts/uml/boot"}
			case "root", "tun":
				fmt.Printf("%s: left out, it takes root\n", w.says)
				continue
			}
		}
		if only == "" || slices.Contains(strings.Split(only, ","), w.name) {
			chosen = append(chosen, w)
		}
	}
	var results []result
	failed := 0
	for _, w := range chosen {
		fmt.Printf("== %s\n", w.says)
		r, err := w.run(ctx, self, "-inner", "-labctl", program, "-labs", labs)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		for _, row := range r.Rows {
			fmt.Printf("%-40s %s%s\n", row.Name, row.Cell, prefixed("  ", row.Why))
			if row.Failed {
				failed++
			}
		}
		results = append(results, r)
	}
	if failed > 0 {
		return fmt.Errorf("%d of them failed", failed)
	}
	if !write {
		return nil
	}
	return insert("README.md", table(chosen, results))
}

// prefixed is text after a prefix, nothing without text.
func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// result is what one way gave, row by row.
type result struct {
	Rows []row `json:"rows"`
}

type row struct {
	Name   string `json:"name"`
	Cell   string `json:"cell"`
	Why    string `json:"why,omitempty"` // not yes: the message and its cure
	Failed bool   `json:"failed"`        // neither done nor refused with a reason
}

// mark stands before the result in what a way prints.
const mark = "matrix-result: "

// run runs the arguments as the way says, with a directory of their own, and
// reads the result from the last line.
func (w way) run(ctx context.Context, argv ...string) (result, error) {
	var r result
	dir, err := os.MkdirTemp("/tmp", "labctl-matrix-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	if os.Geteuid() == 0 && (w.name == "user" || w.name == "tun") {
		if err := os.Chown(dir, uid, uid); err != nil {
			return r, err
		}
	}
	argv = append(slices.Clone(w.argv), argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "TMPDIR="+dir, "HOME="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("%s: %w:\n%s", strings.Join(argv, " "), err, out)
	}
	_, text, ok := bytes.Cut(out, []byte(mark))
	if !ok {
		return r, fmt.Errorf("%s: no result:\n%s", strings.Join(argv, " "), out)
	}
	return r, json.Unmarshal(bytes.TrimSpace(text), &r)
}

// table is the Markdown table: a row for each feature and lab, a column for
// each way.
func table(ways []way, results []result) string {
	var b strings.Builder
	b.WriteString("| feature or lab |")
	for _, w := range ways {
		fmt.Fprintf(&b, " %s |", w.says)
	}
	b.WriteString("\n|---" + strings.Repeat("|---", len(ways)) + "|\n")
	for i, row := range results[0].Rows {
		fmt.Fprintf(&b, "| %s |", row.Name)
		for _, r := range results {
			fmt.Fprintf(&b, " %s |", r.Rows[i].Cell)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// The table stands between these lines.
const (
	begin = "<!-- made by make test-all WRITE=1 -->"
	end   = "<!-- end of who can run what -->"
)

func insert(file, table string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), begin+"\n")
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return errors.New(file + ": no lines " + begin + " and " + end)
	}
	return os.WriteFile(file, []byte(before+begin+"\n\n"+table+"\n"+end+after), 0o644)
}
