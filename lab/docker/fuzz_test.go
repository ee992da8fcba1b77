package docker

import (
	"net/netip"
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

// FuzzGateway reads /proc/PID/net/route.
func FuzzGateway(f *testing.F) {
	f.Add("Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nflannel.1\t0001F40A\t0001F40A\t0003\t0\t0\t0\t00FFFFFF\n")
	f.Add("x\na 0 0 0 0 0 0 0\n")
	f.Fuzz(func(t *testing.T, table string) {
		for _, subnet := range []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("fd00::/64")} {
			via, dev, err := gateway(table, subnet)
			if via.IsValid() && (err != nil || dev == "" || via.IsUnspecified()) {
				t.Errorf("gateway = %v, %q, %v", via, dev, err)
			}
		}
	})
}
