package bench

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A process's time is what the kernel tells the process itself; one that has
// ended has none.
func TestProcessTime(t *testing.T) {
	t.Parallel()
	own := func() float64 {
		var r unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
			t.Fatal(err)
		}
		return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
	}
	before := own()
	all, user, err := processTime(os.Getpid())
	if after := own(); err != nil || all < before-0.001 || all > after+0.001 || user < 0 {
		t.Errorf("processTime() = %v, %v, %v; want %v to %v", all, user, err, before, after)
	}
	c := exec.Command("true")
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if all, user, err := processTime(c.Process.Pid); all != 0 || user != 0 || err != nil {
		t.Errorf("processTime() of one that has ended = %v, %v, %v; want nothing", all, user, err)
	}
}
