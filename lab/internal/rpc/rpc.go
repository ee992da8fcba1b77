// Package rpc carries JSON lines and open files over a unix stream socket.
//
// It is the one wire format inside a lab: between a command and the
// supervisor, and between the supervisor and the processes it starts. A
// message is one line, the number of files that belong to it and then JSON;
// the files travel beside it (SCM_RIGHTS, unix(7)). The number is needed: the
// kernel may hand over the end of one message and the files of the next in a
// single read.
//
// The trap: files that arrive belong to the receiver, which must close them
// even when it has no use for them.
package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxMessage bounds one line, so that a peer gone wrong cannot fill memory.
const maxMessage = 64 << 20

// maxFiles is the most files one message may carry.
const maxFiles = 64

// Conn is one connection. Send may be called from several goroutines at once;
// Receive from one at a time.
type Conn struct {
	u *net.UnixConn

	sendMu sync.Mutex

	receiveMu sync.Mutex // guards all below
	buf       []byte
	oob       []byte
	ready     []byte
	files     []*os.File
}

// New takes over c.
func New(c *net.UnixConn) *Conn {
	return &Conn{u: c, buf: make([]byte, 32<<10), oob: make([]byte, unix.CmsgSpace(maxFiles*4))}
}

// FromFile takes over a connected unix stream socket, an inherited one for
// example. f is closed.
func FromFile(f *os.File) (*Conn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", f.Fd(), err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("descriptor %d: a %s socket, want a unix one", f.Fd(), c.LocalAddr().Network())
	}
	return New(u), nil
}

// Dial connects to the socket at path. Where more wait than the socket has room
// for, because nobody takes connections, it does not: EAGAIN.
func Dial(ctx context.Context, path string) (*Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return New(c.(*net.UnixConn)), nil
}

// Pair makes two connected ends; the second is a file to give to a child.
func Pair() (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, err := FromFile(os.NewFile(uintptr(fds[0]), "control"))
	if err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	return ours, os.NewFile(uintptr(fds[1]), "control"), nil
}

// Close ends the connection and unblocks Receive. Files that came and that no
// message claimed are closed.
func (c *Conn) Close() error {
	err := c.u.Close()
	c.receiveMu.Lock()
	defer c.receiveMu.Unlock()
	c.drop()
	return err
}

// drop closes the files that no message has claimed. The caller holds receiveMu.
func (c *Conn) drop() {
	closeAll(c.files)
	c.files = nil
}

// PeerUID is the user id of the process at the other end, as the kernel
// recorded it when it connected (SO_PEERCRED), in the caller's user namespace.
func (c *Conn) PeerUID() (int, error) {
	raw, err := c.u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}

// Send writes one message. The files stay the caller's.
func (c *Conn) Send(v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(strconv.AppendInt(nil, int64(len(files)), 10), append(append([]byte{' '}, b...), '\n')...)
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	if len(files) == 0 {
		_, err = c.u.Write(b)
		return err
	}
	if len(files) > maxFiles {
		return fmt.Errorf("%d files in one message, at most %d", len(files), maxFiles)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	n, _, err := c.u.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
	if err == nil && n < len(b) {
		_, err = c.u.Write(b[n:])
	}
	return err
}

// Receive reads the next message into v and returns the files that came with
// it. At the end of the stream it returns io.EOF. After another error the
// stream is of no more use.
func (c *Conn) Receive(v any) ([]*os.File, error) {
	c.receiveMu.Lock()
	defer c.receiveMu.Unlock()
	files, err := c.receive(v)
	if err != nil {
		c.drop()
	}
	return files, err
}

func (c *Conn) receive(v any) ([]*os.File, error) {
	for {
		if i := bytes.IndexByte(c.ready, '\n'); i >= 0 {
			line := c.ready[:i]
			c.ready = c.ready[i+1:]
			return c.parse(line, v)
		}
		if len(c.ready) > maxMessage {
			return nil, errors.New("message: longer than 64 MiB")
		}
		n, oobn, _, _, err := c.u.ReadMsgUnix(c.buf, c.oob)
		if oobn > 0 {
			files, ferr := parseFiles(c.oob[:oobn])
			c.files = append(c.files, files...)
			if ferr != nil {
				return nil, ferr
			}
		}
		if err != nil || n == 0 {
			// A peer that is killed with something unread resets the stream.
			if err == nil || errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) {
				return nil, io.EOF
			}
			return nil, err
		}
		c.ready = append(c.ready, c.buf[:n]...)
	}
}

// parse reads one line and takes its files from those that have arrived.
func (c *Conn) parse(line []byte, v any) ([]*os.File, error) {
	count, body, found := bytes.Cut(line, []byte{' '})
	n, err := strconv.Atoi(string(count))
	if err != nil || !found || n < 0 || n > len(c.files) {
		return nil, fmt.Errorf("message: %.20q does not begin with its number of files (%d arrived)", line, len(c.files))
	}
	files := c.files[:n:n]
	c.files = c.files[n:]
	if err := json.Unmarshal(body, v); err != nil {
		closeAll(files)
		return nil, fmt.Errorf("message: %w", err)
	}
	return files, nil
}

func parseFiles(oob []byte) ([]*os.File, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var files []*os.File
	for _, m := range msgs {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue // not a rights message
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
