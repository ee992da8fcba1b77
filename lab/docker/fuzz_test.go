package docker

import (
	"regexp"
	"testing"
)

// variable is a line of an environment file that systemd and shells read alike.
var variable = regexp.MustCompile("^[A-Z_]+=\"[^\"\\\\$`\n\r]*\"$")

// FuzzParse makes of any subnet.env a file of variables, or an error: nothing
// in a value ends it early, or is more than text.
func FuzzParse(f *testing.F) {
	f.Add("FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
	f.Add("export FLANNEL_SUBNET='10.1.74.1/24'\r\nFLANNEL_MTU=1\"$(id)\n")
	f.Fuzz(func(t *testing.T, text string) {
		o, err := Parse(text)
		if err != nil {
			return
		}
		lines := regexp.MustCompile("\n").Split(o.Text(Format{Individual: true, Combined: true, Key: "DOCKER_OPTS"}), -1)
		for _, l := range lines[:len(lines)-1] {
			if !variable.MatchString(l) {
				t.Errorf("%q makes the line %q", text, l)
			}
		}
	})
}
