// Package docker tells a Docker daemon what an agent has written into
// subnet.env: the bridge's address, the MTU, who masquerades. It is flannel's
// mk-docker-opts.sh.
//
// The command `labctl docker-opts` calls it, on a real machine before dockerd
// starts, and in a lab to look at.
//
// The trap: FLANNEL_IPMASQ and --ip-masq are each other's inverse. One of
// agent and daemon masquerades, never both.
package docker
