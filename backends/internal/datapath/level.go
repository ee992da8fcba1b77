package datapath

// Auto is the name of the highest level that works here.
const Auto = "auto"

// Level is a way to hand packets to the kernel, each faster than the last.
type Level int

// The levels.
const (
	Plain Level = iota // one system call for one packet
	Batch              // one system call for many packets
	GSO                // one packet of up to 64 KiB for many, cut by whoever needs it cut
)

func (l Level) String() string { return [...]string{"plain", "batch", "gso"}[l] }

// ParseLevel undoes String.
func ParseLevel(s string) (Level, bool) {
	for l := Plain; l <= GSO; l++ {
		if l.String() == s {
			return l, true
		}
	}
	return 0, false
}
