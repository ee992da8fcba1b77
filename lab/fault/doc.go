// Package fault plays a lab file's timeline of faults on a running lab, and
// measures how long packets do not get through meanwhile.
//
// `labctl test` calls Play after a file's other checks. The faults themselves
// are the supervisor's to do (lab.Fault), so that `labctl fault` and a timeline
// break the same things in the same words.
//
// The trap: probes are packets, not time. A blackout is known to within one
// Interval, and what is lost by chance (drop 10%) is a short one, too.
package fault
