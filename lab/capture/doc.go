// Package capture records the packets of a lab's interfaces, merged by the
// kernel's time, and writes them as one pcapng file.
//
//	ifs, err := capture.Interfaces(ctx, client, "node1")
//	c, err := capture.Open(ctx, client, ifs, capture.Options{})
//	err = c.Run(ctx, func(batch []capture.Packet) error { ... })
//	err = c.Close()
//
// One AF_PACKET socket an interface, opened inside its namespace by the
// supervisor, with a ring that it shares with the kernel (TPACKET_V3): unlike a
// socket's buffer it may be large without privileges. One goroutine reads all
// rings, so what is given out has one order; all namespaces share one clock.
//
// The traps: the kernel hands a ring over block by block, a few milliseconds
// late, so packets are held back for a moment ([Window]) to be sorted. And to
// open and to close a packet socket's ring takes the kernel some 12 ms each, one
// after the other, but no longer for all of them at once.
//
// `labctl capture`, `labctl tcpdump` and the capture checks use it.
package capture
