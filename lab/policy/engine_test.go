package policy

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"labctl/lab"
)

// parsed reads policies as a user writes them.
func parsed(t *testing.T, yaml string) lab.Policies {
	t.Helper()
	ps, err := lab.ParsePolicies("policies.yaml", []byte("policies:\n"+yaml))
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func container(name, node, addr string, labels map[string]string) Endpoint {
	return Endpoint{Name: name, Node: node, Labels: labels, Addr: netip.MustParseAddr(addr), Container: true}
}

// Two hosts; web, db and job are on the first, far is on the second.
var (
	web  = container("node1.web", "node1", "10.1.1.2", map[string]string{"app": "web"})
	db   = container("node1.db", "node1", "10.1.1.3", map[string]string{"app": "db", "tier": "back"})
	bare = container("node1.bare", "node1", "10.1.1.4", nil)
	far  = container("node2.web", "node2", "10.1.2.2", map[string]string{"app": "web"})
	host = Endpoint{Name: "node1", Node: "node1", Addr: netip.MustParseAddr("192.168.50.1")}
	peer = Endpoint{Name: "node2", Node: "node2", Addr: netip.MustParseAddr("192.168.50.2")}
)

func TestEngine(t *testing.T) {
	t.Parallel()
	http, dns, ping := Port{lab.TCP, 80}, Port{lab.UDP, 53}, Port{lab.ICMP, 0}
	const webToDB = "  db: {podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 80}]}]}\n"
	tests := []struct {
		name     string
		policies string
		from, to Endpoint
		port     Port
		want     string
		passes   bool
	}{
		{"no policies", "", web, db, http, "no policy has a say", true},
		{"nobody is chosen", "  p: {podSelector: {matchLabels: {app: none}}}\n", web, db, http, "no policy has a say", true},
		{"an allow rule", webToDB, web, db, http, "policy db: Ingress rule 1 allows it", true},
		{"its other port", webToDB, web, db, Port{lab.TCP, 81}, "policy db: no Ingress rule allows it", false},
		{"its port of another protocol", webToDB, web, db, Port{lab.UDP, 80}, "policy db: no Ingress rule allows it", false},
		{"another sender", webToDB, bare, db, http, "policy db: no Ingress rule allows it", false},
		{"the other way is open", webToDB, db, bare, http, "no policy has a say", true},
		{"from another host", webToDB, far, db, http, "policy db: Ingress rule 1 allows it", true},
		{"the container's own host", webToDB, host, db, http, "no policy has a say", true},
		{"to its own host", "  p: {policyTypes: [Egress]}\n", db, host, http, "no policy has a say", true},
		{"another host is no container", webToDB, peer, db, http, "policy db: no Ingress rule allows it", false},
		{"an empty rule allows all", "  p: {ingress: [{}]}\n", peer, db, ping, "policy p: Ingress rule 1 allows it", true},
		{"an empty peer list allows all", "  p: {ingress: [{from: []}]}\n", peer, db, ping, "policy p: Ingress rule 1 allows it", true},
		{"no rules isolate", "  p: {}\n", web, db, ping, "policy p: no Ingress rule allows it", false},
		{"no rules leave egress open", "  p: {podSelector: {matchLabels: {app: web}}}\n", web, db, ping, "no policy has a say", true},
		{"egress is a type when it has rules", "  p: {podSelector: {matchLabels: {app: web}}, egress: [{ports: [{protocol: UDP, port: 53}]}]}\n", web, db, http, "policy p: no Egress rule allows it", false},
		{"both ends must agree", webToDB + "  web: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress], egress: [{ports: [{protocol: UDP, port: 53}]}]}\n", web, db, http, "policy web: no Egress rule allows it", false},
		{"policies add up", webToDB + "  dns: {podSelector: {matchLabels: {tier: back}}, ingress: [{ports: [{protocol: UDP, port: 53}]}]}\n", bare, db, dns, "policy dns: Ingress rule 1 allows it", true},
		{"a range of ports, its end", "  p: {ingress: [{ports: [{port: 80, endPort: 90}]}]}\n", web, db, Port{lab.TCP, 90}, "policy p: Ingress rule 1 allows it", true},
		{"behind its end", "  p: {ingress: [{ports: [{port: 80, endPort: 90}]}]}\n", web, db, Port{lab.TCP, 91}, "policy p: no Ingress rule allows it", false},
		{"a whole protocol", "  p: {ingress: [{ports: [{protocol: UDP}]}]}\n", web, db, dns, "policy p: Ingress rule 1 allows it", true},
		{"a whole protocol is not another", "  p: {ingress: [{ports: [{protocol: UDP}]}]}\n", web, db, ping, "policy p: no Ingress rule allows it", false},
		{"addresses", "  p: {ingress: [{from: [{ipBlock: {cidr: 10.1.2.0/24}}]}]}\n", far, db, ping, "policy p: Ingress rule 1 allows it", true},
		{"addresses but for some", "  p: {ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.2.0/30]}}]}]}\n", far, db, ping, "policy p: no Ingress rule allows it", false},
		{"addresses of hosts", "  p: {ingress: [{from: [{ipBlock: {cidr: 192.168.50.2/32}}]}]}\n", peer, db, ping, "policy p: Ingress rule 1 allows it", true},
		{"a selector chooses no host", "  p: {ingress: [{from: [{podSelector: {}}]}]}\n", peer, db, ping, "policy p: no Ingress rule allows it", false},
		{"file order decides", "  a: {ingress: [{action: Deny, ports: [{port: 80}]}]}\n  b: {ingress: [{}]}\n", web, db, http, "policy a: Ingress rule 1 denies it", false},
		{"order is before the file's", "  a: {ingress: [{action: Deny, ports: [{port: 80}]}]}\n  b: {order: 5, ingress: [{}]}\n", web, db, http, "policy b: Ingress rule 1 allows it", true},
		{"the lowest order is first", "  a: {order: 5, ingress: [{action: Deny}]}\n  b: {order: -1, ingress: [{}]}\n", web, db, http, "policy b: Ingress rule 1 allows it", true},
		{"a deny that does not match", "  a: {ingress: [{action: Deny, ports: [{port: 81}]}, {}]}\n", web, db, http, "policy a: Ingress rule 2 allows it", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ps := parsed(t, tt.policies+"  unused: {podSelector: {matchLabels: {nobody: has-it}}}\n")
			d := NewEngine(ps).Decide(tt.from, tt.to, tt.port)
			if back, ok := ReadDecision(d.String()); ok != (d.Policy != "") || ok && back != d {
				t.Errorf("ReadDecision(%q) = %+v, %v; want %+v", d, back, ok, d)
			}
			if d.Allowed != tt.passes || d.String() != tt.want {
				t.Errorf("%s -> %s, %s: %v, %s; want %v, %s", tt.from.Name, tt.to.Name, tt.port, d.Allowed, d, tt.passes, tt.want)
			}
		})
	}
}

func TestSelector(t *testing.T) {
	t.Parallel()
	expression := func(operator string, values ...string) lab.LabelSelector {
		return lab.LabelSelector{MatchExpressions: []lab.LabelExpression{{Key: "tier", Operator: operator, Values: values}}}
	}
	back, front, none := map[string]string{"tier": "back", "app": "db"}, map[string]string{"tier": "front"}, map[string]string{"app": "web"}
	tests := []struct {
		name              string
		selector          lab.LabelSelector
		back, front, none bool
	}{
		{"empty", lab.LabelSelector{}, true, true, true},
		{"a label", lab.LabelSelector{MatchLabels: map[string]string{"tier": "back"}}, true, false, false},
		{"two labels", lab.LabelSelector{MatchLabels: map[string]string{"tier": "back", "app": "web"}}, false, false, false},
		{"a label that is empty is not one that is not there", lab.LabelSelector{MatchLabels: map[string]string{"tier": ""}}, false, false, false},
		{"In", expression("In", "back", "other"), true, false, false},
		{"NotIn holds without the label", expression("NotIn", "back"), false, true, true},
		{"Exists", expression("Exists"), true, true, false},
		{"DoesNotExist", expression("DoesNotExist"), false, false, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := []bool{tt.selector.Matches(back), tt.selector.Matches(front), tt.selector.Matches(none)}
			if diff := cmp.Diff([]bool{tt.back, tt.front, tt.none}, got); diff != "" {
				t.Errorf("back, front, without (-want +got):\n%s", diff)
			}
		})
	}
}

// Each kind of traffic that policies tell apart is looked at once.
func TestPorts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, policies string
		want           []string
	}{
		{"none", "  p: {}\n", []string{"ICMP", "TCP 9"}},
		{"named", "  p: {ingress: [{ports: [{port: 80}, {protocol: UDP, port: 53}, {port: 80}]}]}\n", []string{"ICMP", "TCP 80", "UDP 53", "TCP 9", "UDP 9"}},
		{"a range has two ends", "  p: {egress: [{ports: [{port: 8000, endPort: 8010}]}]}\n", []string{"ICMP", "TCP 8000", "TCP 9", "TCP 8010"}},
		{"the port that no rule names", "  p: {ingress: [{ports: [{port: 9, endPort: 11}]}]}\n", []string{"ICMP", "TCP 9", "TCP 12", "TCP 11"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got []string
			for _, p := range Ports(parsed(t, tt.policies)) {
				got = append(got, p.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Ports() (-want +got):\n%s", diff)
			}
		})
	}
}
