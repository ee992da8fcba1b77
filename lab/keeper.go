package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// KeeperCommand is what a keeper's program is started with, and the name of
// its lab.
const KeeperCommand = "__keep"

// Keep sees to it that the lab called name does not outlive the calling
// process, even one that is killed or loses its terminal. It is for tests,
// whose labs are nobody's but theirs; call it before Up. release ends it, and
// takes the lab down if it is still there.
func Keep(name string) (release func() error, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", KeeperCommand, name)
	cmd.Args[0] = "labctl"
	cmd.Dir = "/"
	cmd.Stdin = r
	var said bytes.Buffer
	cmd.Stderr = &said
	// Ctrl-C on our terminal is for us alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("%s: keeper: %w", name, err)
	}
	return func() error {
		w.Close()
		if err := cmd.Wait(); err != nil {
			return fmt.Errorf("%s: keeper: %w: %s; labctl down %s removes what is left", name, err, bytes.TrimSpace(said.Bytes()), name)
		}
		return nil
	}, nil
}

// RunKeeper waits until its starter closes r, which its death does too, and
// takes the lab down.
func RunKeeper(name string, r io.Reader) error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	_, err := Down(context.Background(), name)
	return err
}
