package nodes

import (
	"encoding"
	"fmt"
	"time"
)

// Action is what has to be done to make the kernel what the State says.
type Action int

// The three actions.
const (
	Add    Action = iota + 1 // it is missing
	Modify                   // it is there, but different
	Remove                   // it should not be there
)

var (
	_ encoding.TextMarshaler   = Action(0)
	_ encoding.TextUnmarshaler = (*Action)(nil)
)

func (a Action) String() string {
	switch a {
	case Add:
		return "add"
	case Modify:
		return "modify"
	case Remove:
		return "remove"
	}
	return fmt.Sprintf("Action(%d)", int(a))
}

// MarshalText is String.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText undoes MarshalText.
func (a *Action) UnmarshalText(b []byte) error {
	for _, v := range []Action{Add, Modify, Remove} {
		if v.String() == string(b) {
			*a = v
			return nil
		}
	}
	return fmt.Errorf("action %q: not one of add, modify, remove", b)
}

// Change is one difference between the State and the kernel.
type Change struct {
	Action Action `json:"action"`
	// Kind is link, address, route, neighbour, fdb, sysctl or nftables.
	Kind   string `json:"kind"`
	Object string `json:"object"`           // 10.244.2.0/24
	Detail string `json:"detail,omitempty"` // via 10.244.2.0 dev flannel.1 onlink
}

// String tells the difference in ip(8)'s words, as the state of the kernel and
// not as what is going to be done: "missing route 10.244.2.0/24 via ...",
// "link flannel.1: mtu 1400, want 1450", "unexpected neighbour ...".
func (c Change) String() string {
	s := c.Kind + " " + c.Object
	switch c.Action {
	case Add:
		s = "missing " + s
	case Remove:
		s = "unexpected " + s
	default:
		s += ":"
	}
	if c.Detail != "" {
		s += " " + c.Detail
	}
	return s
}

// Diff is what a pass found.
type Diff struct {
	// Changes is what was put right (Apply) or what would be (Reconciler.Diff).
	Changes []Change `json:"changes,omitempty"`
	// Foreign is what somebody else put there. It is told as something
	// unexpected (Action Remove), and never removed.
	Foreign []Change `json:"foreign,omitempty"`
}

// Healed is drift that was put right.
type Healed struct {
	Change
	At time.Time `json:"at"`
}

// Report is what the last pass saw.
type Report struct {
	Held bool `json:"held,omitempty"`
	// Drift is what differs from the State: all differences while held, else
	// those that could not be put right.
	Drift []Change `json:"drift,omitempty"`
	// Healed is what was put right in the last 10 s. What a new State changed
	// is not in it.
	Healed  []Healed `json:"healed,omitempty"`
	Foreign []Change `json:"foreign,omitempty"`
	Err     string   `json:"err,omitempty"`
	// Unsupported is true when Err has something that this kernel lacks: trying
	// again will not help. Err then ends with the cure, if one is known, after
	// a semicolon.
	Unsupported bool `json:"unsupported,omitempty"`
	// Generation counts the calls of Set; it is the last one whose State was
	// applied completely.
	Generation uint64 `json:"generation"`
}
