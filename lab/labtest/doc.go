// Package labtest gives Go tests networks of their own: hosts, containers and
// flannel between them, as labctl up makes them, for the time of a test.
//
// The test binary is the lab's only program: it is started again as the lab's
// supervisor, etcd and agents. So TestMain has to hand over to Main:
//
//	func TestMain(m *testing.M) { labtest.Main(m) }
//
//	func TestServerAcrossHosts(t *testing.T) {
//		t.Parallel()
//		l := labtest.Up(t, "flannel-vxlan")
//		web, err := l.Endpoint("node2.c1").Listen("tcp", ":80")
//		...
//		conn, err := l.Endpoint("node1.c1").Dial(t.Context(), "tcp", web.Addr().String())
//	}
//
// Listen, ListenPacket and Dial open their sockets inside the endpoint; the
// code under test goes on running in the test, with its breakpoints and its
// race detector. Exec and Command run programs inside instead.
//
// A lab has a name of its own, so that tests can run in parallel, and goes with
// its test, even if the test binary is killed. Root is not needed where users
// may make user namespaces; where a lab cannot run at all the test is skipped,
// with the reason and the cure.
//
// The trap: init functions, and what stands before Main in TestMain, run in
// every process of every lab. They should do nothing that is felt outside.
package labtest
