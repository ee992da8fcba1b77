package docker

import (
	"net/netip"
	"os"
	"testing"
)

const env = "FLANNEL_NETWORK=172.17.0.0/16\nFLANNEL_SUBNET=172.17.8.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"

func TestText(t *testing.T) {
	t.Parallel()
	individual := "DOCKER_OPT_BIP=\"--bip=172.17.8.1/24\"\nDOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n"
	combined := "=\" --bip=172.17.8.1/24 --ip-masq=false --mtu=1450\"\n"
	both := Format{Individual: true, Combined: true, Key: "DOCKER_OPTS"}
	for _, tt := range []struct {
		name, env string
		format    Format
		want      string
	}{
		{"both", env, both, individual + "DOCKER_OPTS" + combined},
		{"individual", env, Format{Individual: true, Key: "DOCKER_OPTS"}, individual},
		{"combined", env, Format{Combined: true, Key: "DOCKER_OPTS"}, "DOCKER_OPTS" + combined},
		{"another key", env, Format{Combined: true, Key: "DOCKER_NETWORK_OPTIONS"}, "DOCKER_NETWORK_OPTIONS" + combined},
		{"what there was stays", env, Format{Combined: true, Key: "K", Before: "--debug"}, "K=\"--debug  --bip=172.17.8.1/24 --ip-masq=false --mtu=1450\"\n"},
		{"docker masquerades", "FLANNEL_IPMASQ=false", both, "DOCKER_OPT_IPMASQ=\"--ip-masq=true\"\nDOCKER_OPTS=\" --ip-masq=true\"\n"},
		{"nothing", "", both, "DOCKER_OPTS=\"\"\n"},
		{"as a shell writes it", "export FLANNEL_MTU='1400'\n# FLANNEL_SUBNET=10.0.0.1/24\n", Format{Individual: true}, "DOCKER_OPT_MTU=\"--mtu=1400\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o, err := Parse(tt.env)
			if err != nil {
				t.Fatal(err)
			}
			if got := o.Text(tt.format); got != tt.want {
				t.Errorf("Text() =\n%swant\n%s", got, tt.want)
			}
		})
	}
	if _, err := Parse("FLANNEL_IPMASQ=yes"); err == nil || err.Error() != "FLANNEL_IPMASQ=yes: want true or false" {
		t.Errorf("Parse(FLANNEL_IPMASQ=yes) = %v", err)
	}
}

func TestGateway(t *testing.T) {
	t.Parallel()
	// 172.17.8.0/24 by 10.0.2.2, 172.17.9.0/24 on a bridge.
	const table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n" +
		"eth0\t000811AC\t0202000A\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n" +
		"cni0\t000911AC\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
	for subnet, want := range map[string]string{"172.17.8.0/24": "10.0.2.2 eth0", "172.17.9.0/24": "invalid IP ", "172.17.8.0/25": "invalid IP "} {
		via, dev, err := gateway(table, netip.MustParsePrefix(subnet))
		if got := via.String() + " " + dev; err != nil || got != want {
			t.Errorf("gateway(%s) = %s, %v, want %s", subnet, got, err, want)
		}
	}
	if _, _, err := gateway("\neth0 x x x x x x x\n", netip.MustParsePrefix("10.0.0.0/8")); err == nil {
		t.Error("gateway() of junk = nil, want an error")
	}
	if _, _, err := Gateway(os.Getpid(), netip.MustParsePrefix("192.0.2.0/29")); err != nil {
		t.Errorf("Gateway() = %v", err)
	}
}
