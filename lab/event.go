package lab

import "time"

// Event is one line of a lab's life, as the supervisor tells it to whoever
// watches. Events of the build are kept and told to late comers too.
type Event struct {
	Time time.Time `json:"time"`
	// Step is what was done in the build, "" for other events.
	Step string `json:"step,omitempty"`
	// Took is how long the step took.
	Took time.Duration `json:"took,omitzero"`
	// Process and Message tell of a process's start, end or restart.
	Process string `json:"process,omitempty"`
	Message string `json:"message,omitempty"`
	// State is set when the lab's state changed to it.
	State State `json:"state,omitempty"`
	// Changed is set when something else of the status changed.
	Changed bool `json:"changed,omitempty"`
	// Error ends the build. Kind and Cure are those of its Failure.
	Error string      `json:"error,omitempty"`
	Kind  FailureKind `json:"kind,omitempty"`
	Cure  string      `json:"cure,omitempty"`
}
