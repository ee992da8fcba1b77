package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

func TestLongFlags(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"agent -iface=eth0 -ip-masq":              "agent --iface=eth0 --ip-masq",
		"agent --iface eth0 -etcd-prefix /x":      "agent --iface eth0 --etcd-prefix /x",
		"-ojson agent -healthz-port 1 -v=2 -h":    "-ojson agent --healthz-port 1 -v=2 -h",
		"agent -iptables-resync=5 -vmodule x -oy": "agent --iptables-resync=5 --vmodule x -oy",
		"agent -- -iface":                         "agent -- -iface",
		"exec node1 -- agent -iface":              "exec node1 -- agent -iface",
		"exec agent -iface":                       "exec agent -iface",
		"agent -nonsense":                         "agent -nonsense",
		"":                                        "",
	} {
		if got := strings.Join(longFlags(strings.Fields(in)), " "); got != want {
			t.Errorf("longFlags(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestAgentEnvironment(t *testing.T) {
	t.Setenv("FLANNELD_ETCD_ENDPOINTS", "http://192.0.2.1:2379, http://192.0.2.2:2379")
	t.Setenv("FLANNELD_IFACE", "eth1")
	t.Setenv("FLANNELD_IP_MASQ", "true")
	t.Setenv("FLANNELD_ETCD_PREFIX", "/of/the/variable")
	var f agentFlags
	s := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.register(s)
	if err := s.Parse([]string{"--etcd-prefix=/of/the/flag/"}); err != nil {
		t.Fatal(err)
	}
	if err := fromEnvironment(s); err != nil {
		t.Fatal(err)
	}
	conf, err := f.config()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"http://192.0.2.1:2379", "http://192.0.2.2:2379"}, conf.Access.Endpoints); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"eth1"}, conf.Choice.Ifaces); diff != "" {
		t.Errorf("devices (-want +got):\n%s", diff)
	}
	if conf.Prefix != "/of/the/flag" || !conf.IPMasq || conf.LeaseTTL != flannelTTL || conf.Healthz != "" || conf.Node == "" {
		t.Errorf("config() = %+v", conf)
	}
}
