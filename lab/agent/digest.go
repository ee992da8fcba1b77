package agent

import "labctl/backends"

// Digest is what agents that know these leases report as Report.Leases and
// Report.Digest, whoever of the hosts they are.
func Digest(leases []backends.Lease) (count int, digest string) {
	if len(leases) == 0 {
		return 0, ""
	}
	k := known(leases[0], leases[1:])
	return k.count, k.digest
}
