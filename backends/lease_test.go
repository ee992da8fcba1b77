package backends

import (
	"encoding/json"
	"net/netip"
	"testing"
)

// U4: values byte for byte.
func TestAttrsEncode(t *testing.T) {
	ip := netip.MustParseAddr("1.2.3.4")
	tests := []struct {
		name string
		a    Attrs
		want string
	}{
		{"udp", Attrs{PublicIP: ip}, `{"PublicIP":"1.2.3.4","PublicIPv6":null}`},
		{"host-gw", Attrs{PublicIP: ip, BackendType: "host-gw"}, `{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"host-gw"}`},
		{"vxlan", Attrs{PublicIP: ip, BackendType: "vxlan", BackendData: json.RawMessage(`{"VNI":1,"VtepMAC":"c6:d2:00:00:00:01"}`)},
			`{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:00:00:00:01"}}`},
		{"dual", Attrs{PublicIP: ip, PublicIPv6: netip.MustParseAddr("fd00::1"), BackendV6Data: json.RawMessage(`{}`)},
			`{"PublicIP":"1.2.3.4","PublicIPv6":"fd00::1","BackendV6Data":{}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.a.Encode()
			if err != nil || string(got) != tt.want {
				t.Errorf("Encode() = %s, %v, want %s", got, err, tt.want)
			}
			back, err := DecodeAttrs(got)
			if err != nil || !back.Equal(tt.a) {
				t.Errorf("DecodeAttrs(%s) = %+v, %v", got, back, err)
			}
		})
	}
	for _, a := range []Attrs{{}, {PublicIP: netip.MustParseAddr("::1")}, {PublicIP: ip, BackendData: json.RawMessage(`{`)}} {
		if got, err := a.Encode(); err == nil {
			t.Errorf("%+v.Encode() = %s, want an error", a, got)
		}
	}
}

func TestDecodeAttrsErrors(t *testing.T) {
	for _, in := range []string{
		``, `junk`, `[]`, `null`, `{}`, `{"PublicIP":null}`, `{"PublicIP":""}`, `{"PublicIP":"x"}`, `{"PublicIP":"::1"}`, `{"PublicIP":7}`,
		`{"PublicIP":"1.2.3.4","PublicIPv6":"1.2.3.4"}`, `{"PublicIP":"1.2.3.4","PublicIPv6":"fe80::1%eth0"}`, `{"PublicIP":"1.2.3.4","BackendType":1}`,
	} {
		if a, err := DecodeAttrs([]byte(in)); err == nil {
			t.Errorf("DecodeAttrs(%s) = %+v, want an error", in, a)
		}
	}
}

func FuzzDecodeAttrs(f *testing.F) {
	f.Add([]byte(`{"PublicIP":"1.2.3.4","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1, "VtepMAC":"c6:d2:00:00:00:01"}}`))
	f.Add([]byte(`{"publicip":"1.2.3.4","PublicIPv6":"fd00::1","BackendData":"x<y"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := DecodeAttrs(data)
		if err != nil {
			return
		}
		out, err := a.Encode()
		if err != nil {
			t.Fatalf("%s: decodes but does not encode: %v", data, err)
		}
		back, err := DecodeAttrs(out)
		if err != nil {
			t.Fatalf("%s: %v", out, err)
		}
		again, err := back.Encode()
		if err != nil || string(again) != string(out) {
			t.Errorf("%s becomes %s, %v", out, again, err)
		}
	})
}
