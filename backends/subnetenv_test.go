package backends

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

func TestSubnetEnv(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "flannel", "subnet.env")
	if e, err := ReadSubnetEnv(path); err != nil || e != (SubnetEnv{}) {
		t.Errorf("ReadSubnetEnv() without a file = %+v, %v", e, err)
	}
	n, err := ParseNetwork([]byte(`{"Network":"10.1.0.0/16"}`))
	if err != nil {
		t.Fatal(err)
	}
	e := NewSubnetEnv(n, Lease{Subnet: netip.MustParsePrefix("10.1.74.0/24")}, 1450, true)
	for range 2 {
		if err := WriteSubnetEnv(path, e); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	want := "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
	if err != nil || string(got) != want {
		t.Errorf("file = %s, %v, want %s", got, err, want)
	}
	for name, mode := range map[string]os.FileMode{path: 0o644, filepath.Dir(path): 0o755} {
		if fi, err := os.Stat(name); err != nil || fi.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, %v, want %v", name, fi.Mode(), err, mode)
		}
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	if back, err := ReadSubnetEnv(path); err != nil || back != e || back.Previous().String() != "10.1.74.0/24" {
		t.Errorf("ReadSubnetEnv() = %+v, %v, want %+v", back, err, e)
	}
}

// U13.
func TestParseSubnetEnvTolerates(t *testing.T) {
	tests := []struct{ in, subnet string }{
		{"", "invalid Prefix"},
		{"junk\x00\n=\n==\nFLANNEL_SUBNET", "invalid Prefix"},
		{"FLANNEL_SUBNET=10.1.74.1", "invalid Prefix"},
		{"FLANNEL_SUBNET=10.1.74.1/99", "invalid Prefix"},
		{"FLANNEL_SUBNET=10.1.74.1/24,10.1.75.1/24", "invalid Prefix"},
		{"FLANNEL_SUBNET=fd00::1/64", "invalid Prefix"},
		{"FLANNEL_NETWORK=junk\r\nexport FLANNEL_SUBNET=\"10.1.74.1/24\"\r\nFLANNEL_MTU=x", "10.1.74.1/24"},
	}
	for _, tt := range tests {
		e := ParseSubnetEnv(tt.in)
		if e.Subnet.String() != tt.subnet {
			t.Errorf("ParseSubnetEnv(%q).Subnet = %s, want %s", tt.in, e.Subnet, tt.subnet)
		}
	}
}

func FuzzParseSubnetEnv(f *testing.F) {
	f.Add("FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.74.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")
	f.Fuzz(func(t *testing.T, text string) {
		e := ParseSubnetEnv(text)
		if e.Network.IsValid() && e.Subnet.IsValid() && ParseSubnetEnv(e.String()).Subnet != e.Subnet {
			t.Errorf("%q is not read back", e)
		}
	})
}
