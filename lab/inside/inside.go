// Package inside is what a program does that a lab started again from itself:
// the init shim, the supervisor, etcd, a node's agent, a probe, a keeper.
//
// A lab has no other program than the one that brings it up. That is labctl,
// and with package labtest the test binary of whoever uses it: so all of this
// must work without commands and their flags. cmd/labctl and labtest.Main call
// Run before they do anything else:
//
//	if code, ran := inside.Run(os.Args[1:], os.Stdout, os.Stderr); ran {
//		os.Exit(code)
//	}
//
// The trap: what runs before that call runs in every process of every lab.
package inside

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"labctl/lab"
	"labctl/lab/agent"
	"labctl/lab/doctor"
	"labctl/lab/etcd"
	"labctl/lab/supervisor"
)

// Run does what the arguments, without the program's name, ask for if a lab
// gave them, and returns the exit status. ran is false for arguments that are
// somebody else's.
func Run(args []string, stdout, stderr io.Writer) (code int, ran bool) {
	if len(args) == 0 {
		return 0, false
	}
	name, args := args[0], args[1:]
	c, known := commands[name]
	switch {
	case name == "agent" && os.Getenv(agent.ControlFD) != "":
		return Agent(args, stderr), true
	case !known:
		return 0, false
	case len(args) != c.args:
		return Report(&lab.Failure{Kind: lab.Usage, Err: fmt.Errorf("%s: is for labs to start", name)}, stderr), true
	}
	code, err := c.run(args, stdout)
	if err != nil {
		return Report(err, stderr), true
	}
	return code, true
}

// commands are the words that labs start their program with.
var commands = map[string]struct {
	args int
	run  func(args []string, stdout io.Writer) (int, error)
}{
	lab.InitCommand: {2, func(args []string, _ io.Writer) (int, error) {
		return supervisor.Init(lab.Dir(args[0]), args[1])
	}},
	"__supervise": {2, func(args []string, _ io.Writer) (int, error) {
		return 0, supervisor.Supervise(lab.Dir(args[0]), args[1])
	}},
	"__etcd": {1, func(args []string, _ io.Writer) (int, error) {
		var conf etcd.ProcessConfig
		if err := json.Unmarshal([]byte(args[0]), &conf); err != nil {
			return 1, err
		}
		ctx, stop := untilSignal()
		defer stop()
		return 0, etcd.Run(ctx, conf, os.NewFile(3, "control"))
	}},
	"__speaker": {1, func(args []string, _ io.Writer) (int, error) {
		ctx, stop := untilSignal()
		defer stop()
		return 0, agent.RunRouter(ctx, args[0], os.NewFile(3, "control"), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	}},
	"__probe": {0, func(_ []string, stdout io.Writer) (int, error) {
		ctx, stop := untilSignal()
		defer stop()
		return 0, doctor.Probe(ctx, stdout)
	}},
	lab.KeeperCommand: {1, func(args []string, _ io.Writer) (int, error) {
		return 0, lab.RunKeeper(args[0], os.Stdin)
	}},
}

func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
}

// Report prints what went wrong, and the cure, and chooses the exit status.
func Report(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	for _, e := range parts(err) {
		fmt.Fprintf(stderr, "labctl: %v\n", e)
		if f, ok := errors.AsType[*lab.Failure](e); ok && f.Cure != "" {
			fmt.Fprintf(stderr, "  cure: %s\n", f.Cure)
		}
	}
	return lab.ExitCode(err)
}

// parts are the errors that errors.Join joined, each of which has a cure of its
// own. An error that wraps several in a sentence of its own is one.
func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || errors.Join(joined.Unwrap()...).Error() != err.Error() {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, parts(e)...)
	}
	return all
}
