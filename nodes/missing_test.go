package nodes

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMissing(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"no netfilter":             {withoutTables(unix.EPROTONOSUPPORT), true},
		"no nftables in it":        {withoutTables(unix.EINVAL), true},
		"not allowed":              {withoutTables(unix.EPERM), false},
		"tables listed":            {withoutTables(nil), false},
		"no family inet":           {withoutParts(unix.EOPNOTSUPP, true), true},
		"no such expression":       {withoutParts(unix.ENOENT, false), true},
		"the table went meanwhile": {withoutParts(unix.ENOENT, true), false},
		"table made":               {withoutParts(nil, false), false},
		"no such kind of link":     {lacking("vxlan", unix.EOPNOTSUPP), true},
		"link exists":              {lacking("vxlan", unix.EEXIST), false},
		"link made":                {lacking("vxlan", nil), false},
	} {
		if m, ok := errors.AsType[*MissingError](tt.err); ok != tt.want || ok && (m.Cure == "" || m.Err == nil) {
			t.Errorf("%s: %v: missing %v, want %v", name, tt.err, ok, tt.want)
		}
	}
}

// TestTelling holds that of a kernel without vxlan a person hears that, and not
// of each route that cannot be made therefore.
func TestTelling(t *testing.T) {
	t.Parallel()
	busy := fmt.Errorf("a: eth0: %w", unix.EBUSY)
	route := fmt.Errorf("a: flannel.1: %w", errNoDevice)
	vxlan := fmt.Errorf("a: flannel.1: add vxlan: %w", lacking("vxlan", unix.EOPNOTSUPP))
	tables := fmt.Errorf("a: nftables: list: %w", withoutTables(unix.EINVAL))
	for name, tt := range map[string]struct{ errs, want []error }{
		"none":          {nil, nil},
		"others":        {[]error{busy, route}, []error{busy, route}},
		"a kind":        {[]error{busy, vxlan, route, tables}, []error{vxlan}},
		"none but that": {[]error{tables}, []error{tables}},
	} {
		if got := (&pass{errs: tt.errs}).telling(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// TestWithoutIPv6 holds that a kernel without IPv6 has what turns it off, and
// nothing else of it.
func TestWithoutIPv6(t *testing.T) {
	t.Parallel()
	without, with := &sysctlTrees{dirs: map[string]int{"net/ipv4": 3}}, &sysctlTrees{dirs: map[string]int{"net/ipv4": 3, "net/ipv6": 4}}
	for _, tt := range []struct {
		trees *sysctlTrees
		s     Sysctl
		want  bool
	}{
		{without, Sysctl{Key: "net/ipv6/conf/all/disable_ipv6", Value: "1"}, true},
		{without, Sysctl{Key: "net/ipv6/conf/all/disable_ipv6", Value: "0"}, false},
		{without, Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"}, false},
		{without, Sysctl{Key: "net/ipv4/conf/all/disable_ipv6", Value: "1"}, false},
		{with, Sysctl{Key: "net/ipv6/conf/gone0/disable_ipv6", Value: "1"}, false},
	} {
		if got := tt.trees.vacuous(tt.s); got != tt.want {
			t.Errorf("%s = %s with %v: vacuous %v, want %v", tt.s.Key, tt.s.Value, tt.trees.dirs, got, tt.want)
		}
	}
}
