// Package ping sends ICMP echo requests and times the answers.
//
// `labctl ping` calls it, and the supervisor to verify a new lab. A Pinger
// works on a raw ICMP socket that somebody opened in the sender's namespace.
//
// The trap: a raw socket receives every ICMP message of its namespace. Each
// Pinger therefore has an identifier of its own, and several Pingers in one
// namespace do not disturb each other.
package ping
