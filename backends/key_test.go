package backends

import "testing"

// U2.
func TestParseKey(t *testing.T) {
	for _, s := range []string{"10.5.52.0-24", "0.0.0.0-0", "10.12.13.0-24&fd00:12:13::-56", "10.5.52.4-30"} {
		k, err := ParseKey(s)
		if err != nil || k.String() != s {
			t.Errorf("ParseKey(%q) = %v, %v", s, k, err)
		}
	}
	for _, s := range []string{
		"", "10", "10.12.13.0", "10.12.13-24", "10.12.13.300-24", "10.12.13.0-24hi", "hi10.12.13.0-24", "&2001::-56",
		"10.12.13.0-24&", "10.12.13.0-24&2001::", "10.12.13.0-24&2001::g-56", "10.12.13.0-24&2001::-128", "10.12.13.0-24&2001::-56x",
		"10.12.13.0-24&10.12.13.0-24", "fd00::-56", "10.12.13.0-32", "10.12.13.0-024", "10.12.13.0-+24", "10.12.13.1-24",
		"010.12.13.0-24", "10.12.13.0/24", "10a12b13c0-24", "10.12.13.0-24&FD00::-56", "10.12.13.0-24&fd00:0::-56",
		"10.12.13.0-24&fd00::%eth0-56", "10.12.13.0-24&::ffff:1.2.3.0-120", "10.12.13.0--24", "10.12.13.0-24/x",
	} {
		if k, err := ParseKey(s); err == nil {
			t.Errorf("ParseKey(%q) = %v, want an error", s, k)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add("10.5.52.0-24")
	f.Add("10.12.13.0-24&fd00:12:13::-56")
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.String() != s {
			t.Errorf("ParseKey(%q).String() = %q", s, k)
		}
	})
}
