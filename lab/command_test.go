package lab

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCommandPlanExpands(t *testing.T) {
	t.Parallel()
	values := map[string]string{}
	for _, name := range AgentVariables() {
		values[name] = "<" + name + ">"
	}
	c := CommandPlan{
		Argv: []string{"/opt/flanneld", "-iface=${IFACE}", "$${IFACE} $IFACE", "${NODE}${PUBLIC_IP}"},
		Env:  map[string]string{"ETCD_PREFIX": "/other", "FILE": "${SUBNET_FILE}.new"},
	}
	argv, env, err := c.Expand(values)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/opt/flanneld", "-iface=<IFACE>", "${IFACE} $IFACE", "<NODE><PUBLIC_IP>"}
	if diff := cmp.Diff(want, argv); diff != "" {
		t.Errorf("words (-want +got):\n%s", diff)
	}
	for _, v := range []string{"ETCD_ENDPOINTS=<ETCD_ENDPOINTS>", "LABCTL=<LABCTL>", "FILE=<SUBNET_FILE>.new"} {
		if !slices.Contains(env, v) {
			t.Errorf("environment %q: has no %s", env, v)
		}
	}
	if i := slices.Index(env, "ETCD_PREFIX=/other"); i < slices.Index(env, "ETCD_PREFIX=<ETCD_PREFIX>") {
		t.Errorf("environment %q: what the file sets does not stand last", env)
	}
	for argv0, want := range map[string]string{"/opt/flanneld": "flanneld", "flanneld": "flanneld", Self: "labctl"} {
		if got := (CommandPlan{Argv: []string{argv0}}).Name(); got != want {
			t.Errorf("name of %s = %s, want %s", argv0, got, want)
		}
	}
	if _, _, err := (CommandPlan{Argv: []string{"${X}"}}).Expand(values); err == nil {
		t.Error("${X}: no error")
	}
}

func TestPlansWithOtherAgentsDiffer(t *testing.T) {
	t.Parallel()
	own := &Plan{Nodes: []NodePlan{{Name: "node1", Agent: true}}}
	flanneld := &Plan{Nodes: []NodePlan{{Name: "node1", Agent: true, Command: &CommandPlan{Argv: []string{"flanneld"}, Env: map[string]string{"X": "y"}}}}}
	if diff := cmp.Diff([]string{"node1: agent X=y flanneld, was labctl's own"}, DiffPlans(own, flanneld)); diff != "" {
		t.Errorf("DiffPlans (-want +got):\n%s", diff)
	}
}
