package lab

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// builtin is a lab of ../labs: its file and its plan.
func builtin(t testing.TB, name string) ([]byte, *Plan) {
	t.Helper()
	file, err := os.ReadFile("../labs/" + name + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	return file, mustPlan(t, name+".yaml", file, Machine{GCThresh3: 1024})
}

// FuzzRequest does with any request on the supervisor's socket what the
// supervisor does before it touches the kernel: what is accepted is a lab that
// can be planned.
func FuzzRequest(f *testing.F) {
	file, p := builtin(f, "flannel-policy")
	f.Add([]byte(`{"status":{}}`))
	f.Add([]byte(`{"fault":{"words":["drop","node1:eth0","10%"]}}`))
	f.Add([]byte(`{"fault":{"words":["partition","node1,etcd",""]}}`))
	f.Add([]byte(`{"node":{"action":"add","node":"more","segment":"lan","address":"192.168.50.77","subnet":"10.244.9.0/24","containers":3}}`))
	f.Add([]byte(`{"node":{"action":"add","node":"<<","containers":-1}}`))
	f.Add([]byte(`{"node":{"action":"add","node":"more","containers":1000000000000}}`))
	f.Add([]byte(`{"node":{"action":"rm","node":"node1"}}`))
	f.Add([]byte(`{"policies":{"policies":[{"name":"db","podSelector":{"matchLabels":{"app":"db"}},"ingress":[{"from":[{"ipBlock":{"cidr":"10.0.0.0/8","except":["10.1.0.0/16"]}}],"ports":[{"protocol":"TCP","port":80}]}]}]}}`))
	f.Add([]byte(`{"policies":{"policies":[{"name":"*a","policyTypes":["x"],"order":-1},{"name":"*a"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r Request
		if json.Unmarshal(data, &r) != nil {
			return
		}
		var e *Extended
		var err error
		switch {
		case r.Fault != nil:
			fault, err := ParseFault(r.Fault.Words)
			if err == nil {
				_ = fault.Check(p) // that it does not panic
			}
			return
		case r.Node != nil && r.Node.Action == NodeAdd:
			e, err = AddNode(p, file, r.Node.Spec())
		case r.Node != nil && r.Node.Action == NodeRm:
			e, err = RemoveNode(p, file, r.Node.Node)
		case r.Policies != nil:
			e, err = ReplacePolicies(p, file, r.Policies.Policies)
		default:
			return
		}
		if err != nil {
			_ = ExitCode(err)
			return
		}
		if problem := checkPlan(e.Plan); problem != "" {
			t.Fatalf("%s\n%s", e.File, problem)
		}
	})
}

// FuzzParseRecord holds that a record that can be read is written as it was
// read, and that looking for its process harms nobody.
func FuzzParseRecord(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":1,"name":"a","created":"2026-11-21T10:00:00Z","rootless":true,"bootID":"x","pid":1,"startTime":2,"pidNamespace":3,"supervisor":4,
		"links":{"/run/netns/a.node1":"/proc/4/fd/9"},"namespaces":{"4026531840":{"name":"node1","cookie":5}}}`))
	f.Add([]byte(`{"pid":-1}`))
	f.Add([]byte(`{"pid":99999999999,"startTime":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if err != nil {
			return
		}
		_ = r.Alive()
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRecord(out)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		second, err := json.Marshal(again)
		if err != nil || string(second) != string(out) {
			t.Errorf("%s was read, and written %s, %v", out, second, err)
		}
	})
}

// FuzzPlan reads plan.json as the supervisor and commands do.
func FuzzPlan(f *testing.F) {
	for _, name := range []string{"flannel-vxlan", "calico-racks", "bridge-nat", "flannel-policy"} {
		_, p := builtin(f, name)
		data, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		var back Plan
		if err := json.Unmarshal(data, &back); err != nil {
			f.Fatal(err)
		}
		if diff := DiffPlans(p, &back); len(diff) > 0 {
			f.Fatalf("%s is not what it was when it is read again: %q", name, diff)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p *Plan
		if json.Unmarshal(data, &p) != nil || p == nil {
			return
		}
		for _, e := range p.Endpoints() {
			_, _ = p.Address(e)
		}
		_, _ = p.FindNode("node1")
		_ = FilesNeeded(p)
		_ = p.Speakers()
		if diff := DiffPlans(p, p); len(diff) > 0 {
			t.Errorf("differs from itself: %q", diff)
		}
	})
}

// FuzzParsePolicies holds that policies are read or refused with a place, and
// that what is read can be put into a lab.
func FuzzParsePolicies(f *testing.F) {
	file, p := builtin(f, "flannel-policy")
	f.Add(file)
	f.Add([]byte("policies: {}"))
	f.Add([]byte("policies: {a: {podSelector: {matchExpressions: [{key: k, operator: In, values: [v]}]}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{protocol: UDP, port: 5, endPort: 9}]}]}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ps, err := ParsePolicies("fuzz.yaml", data)
		if err != nil {
			if e, ok := err.(*FileError); !ok || len(e.Problems) == 0 {
				t.Fatalf("ParsePolicies() = %T %v, want a *FileError with problems", err, err)
			}
			return
		}
		e, err := ReplacePolicies(p, file, ps)
		if err != nil {
			t.Fatalf("accepted, and then: %v", err)
		}
		if len(e.Plan.Policies) != len(ps) || len(ps) > 0 && !reflect.DeepEqual(e.Plan.Policies[0].Name, ps[0].Name) {
			t.Errorf("%d policies in the plan, want %d", len(e.Plan.Policies), len(ps))
		}
	})
}

// FuzzProc reads what labs depend on under /proc.
func FuzzProc(f *testing.F) {
	f.Add("12 (a b) c) S 1 12 12 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 1 1\n")
	f.Add("1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF\n2: POSIX  ADVISORY  READ 7 08:01:5678 0 EOF\n3: -> FLOCK ADVISORY WRITE -9 08:01:5678 0 EOF\n")
	f.Add("MemAvailable: 18446744073709551615 kB\n0.00 0.01 0.05 1/376 17038\n")
	f.Add("0::/user.slice/../../../../etc\n0::/../cgroups\n1:name=systemd:/x\n0::\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = parseStartTime([]byte(text)) // that it does not panic, as the next
		_, _ = parseAvailable(text), parseThreads(text)
		if pid := flockHolder(text, unix.Mkdev(8, 1), 5678); pid < 0 {
			t.Errorf("the lock's holder is process %d", pid)
		}
		for _, dir := range parseControlGroups(text) {
			if dir != "/sys/fs/cgroup" && !strings.HasPrefix(dir, "/sys/fs/cgroup/") {
				t.Errorf("control group %q", dir)
			}
		}
	})
}
