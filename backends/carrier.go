package backends

import (
	"context"
	"log/slog"

	"labctl/nodes"
)

// Carrier is a Backend that carries packets itself, in user space. What it
// wants of the kernel is in Desired as for any other; the packets go through
// the Path.
type Carrier interface {
	Backend
	// Open opens the devices and sockets of the host with this lease, in the
	// network namespace of the calling thread. The devices are there, without
	// addresses, when it returns: Desired names them as nodes.Port. What the
	// machine does not allow is told with its cure.
	Open(self Lease, u nodes.Underlay, log *slog.Logger) (Path, error)
}

// Path is an open data path. Its methods may be called from any goroutine.
type Path interface {
	// Set replaces the peers that packets are carried to and taken from. It
	// never waits for the traffic, nor does the traffic wait for it. peers are
	// as for Desired.
	Set(self Lease, peers []Lease)
	// Run carries packets until ctx ends, which is no error. It runs once, and
	// closes what Open opened.
	Run(ctx context.Context) error
	// Traffic is what was carried so far.
	Traffic() Traffic
}

// Traffic is what a Path has carried since it was opened.
type Traffic struct {
	// Level is how packets are handed to the kernel, from "plain", a packet a
	// system call, upwards; Why says what keeps it from a higher one.
	Level string `json:"level"`
	Why   string `json:"why,omitempty"`
	Out   Flow   `json:"out"` // from containers to other hosts
	In    Flow   `json:"in"`
	// Drops are the packets that were not carried, by reason.
	Drops map[string]uint64 `json:"drops"`
}

// Flow is one direction of Traffic. Packets are those on the wire, so that
// Calls/Packets is what a packet costs in system calls.
type Flow struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`   // of the inner packets, headers included
	Batches uint64 `json:"batches"` // groups of packets that went with one system call
	Calls   uint64 `json:"calls"`   // system calls, those that found nothing included
}
