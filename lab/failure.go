package lab

import "errors"

// FailureKind says whose turn it is after an error; the command's exit status
// follows from it.
type FailureKind int

// The kinds of failure. An error without a kind is Failed.
const (
	Failed      FailureKind = iota // a check failed, a lab is unhealthy, something broke: exit 1
	Usage                          // wrong arguments or lab file: exit 2
	Unable                         // this machine cannot: exit 4
	TimedOut                       // exit 124
	Interrupted                    // exit 130
)

// Failure is an error with a kind and a cure for the person who reads it.
type Failure struct {
	Kind FailureKind
	Err  error
	Cure string // one line, imperative; "" when there is none to give
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// ExitCode is the exit status that design.md's contract gives err.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		return 1
	}
	switch f.Kind {
	case Usage:
		return 2
	case Unable:
		return 4
	case TimedOut:
		return 124
	case Interrupted:
		return 130
	}
	return 1
}
