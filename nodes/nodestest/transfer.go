package nodestest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"labctl/nodes"
)

// Transfer sends n random bytes by TCP from one namespace to an address of
// another's, and compares what arrives.
func Transfer(from, to *nodes.Namespace, addr netip.Addr, n int) error {
	var l net.Listener
	if err := to.Do(func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(addr, 0).String())
		return err
	}); err != nil {
		return err
	}
	defer l.Close()
	var c net.Conn
	if err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp4", l.Addr().String(), 5*time.Second)
		return err
	}); err != nil {
		return err
	}
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(data)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		sent <- errors.Join(err, c.Close())
	}()
	s, err := l.Accept()
	if err != nil {
		return errors.Join(err, c.Close(), <-sent)
	}
	defer s.Close()
	s.SetDeadline(time.Now().Add(20 * time.Second))
	got, err := io.ReadAll(s)
	if err != nil {
		c.Close() // which ends the writing
	}
	if err := errors.Join(err, <-sent); err != nil {
		return fmt.Errorf("after %d bytes: %w", len(got), err)
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%d bytes arrived that are not the %d that were sent", len(got), n)
	}
	return nil
}
