package bench

// Machine is what a run was made on.
type Machine struct {
	Kernel   string  `json:"kernel"`
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	Threads  string  `json:"threads"`  // simultaneous multithreading: on, off, notsupported ...
	Governor string  `json:"governor"` // of the clock's frequency, "" where there is none to see
	Virtual  bool    `json:"virtual"`  // the processor says that a hypervisor runs it
	MemoryMB int     `json:"memoryMB"`
	LoadOne  float64 `json:"loadOne"` // the load average of the minute before
	Rootless bool    `json:"rootless"`
	Arch     string  `json:"arch"`
}
