package supervisor

import (
	"encoding/json"
	"testing"

	"labctl/lab"
	"labctl/lab/agent"
	"labctl/nodes"
)

// FuzzReport takes any report of an agent's. It may be wrong; the lab's status
// can be told all the same, and no container gets an address outside.
func FuzzReport(f *testing.F) {
	f.Add([]byte(`{"phase":"running","subnet":"10.244.8.0/24","mtu":1450,"vtepMAC":"02:00:00:00:00:01","leases":3,"digest":"x","revision":9}`))
	f.Add([]byte(`{"phase":"running","subnet":"10.244.8.9/31","mtu":-1,"leases":-5,"drift":[{"action":"missing","kind":"route","object":"x"}],"healed":[{"at":"2026-11-21T10:00:00Z"}]}`))
	f.Add([]byte(`{"phase":"running","subnet":"255.255.255.255/32"}`))
	f.Add([]byte(`{"phase":"running","subnet":"::/0","problems":["a\u0000b"]}`))
	f.Add([]byte(`{"phase":"running","blocks":["10.244.8.0/26",""],"containers":[{"name":"c1","addr":"10.244.8.1"},{"name":"c2","addr":"fd00::1"}],"bgp":{"sessions":[{"peer":"x","state":"Established"}]},"traffic":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r agent.Report
		if json.Unmarshal(data, &r) != nil {
			return
		}
		for _, name := range []string{"flannel-vxlan", "calico-bgp"} {
			s := heard(t, name, r)
			for _, h := range s.hosts {
				h.joint.stale(h, r)
				if r.Subnet.IsValid() && h.assign(r.Subnet, r.MTU) == nil {
					for _, c := range h.containers {
						if !r.Subnet.Contains(c.addr.Addr()) {
							t.Errorf("%s: %s is outside %s", c.name, c.addr, r.Subnet)
						}
					}
				}
				if assign, err := (routed{}).learn(s, h); err == nil {
					_ = assign() // that it does not panic
				}
			}
			if _, err := json.Marshal(s.status()); err != nil {
				t.Errorf("status of %s: %v", name, err)
			}
		}
	})
}

// FuzzProc reads what the supervisor depends on under /proc: a process's number,
// which is killed, is one that a process can have.
func FuzzProc(f *testing.F) {
	f.Add("Name:\tsleep\nPid:\t12\nNSpid:\t4711\t12\t1\n")
	f.Add("pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1\nPid:\t4711\nNSpid:\t4711\t12\n")
	f.Add("Pid:\t-1\nNSpid:\t-1\n")
	f.Add("Pid:\t0\nNSpid:\t0\t0\n")
	f.Add("Pid:\nNSpid:\n")
	f.Add("Pid:\t99999999999999999999\nNSpid:\t1\t99999999999999999999")
	f.Fuzz(func(t *testing.T, text string) {
		if pid, err := parsePidfdInfo([]byte(text)); err == nil && pid <= 0 {
			t.Errorf("parsePidfdInfo() = %d", pid)
		}
		pids, err := parsePidLevels([]byte(text))
		if err == nil && len(pids) == 0 {
			t.Error("parsePidLevels() = none, no error")
		}
		for _, pid := range pids {
			if pid <= 0 {
				t.Errorf("parsePidLevels() = %d", pids)
			}
		}
	})
}

// heard is the supervisor of a built-in lab each of whose agents has reported r.
func heard(t *testing.T, name string, r agent.Report) *Supervisor {
	t.Helper()
	spec, err := lab.BuiltIn(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := lab.NewPlan(spec, lab.Machine{GCThresh3: 1024})
	if err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{plan: p, endpoints: map[string]*endpoint{}, outside: newOutside(), state: lab.Starting}
	quiet := func(name string) *endpoint { return &endpoint{name: name, reconciler: new(nodes.Reconciler)} }
	for _, n := range p.Nodes {
		h := &host{endpoint: quiet(n.Name), plan: n, joint: jointOf(n.Wiring), agent: &agentProcess{process: process{name: n.Name}, report: r}}
		for _, c := range n.Containers {
			h.containers = append(h.containers, &container{endpoint: quiet(n.Name + "." + c.Name), plan: c})
		}
		s.hosts = append(s.hosts, h)
	}
	return s
}
