package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// The scripts under testdata/script are what a person sees of labctl: one file
// for each feature. They run as whoever runs the tests.
//
// Beside testscript's own commands they have
//
//	exits CODE PROGRAM...                 run it; its exit status must be CODE
//	waitfor [-match RE] PROGRAM...        run it until it succeeds (with ! until it fails)
//	signal SIG CODE RE PROGRAM...         run it, send it SIG once its standard error matches RE
//	terminal [-type FILE RE] ROWSxCOLS CODE PROGRAM...
//	                                      run it on a terminal of that size; FILE is typed once
//	                                      what is shown matches RE
//	late RE PROGRAM...                    run it with --timeout 500ms, and with longer ones until
//	                                      what it says when its time is over matches RE
//	gone LAB                              nothing of the lab is left
//	killsupervisor LAB                    SIGKILL to its supervisor, once it has one
//
// the program
//
//	nonetfilter PROGRAM...                run it as on a kernel that has no netfilter
//
// and the variables LAB (a name nobody else has; names that begin with it are
// taken down at the end) and BASE (the directory of the run directories).
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup:              func(e *testscript.Env) error { return setUp(t, e) },
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Geteuid() == 0, nil
			case "tun":
				_, err := os.Stat("/dev/net")
				return err == nil, nil
			case "netem":
				return exec.Command("unshare", "-Urn", "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms").Run() == nil, nil
			}
			return false, fmt.Errorf("condition %s: not known", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    exits,
			"waitfor":  waitfor,
			"signal":   signalled,
			"late":     late,
			"terminal": onTerminal,
			"gone": func(ts *testscript.TestScript, _ bool, args []string) {
				if left := leftOf(t, args[0]); len(left) > 0 {
					ts.Fatalf("left of %s: %s", args[0], strings.Join(left, "; "))
				}
			},
			"killsupervisor": killSupervisor,
		},
	})
}

// TestScriptsAsUser runs the same scripts as an ordinary user when root runs
// the tests.
func TestScriptsAsUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("an ordinary user runs the tests: TestScripts was it")
	}
	u := users(t)[1]
	// The user must be able to read the program and the scripts.
	program := filepath.Join(u.runtime, "labctl.test")
	if err := copyProgram(program); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(u.runtime, "testdata"), os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	// Scripts take their labs down themselves, unless they do not come to their
	// end.
	t.Cleanup(func() {
		left, err := filepath.Glob(filepath.Join(u.runtime, "r*", "labctl"))
		if err != nil {
			t.Error(err)
		}
		for _, d := range left {
			u := u
			u.runtime = filepath.Dir(d)
			u.run(t, "down", "--all")
		}
	})
	timeout := time.Duration(0) // none
	if deadline, ok := t.Deadline(); ok {
		timeout = time.Until(deadline) - time.Second // so that it is this one that tells where they hang
	}
	cmd := exec.Command(program, "-test.run=^TestScripts$", "-test.timeout="+timeout.String(), "-test.v="+strconv.FormatBool(testing.Verbose()))
	cmd.Dir = u.runtime
	cmd.Env = append(os.Environ(), "TMPDIR="+u.runtime, "XDG_RUNTIME_DIR="+u.runtime)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.uid), Gid: uint32(u.uid)}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as user %d: %v\n%s", u.uid, err, out)
	} else if testing.Verbose() {
		t.Logf("as user %d:\n%s", u.uid, out)
	}
}

func copyProgram(to string) error {
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer from.Close()
	// A child that another test forks meanwhile would have the file open for
	// writing, and nobody could execute it.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// setUp gives a script its variables and takes its labs away at the end.
func setUp(t *testing.T, e *testscript.Env) error {
	runtime, err := os.MkdirTemp("", "r") // short: a socket's path has 107 bytes at most
	if err != nil {
		return err
	}
	name := freshName() + "x" // no other's name begins with it
	base := "/run/labctl"
	if os.Geteuid() != 0 {
		base = filepath.Join(runtime, "labctl")
	}
	e.Setenv("XDG_RUNTIME_DIR", runtime)
	e.Setenv("BASE", base)
	e.Setenv("LAB", name)
	e.Setenv("PATH", e.Getenv("PATH")+":/usr/sbin:/sbin")
	e.Setenv("TERM", "xterm")
	e.Setenv("SHELL", "/bin/sh")
	e.Defer(func() {
		defer os.RemoveAll(runtime)
		labs, err := filepath.Glob(filepath.Join(base, name+"*"))
		if err != nil {
			t.Error(err)
		}
		for _, d := range labs {
			cmd := exec.Command("labctl", "down", filepath.Base(d))
			cmd.Env = e.Vars
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("labctl down %s: %v\n%s", filepath.Base(d), err, out)
			}
		}
		if left := leftOf(t, name); len(left) > 0 {
			t.Errorf("left of %s: %s", name, strings.Join(left, "; "))
		}
	})
	return nil
}

// leftOf is what there is of labs whose names begin with name.
func leftOf(t *testing.T, name string) []string {
	var left []string
	if os.Geteuid() == 0 {
		for _, pattern := range []string{"/run/labctl/" + name + "*", "/run/netns/" + name + "*"} {
			found, err := filepath.Glob(pattern)
			if err != nil {
				t.Error(err)
			}
			left = append(left, found...)
		}
	}
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Error(err)
	}
	for _, p := range all {
		b, err := os.ReadFile(p)
		if err == nil && bytes.Contains(b, []byte("labctl/"+name)) {
			left = append(left, p+": "+string(bytes.ReplaceAll(b, []byte{0}, []byte{' '})))
		}
	}
	return left
}

// exits is exec for programs whose exit status matters.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARGUMENT...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	checkExit(ts, args[0], err)
}

// late runs a program whose time is to be over, with as much of it as a busy
// machine needs to come as far as RE says.
func late(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: late RE PROGRAM [ARGUMENT...]")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	for timeout := 500 * time.Millisecond; ; timeout *= 2 {
		err := ts.Exec(args[1], append(args[2:len(args):len(args)], "--timeout", timeout.String())...)
		checkExit(ts, "124", err)
		said := ts.ReadFile("stderr")
		if want.MatchString(said) {
			return
		}
		if timeout > patience {
			ts.Fatalf("after %v: no %s in\n%s", timeout, args[0], said)
		}
	}
}

func checkExit(ts *testscript.TestScript, want string, err error) {
	code := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != want {
		ts.Fatalf("exit status %d, want %s", code, want)
	}
}

// patience is how long a script waits for what must come.
const patience = 20 * time.Second

// poll calls f until it is true.
func poll(ts *testscript.TestScript, what string, f func() bool) {
	from := time.Now()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		if time.Since(from) > patience {
			ts.Fatalf("after %v: still no %s", patience, what)
		}
		<-tick.C
	}
}

func waitfor(ts *testscript.TestScript, neg bool, args []string) {
	match := regexp.MustCompile("")
	if len(args) > 2 && args[0] == "-match" {
		match = regexp.MustCompile("(?m)" + args[1])
		args = args[2:]
	}
	if len(args) == 0 {
		ts.Fatalf("usage: waitfor [-match RE] PROGRAM [ARGUMENT...]")
	}
	poll(ts, strings.Join(args, " "), func() bool {
		out, err := command(ts, args).Output()
		return (err == nil && match.Match(out)) != neg
	})
}

// command is a program in the script's directory and environment.
func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	path := args[0]
	if !strings.Contains(path, "/") {
		for _, d := range filepath.SplitList(ts.Getenv("PATH")) {
			if p, err := exec.LookPath(filepath.Join(d, path)); err == nil {
				path = p
				break
			}
		}
	}
	cmd := exec.Command(path, args[1:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, v := range []string{"PATH", "XDG_RUNTIME_DIR", "LAB", "BASE", "TERM", "SHELL", "WORK", "CI", "NO_COLOR"} {
		if s := ts.Getenv(v); s != "" {
			cmd.Env = append(cmd.Env, v+"="+s)
		}
	}
	return cmd
}

// watched is a buffer that can be looked at while it is written.
type watched struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// signalled runs a program and sends it a signal in the middle.
func signalled(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: signal SIG CODE RE PROGRAM [ARGUMENT...]")
	}
	sig := unix.SignalNum("SIG" + args[0])
	if sig == 0 {
		ts.Fatalf("%s: no such signal", args[0])
	}
	at := regexp.MustCompile(args[2])
	cmd := command(ts, args[3:])
	var out, errs watched
	cmd.Stdout, cmd.Stderr = &out, &errs
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var result error
	over := false
	poll(ts, args[2]+" in its output", func() bool {
		select {
		case result = <-ended:
			over = true
		default:
		}
		return over || at.MatchString(errs.String()+out.String())
	})
	if !over {
		ts.Check(cmd.Process.Signal(sig))
		select {
		case result = <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill() // it is a failure in any case
			ts.Fatalf("does not end by SIG%s", args[0])
		}
	}
	_, _ = io.WriteString(ts.Stdout(), out.String()) // buffers
	_, _ = io.WriteString(ts.Stderr(), errs.String())
	checkExit(ts, args[1], result)
}

// onTerminal runs a program on a terminal; what it shows is stdout.
func onTerminal(ts *testscript.TestScript, neg bool, args []string) {
	var typed string
	at := regexp.MustCompile("")
	if len(args) > 3 && args[0] == "-type" {
		typed, at = ts.ReadFile(args[1]), regexp.MustCompile(args[2])
		args = args[3:]
	}
	if neg || len(args) < 3 {
		ts.Fatalf("usage: terminal [-type FILE RE] ROWSxCOLS CODE PROGRAM [ARGUMENT...]")
	}
	var size unix.Winsize
	if _, err := fmt.Sscanf(args[0], "%dx%d", &size.Row, &size.Col); err != nil {
		ts.Fatalf("size %s: %v", args[0], err)
	}
	master, slave, err := openPTY()
	ts.Check(err)
	defer master.Close()
	ts.Check(control(master, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &size) }))
	cmd := command(ts, args[2:])
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	ts.Check(cmd.Start())
	slave.Close()
	var shown watched
	silent := make(chan struct{})
	go func() {
		defer close(silent)
		_, _ = io.Copy(&shown, master) // ends with EIO
	}()
	if typed != "" {
		poll(ts, at.String()+" on the terminal", func() bool { return at.MatchString(shown.String()) })
		_, err := io.WriteString(master, typed)
		ts.Check(err)
	}
	<-silent
	err = cmd.Wait()
	_, _ = io.WriteString(ts.Stdout(), strings.ReplaceAll(shown.String(), "\r\n", "\n")) // a buffer
	checkExit(ts, args[1], err)
}

// killSupervisor ends the supervisor of a lab as soon as it is on record.
func killSupervisor(ts *testscript.TestScript, _ bool, args []string) {
	record := regexp.MustCompile(`"supervisor": (\d+)`)
	poll(ts, "supervisor", func() bool {
		b, err := os.ReadFile(filepath.Join(ts.Getenv("BASE"), args[0], "record.json"))
		if err != nil {
			return false
		}
		m := record.FindSubmatch(b)
		if m == nil {
			return false
		}
		pid, err := strconv.Atoi(string(m[1]))
		ts.Check(err)
		ts.Check(syscall.Kill(pid, syscall.SIGKILL))
		return true
	})
}

// Every command shows how it is used, in words that fit together.
func TestEveryCommandHasHelp(t *testing.T) {
	t.Parallel()
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			if !sub.Hidden {
				check(sub)
			}
		}
		name := c.CommandPath()
		if c.Example == "" {
			t.Errorf("%s: no Example", name)
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") || !strings.Contains(line, "labctl") {
				t.Errorf("%s: example %q: not two blanks and a command", name, line)
			}
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: Short is %q", name, c.Short)
		}
		if c.Args == nil && !slices.Contains([]string{"labctl help", "labctl fault hold", "labctl fault release"}, name) {
			t.Errorf("%s: takes any arguments", name)
		}
		if c.HasParent() && c.Parent() == c.Root() && c.GroupID == "" {
			t.Errorf("%s: in no group of labctl --help", name)
		}
		for _, text := range []string{c.Long, c.Example} {
			for line := range strings.Lines(text) {
				if len(line) > 100 {
					t.Errorf("%s: a line of %d bytes: %s", name, len(line), line)
				}
			}
		}
	}
	root := (&app{}).rootCommand()
	root.InitDefaultHelpCmd()
	check(root)
}

// nonetfilter is a program that executes another for which, and for whose
// children, the kernel has no netfilter: socket answers what it does there.
func nonetfilter() {
	if err := withoutNetfilter(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func withoutNetfilter(argv []string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	const number, domain, protocol = 0, 16, 32 // in struct seccomp_data, low halves
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	filter := []unix.SockFilter{
		load(number), unless(unix.SYS_SOCKET, 5),
		load(domain), unless(unix.AF_NETLINK, 3),
		load(protocol), unless(unix.NETLINK_NETFILTER, 1),
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // the filter is the thread's, and exec's
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0); err != nil {
		return err
	}
	return unix.Exec(path, argv, os.Environ())
}
