package lab

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func lookup(p Placeholder) (string, error) {
	switch p.String() {
	case "lab":
		return "x", nil
	case "node1.c1.ip":
		return "10.0.0.1", nil
	}
	return "", errors.New("no " + p.String())
}

func TestExpand(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, want, err string }{
		{"nothing to do", "ip route", "ip route", ""},
		{"several", "${lab}:${node1.c1.ip}", "x:10.0.0.1", ""},
		{"escaped", "$${HOME} ${lab}", "${HOME} x", ""},
		{"dollars that are none of ours", "$HOME $(id) a$", "$HOME $(id) a$", ""},
		{"unknown", "${lab} ${node2.ip}", "", "no node2.ip"},
		{"empty", "${}", "", "no "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := Expand(c.text, lookup)
			if got != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
				t.Errorf("Expand(%q) = %q, %v, want %q, %s", c.text, got, err, c.want, c.err)
			}
		})
	}
}

func TestExpandRegexpTakesValuesLiterally(t *testing.T) {
	t.Parallel()
	re, err := ExpandRegexp("^${node1.c1.ip} dev$", lookup)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"10.0.0.1 dev":           true,
		"first\n10.0.0.1 dev\nx": true,
		"10a0b0c1 dev":           false,
		"110.0.0.1 dev":          false,
	} {
		if got := re.MatchString(text); got != want {
			t.Errorf("%s matches %q = %v, want %v", re, text, got, want)
		}
	}
}

func TestPlaceholders(t *testing.T) {
	t.Parallel()
	want := []Placeholder{{Value: "lab"}, {"node1.c1", "ip"}, {"node2", "subnet"}}
	if diff := cmp.Diff(want, Placeholders("${lab} $${no} ${node1.c1.ip}${node2.subnet}")); diff != "" {
		t.Error(diff)
	}
}

func TestCheckTitle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want string
		spec CheckSpec
	}{
		{"given", CheckSpec{Name: "given", Ping: &PingCheck{All: true}}},
		{"ping all", CheckSpec{Ping: &PingCheck{All: true}}},
		{"ping a -> b fails", CheckSpec{Ping: &PingCheck{From: "a", To: "b", Expect: ExpectFail}}},
		{"a: ip -4 route", CheckSpec{Command: &CommandCheck{In: "a", Run: []string{"ip", "-4\n", "route"}}}},
		{"a: GET http://b/", CheckSpec{HTTP: &HTTPCheck{From: "a", URL: "http://b/"}}},
		{"a: entries of flannel.1", CheckSpec{Count: &CountCheck{In: "a", Dev: "flannel.1"}}},
		{"mtu a -> b is 1450", CheckSpec{MTU: &MTUCheck{From: "a", To: "b", Is: 1450}}},
		{"store /x", CheckSpec{Store: &StoreCheck{Prefix: "/x"}}},
		{"check", CheckSpec{}},
	} {
		t.Run(c.want, func(t *testing.T) {
			t.Parallel()
			if got := c.spec.Title(); got != c.want {
				t.Errorf("Title() = %q, want %q", got, c.want)
			}
		})
	}
}
