// Command labctl builds container networks out of Linux network namespaces and
// shows what happens in them. See labctl --help and README.md.
package main

import (
	"os"
	"time"
)

func main() {
	os.Exit(run(env{
		args: os.Args[1:], stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		started: time.Now(),
	}))
}
