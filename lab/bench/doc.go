// Package bench compares what variants of one network carry: the same topology
// under each backend, measured side by side, with a verdict that says "no
// difference" where there is none to be seen. It is behind `labctl bench`.
//
//	labs, all up at once      udp   udp-2   vxlan   host-gw   loopback ...
//	                           |      |       |        |         |
//	a round of a measurement  trial  trial   trial    trial    trial       in random order
//	                            \      \______|________|_________/
//	a sample                     one figure of one trial
//	a pair                       two variants' samples of one round
//
// Run makes a Result, which is nothing but the raw samples and what the machine
// was. Analyse, a pure function, makes all else of it: medians with their
// intervals, pairs compared by round, ranks, whether the run can be trusted.
// Tables, Markdown and the HTML page are made of the two, now or later.
//
// Why pairs: what else the machine does changes from second to second, and hits
// all variants of a round alike. So not the variants' medians are compared, as
// what they are made of spreads widely, but the ratios of each round.
//
// The trap: a difference that is found between two labs of the same backend is
// none. Such a pair (A against A) runs along, and where it differs nothing of
// that metric is ranked.
package bench
