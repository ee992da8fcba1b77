// Package iperf measures what a path carries: TCP streams, or paced UDP with
// loss, reordering and jitter.
//
// `labctl iperf` calls it. Both ends are in this process: sockets that were
// opened in the namespaces of two endpoints, each served by a thread of its
// own. So there is no control connection, no clock but one, and what was sent
// and what arrived are counted at the same moment.
//
//	          A's namespace               B's namespace
//	thread    send(2), sendmmsg(2)        recv(2), recvmmsg(2)      (-R: the other way)
//	   |           socket ----- the path -----> socket
//	   '-- atomic counters --> meter <-- atomic counters --'
//
// The trap: the descriptors block and are not Go's. A read that waits ends
// only when its socket is shut down (TCP) or its time-out comes (UDP), so a
// stream's threads are always ended by its stop, and only then closed.
//
// Iperf3 runs the real iperf3 instead, in the same namespaces, and reports in
// the same form.
package iperf
