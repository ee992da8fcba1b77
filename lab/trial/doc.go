// Package trial brings labs up, runs their checks and takes them down: what
// labctl test does. A lab that runs already is never touched, as each trial's
// has a name of its own.
//
// The command makes Trials of lab files, calls All and prints the Summary;
// Summary.WriteJUnit is the same for CI servers.
//
// The trap: what a failed lab can tell goes with it. Evidence is taken before
// the lab is taken down, and before an up that failed is cleaned up.
package trial
