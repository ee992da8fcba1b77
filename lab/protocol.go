package lab

import "labctl/nodes"

// Request is what a command sends first on a connection to the supervisor;
// exactly one field is set.
type Request struct {
	Status *struct{}      `json:"status,omitempty"` // answered by one Response with Status
	Watch  *struct{}      `json:"watch,omitempty"`  // answered by Responses with Event, without end
	Plan   *struct{}      `json:"plan,omitempty"`   // answered by one Response with Plan
	Exec   *ExecRequest   `json:"exec,omitempty"`
	Socket *SocketRequest `json:"socket,omitempty"`
	Fault  *FaultRequest  `json:"fault,omitempty"`  // answered by one Response with Faults
	Node   *NodeRequest   `json:"node,omitempty"`   // answered by one Response with Node
	Tables *TablesRequest `json:"tables,omitempty"` // answered by one Response with Tables

	Policies *PoliciesRequest `json:"policies,omitempty"` // answered by one empty Response
}

// PoliciesRequest puts other network policies in the place of the lab's.
type PoliciesRequest struct {
	Policies Policies `json:"policies"` // none: every flow is let through
}

// ExecRequest starts a process in an endpoint. Its files are standard input,
// output and error, or with TTY the terminal alone. The answers are a Response
// with Started and one with Exit; in between the command may send Signals.
// When the connection ends early the process is hung up, then killed.
type ExecRequest struct {
	Endpoint string   `json:"endpoint"`
	Argv     []string `json:"argv"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
	TTY      bool     `json:"tty,omitempty"`
}

// Signal is sent by a command to the process it started.
type Signal struct {
	Signal int `json:"signal"`
}

// SocketRequest asks for a socket that belongs to an endpoint's namespace, as
// socket(2) makes it. The Response carries it.
type SocketRequest struct {
	Endpoint string `json:"endpoint"`
	Domain   int    `json:"domain"`
	Type     int    `json:"type"`
	Protocol int    `json:"protocol"`
}

// TablesRequest asks what endpoints decide by where packets go.
type TablesRequest struct {
	Endpoints []string `json:"endpoints"` // empty: all there are, segments included
}

// Response is what the supervisor answers.
type Response struct {
	Status  *Status                  `json:"status,omitempty"`
	Event   *Event                   `json:"event,omitempty"`
	Plan    *Plan                    `json:"plan,omitempty"`
	Started *Started                 `json:"started,omitempty"`
	Exit    *Exit                    `json:"exit,omitempty"`
	Passed  bool                     `json:"passed,omitempty"` // a Signal was passed on
	Node    *NodeResult              `json:"node,omitempty"`
	Tables  map[string]*nodes.Tables `json:"tables,omitempty"`
	Faults  []ActiveFault            `json:"faults,omitempty"`
	Error   string                   `json:"error,omitempty"`
	Kind    FailureKind              `json:"kind,omitempty"`
	Cure    string                   `json:"cure,omitempty"`
}

// Started tells the process's id as the caller's /proc shows it.
type Started struct {
	Pid int `json:"pid"`
}

// Exit is how a process ended.
type Exit struct {
	Code   int `json:"code"`             // 126 and 127 as the shell has them when it could not be started
	Signal int `json:"signal,omitempty"` // the signal that ended it, else 0
	// Error says why it could not be started.
	Error string `json:"error,omitempty"`
}
