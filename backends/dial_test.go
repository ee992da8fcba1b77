package backends

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestAccessErrors(t *testing.T) {
	t.Parallel()
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, secret := []string{"http://192.0.2.1:2379"}, []string{"https://192.0.2.1:2379"}
	for _, tt := range []struct {
		name   string
		access Access
		want   string
	}{
		{"no endpoints", Access{}, "etcd: no endpoints"},
		{"no URL", Access{Endpoints: []string{"192.0.2.1"}}, `etcd: endpoint "192.0.2.1" is no URL`},
		{"a port without a scheme", Access{Endpoints: []string{"etcd:2379"}}, `etcd: endpoint "etcd:2379" is no URL`},
		{"another scheme", Access{Endpoints: []string{"ftp://etcd:21"}}, `etcd: endpoint "ftp://etcd:21" begins with neither http:// nor https://`},
		{"both schemes", Access{Endpoints: append(secret, plain...)}, "etcd: some endpoints are encrypted, others are not"},
		{"a CA that would not be used", Access{Endpoints: plain, CAFile: junk}, "etcd: http://192.0.2.1:2379 is not encrypted, but certificates are given"},
		{"a CA that is none", Access{Endpoints: secret, CAFile: junk}, "etcd: CA: " + junk + " has no certificate in PEM"},
		{"a CA that is not there", Access{Endpoints: secret, CAFile: junk + "x"}, "etcd: CA: open " + junk + "x: no such file or directory"},
		{"half a certificate", Access{Endpoints: secret, CertFile: junk}, "etcd: a certificate needs its key, and a key its certificate"},
		{"a certificate that is none", Access{Endpoints: secret, CertFile: junk, KeyFile: junk}, "etcd: certificate: tls: failed to find any PEM data in certificate input"},
		{"half a user", Access{Endpoints: plain, Username: "me"}, "etcd: a user needs both name and password"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := tt.access.Dial()
			if err == nil {
				s.Close()
				t.Fatal("Dial() = nil, want an error")
			}
			e, ok := errors.AsType[*AccessError](err)
			if !ok || e.Error() != tt.want || e.Cure == "" {
				t.Errorf("Dial() = %v (%T), want %s, and a cure", err, err, tt.want)
			}
		})
	}
}
