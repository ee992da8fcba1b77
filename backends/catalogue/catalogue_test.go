package catalogue

import (
	"slices"
	"strings"
	"testing"

	"labctl/backends"
)

func TestEveryBackendIsMade(t *testing.T) {
	var types []string
	for _, info := range All() {
		b, err := New(backends.Network{BackendType: info.Type})
		if err != nil || b.Type() != info.Type {
			t.Errorf("New(%s) = %v, %v", info.Type, b, err)
		}
		if info.Summary == "" {
			t.Errorf("%s has no summary", info.Type)
		}
		types = append(types, info.Type)
	}
	if !slices.IsSorted(types) || len(slices.Compact(types)) != len(All()) {
		t.Errorf("types %v: not sorted, or one twice", types)
	}
}

func TestUnknownType(t *testing.T) {
	b, err := New(backends.Network{BackendType: "vlan"})
	if b != nil || err == nil || !strings.Contains(err.Error(), `"vlan" is unknown`) || !strings.Contains(err.Error(), "vxlan") {
		t.Errorf("New(vlan) = %v, %v", b, err)
	}
	if b, err := New(backends.Network{BackendType: "vxlan", Backend: []byte(`{"VNI":-1}`)}); b != nil || err == nil {
		t.Errorf("New(vxlan, bad) = %v, %v, want a nil Backend", b, err)
	}
}
