package lab

import (
	"fmt"
	"strings"
	"time"
)

// FaultSpec is one fault of a timeline.
type FaultSpec struct {
	// At is when, counted from the timeline's begin: 500ms.
	At time.Duration `yaml:"at,omitempty"`
	// For is after how long it is healed; left out, at the timeline's end.
	For time.Duration `yaml:"for,omitempty"`
	// Do is what labctl fault would be told: link down node1:eth0.
	Do string `yaml:"do,omitempty" jsonschema:"required"`
}

const (
	// maxFaults bounds a timeline, and maxFaultTime its length.
	maxFaults    = 1000
	maxFaultTime = time.Hour
)

// faults validates the timeline.
func (v *validator) faults() {
	if len(v.Faults) > maxFaults {
		v.add("faults", fmt.Sprintf("faults: %d, at most %d", len(v.Faults), maxFaults), "")
	}
	for i, f := range v.Faults[:min(len(v.Faults), maxFaults)] {
		path := fmt.Sprintf("faults[%d]", i)
		object := fmt.Sprintf("fault %d", i+1)
		problem := func(key, message, hint string) { v.add(join(path, key), object+": "+message, hint) }
		for key, d := range map[string]time.Duration{"at": f.At, "for": f.For} {
			if d < 0 || d > maxFaultTime {
				problem(key, fmt.Sprintf("%s: %v is not between 0 and %v", key, d, maxFaultTime), key+": 500ms")
			}
		}
		if f.Do == "" {
			if !v.bad(join(path, "do")) {
				problem("do", "do missing", "do: link down node1:eth0")
			}
			continue
		}
		parsed, err := ParseFault(strings.Fields(f.Do))
		if err != nil {
			hint := ""
			if fail, ok := err.(*Failure); ok {
				hint = fail.Cure
			}
			problem("do", strings.TrimPrefix(err.Error(), "fault: "), hint)
			continue
		}
		if text, cure := parsed.check(v); text != "" && !v.bad("nodes") && !v.bad("segments") && !v.bad("network") {
			problem("do", text, cure)
		}
		switch {
		case f.For > 0 && !parsed.Lasts():
			problem("for", fmt.Sprintf("for: %s is done once", parsed.Kind), "leave for out")
		case len(parsed.IDs) > 0:
			problem("do", "heal: a timeline's faults have no numbers yet", "write for: with the fault, or heal alone")
		}
	}
}

// faultPlace is for faultNames.
func (v *validator) faultPlace(name string) string {
	switch {
	case name == "etcd" && v.etcd != "", name == "internet" && v.Internet != nil:
		return name
	case v.names[name] != "":
		return v.names[name]
	case strings.Contains(name, ".") && (checkScope{validator: v}).isEndpoint(name):
		return "container"
	}
	return ""
}

func (v *validator) hasAgents() bool { return v.etcd != "" }
