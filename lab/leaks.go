package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// InitCommand is what the program of a lab's PID 1 is started with; the run
// directory follows.
const InitCommand = "__init"

// Leak is something of a lab that is no more: its processes are gone, or its
// record is.
type Leak struct {
	// Kind is run directory, name, process or damaged record.
	Kind string `json:"kind"`
	// What is the path, or the process as "1234 sleep".
	What string `json:"what"`
	// Lab is whose it was.
	Lab string `json:"lab"`
	// Why says what makes it a leak.
	Why string `json:"why"`
	// Cure is the command that removes it.
	Cure string `json:"cure"`
}

// Leaks lists what is left of the caller's labs that run no more, and the
// labs that nobody can find because their run directory is gone. It changes
// nothing. What belongs to a lab is told by the lab's record, and for a lab
// without one by the program and the arguments of its PID 1; names are not
// guessed at. Other users' labs are not looked at. With an error it returns what it
// has found.
func Leaks() ([]Leak, error) {
	base, err := Base()
	if err != nil {
		return nil, err
	}
	names, err := Names()
	if err != nil {
		return nil, err
	}
	var leaks []Leak
	var errs []error
	known := map[int]bool{} // PID 1 of the labs that are on record
	for _, name := range names {
		d, err := DirOf(name)
		if err != nil {
			l := Leak{Kind: "run directory", What: filepath.Join(base, name), Lab: name, Why: err.Error()}
			if f, ok := errors.AsType[*Failure](err); ok {
				l.Cure = f.Cure
			}
			leaks = append(leaks, l)
			continue
		}
		found, pid, err := d.leaks()
		errs = append(errs, err)
		leaks = append(leaks, found...)
		known[pid] = true
	}
	lost, err := unrecorded(known)
	return append(leaks, lost...), errors.Join(append(errs, err)...)
}

// leaks are those of one run directory, and the lab's PID 1 if it lives.
func (d Dir) leaks() ([]Leak, int, error) {
	cure := "labctl down " + d.Name()
	rec, err := ReadRecord(d)
	if errors.Is(err, fs.ErrNotExist) {
		if d.locked() {
			return nil, 0, nil
		}
		return []Leak{{"run directory", string(d), d.Name(), "it has no record: an up that ended early, or somebody removed it", cure}}, 0, nil
	}
	if err != nil {
		return []Leak{{"damaged record", d.Record(), d.Name(), err.Error(), fmt.Sprintf("when no labctl process is left: rm -r %s", d)}}, 0, nil
	}
	if rec.Alive() {
		return nil, rec.PID, nil
	}
	leaks := []Leak{{"run directory", string(d), d.Name(), "the lab's processes are gone", cure}}
	paths := make([]string, 0, len(rec.Links))
	for path, target := range rec.Links {
		if to, err := os.Readlink(path); err == nil && to == target {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, p := range paths {
		leaks = append(leaks, Leak{"name", p, d.Name(), "it leads to a namespace that is gone", cure})
	}
	visitors, err := rec.visitors()
	for _, v := range visitors {
		leaks = append(leaks, Leak{"process", fmt.Sprintf("%d %s", v.pid, v.comm), d.Name(), "it keeps the namespace of " + v.endpoint, cure})
	}
	return leaks, 0, err
}

// unrecorded are labs that run and are not on record: somebody removed their
// run directory. Only PID 1 of a PID namespace that was started as a lab's is
// one.
func unrecorded(known map[int]bool) ([]Leak, error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var leaks []Leak
	for _, p := range all {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || known[pid] || !ownProcess(p) {
			continue
		}
		args, err := os.ReadFile(p + "/cmdline")
		if err != nil {
			continue // gone
		}
		words := strings.Split(string(args), "\x00")
		if len(words) < 3 || words[0] != "labctl" || words[1] != InitCommand || !firstOfItsNamespace(p) {
			continue
		}
		d := Dir(words[2])
		// Where the lab sees it: what is mounted there may hide it from us.
		seen := Dir(filepath.Join(p, "root", words[2]))
		if slices.ContainsFunc([]Dir{d, seen}, func(d Dir) bool {
			rec, err := ReadRecord(d)
			// Of another base directory, begun a moment ago, or being built.
			return err == nil && rec.PID == pid && rec.Alive() || d.locked()
		}) {
			continue
		}
		leaks = append(leaks, Leak{"process", fmt.Sprintf("%d labctl", pid), d.Name(),
			fmt.Sprintf("a lab that is not on record: %s is gone or another's", d.Record()), killCure(pid)})
	}
	return leaks, nil
}

// killCure is the command that removes a lab without a record, by its PID 1:
// its processes, and the names that lead into its supervisor, which nobody
// could tell from others' once that is gone.
func killCure(pid int) string {
	cure := fmt.Sprintf("kill -KILL %d", pid)
	names, err := filepath.Glob(NamesDir + "/*")
	if err != nil {
		return cure
	}
	told := map[string]bool{}
	for _, name := range names {
		to, err := os.Readlink(name)
		part := strings.Split(to, "/") // "", proc, 1234, fd, 5
		if err != nil || len(part) != 5 || part[1] != "proc" || part[3] != "fd" || told[part[2]] || !isChild(part[2], pid) {
			continue
		}
		told[part[2]] = true
		cure += fmt.Sprintf("; find %s -lname '/proc/%s/fd/*' -delete", NamesDir, part[2])
	}
	return cure
}

// isChild says whether a process was started by parent.
func isChild(pid string, parent int) bool {
	_, p := stateOf(pid)
	return p == parent
}

// stateOf is a process's state, such as S or T, and its parent, -1 when it is not
// there: proc_pid_stat(5).
func stateOf(pid string) (state string, parent int) {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", -1
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 2 {
		return "", -1
	}
	if parent, err = strconv.Atoi(f[1]); err != nil {
		return "", -1
	}
	return f[0], parent
}

// ownProcess says whether a process under /proc is the caller's.
func ownProcess(proc string) bool {
	b, err := os.ReadFile(proc + "/status")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("Uid:")); ok {
			f := bytes.Fields(rest)
			return len(f) > 0 && string(f[0]) == strconv.Itoa(os.Geteuid())
		}
	}
	return false
}

// firstOfItsNamespace says whether a process is PID 1 of a PID namespace below
// the caller's.
func firstOfItsNamespace(proc string) bool {
	b, err := os.ReadFile(proc + "/status")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			f := bytes.Fields(rest)
			return len(f) > 1 && string(f[len(f)-1]) == "1"
		}
	}
	return false
}
