// Package check runs the checks of a lab file on the running lab.
//
// labctl test calls it (by way of package trial). Each check asks the kernel, the store
// or the wire, by way of a tool that did not come from labctl where there is
// one (ip, bridge), and tells what it expected and what it found.
//
// The trap: a check that holds only after something else happened (an address
// learned, a route healed) is tried again until its deadline; one that expects
// a failure is not, since waiting would only help it.
package check
