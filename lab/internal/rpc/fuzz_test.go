package rpc

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzReceive sends any bytes, with files beside them. Whatever they are: the
// end comes, and nothing that arrived stays open.
func FuzzReceive(f *testing.F) {
	f.Add([]byte("0 {}\n1 {\"Text\":\"x\"}\n"), uint8(1))
	f.Add([]byte("2 {}\n0 {\"Text\":1}\n"), uint8(3))
	f.Add([]byte("99999999999999999999 {}\n"), uint8(0))
	f.Add([]byte("0 {}"), uint8(2))
	f.Add([]byte("\n\n"), uint8(0))
	f.Fuzz(func(t *testing.T, data []byte, files uint8) {
		if len(data) > 64<<10 {
			return // more than the socket takes without a reader
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		c, peer, err := Pair()
		if err != nil {
			t.Fatal(err)
		}
		var fds []int
		for range int(files) % maxFiles {
			fds = append(fds, int(w.Fd()))
		}
		if len(data) > 0 {
			if _, err := unix.SendmsgN(int(peer.Fd()), data, unix.UnixRights(fds...), nil, 0); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		peer.Close()
		for range len(data) + 1 {
			var m message
			got, err := c.Receive(&m)
			closeAll(got)
			if err != nil {
				break
			}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		// All copies of the pipe's writing end are closed when its reader sees
		// the end.
		if err := unix.SetNonblock(int(r.Fd()), true); err != nil {
			t.Fatal(err)
		}
		if n, err := unix.Read(int(r.Fd()), make([]byte, 1)); n != 0 || err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%q with %d files: one of them is still open (%d, %v)", data, len(fds), n, err)
		}
	})
}
