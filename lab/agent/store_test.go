package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"labctl/backends"
)

// Trouble with the store is told at once when there was no answer yet, else
// when it lasts; then once a minute, and when it is over.
func TestStoreCallsTellTrouble(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := storeCalls{log: slog.New(slog.NewTextHandler(&log, nil)), access: backends.Access{Endpoints: []string{"http://192.0.2.1:2379"}}}
		away := status.Error(codes.Unavailable, `connection error: desc = "transport: Error while dialing: dial tcp 192.0.2.1:2379: connect: connection refused"`)
		lines := func(when, mark string, want int) {
			t.Helper()
			if got := strings.Count(log.String(), mark); got != want {
				t.Errorf("%s: %d lines %q, want %d\n%s", when, got, mark, want, log.String())
			}
		}
		c.observe(away)
		lines("at the start", `err="dial tcp 192.0.2.1:2379: connect: connection refused" cure=`, 1)
		for range 50 {
			time.Sleep(time.Second)
			c.observe(away)
		}
		lines("within a minute", "does not answer", 1)
		for range 20 {
			time.Sleep(time.Second)
			c.observe(away)
		}
		lines("after a minute", "does not answer", 2)
		c.observe(status.Error(codes.NotFound, "etcdserver: requested lease not found"))
		lines("an answer", "answers again", 1)
		c.observe(away)
		c.observe(nil)
		lines("a blip", "does not answer", 2)
		lines("after a blip", "answers again", 1)
		if !c.answers() {
			t.Error("answers() = false after an answer")
		}
		c.observe(away)
		time.Sleep(patience)
		c.observe(away)
		lines("what lasts", "does not answer", 3)
		if what, _, _ := c.trouble(); what != "dial tcp 192.0.2.1:2379: connect: connection refused" {
			t.Errorf("trouble() = %q", what)
		}
	})
}

func TestExplain(t *testing.T) {
	t.Parallel()
	c := storeCalls{access: backends.Access{Username: "me", CAFile: "ca.pem"}}
	for text, want := range map[string]string{
		`tls: failed to verify certificate: x509: certificate is valid for 192.0.2.1, not 192.0.2.2"`:      "x509: certificate is valid for 192.0.2.1, not 192.0.2.2",
		`tls: failed to verify certificate: x509: certificate signed by unknown authority"`:                "its certificate is not signed by ca.pem",
		`authentication handshake failed: tls: first record does not look like a TLS handshake"`:           "it does not encrypt",
		`authentication handshake failed: remote error: tls: certificate required"`:                        "it wants a certificate of ours",
		`tls: failed to verify certificate: x509: certificate has expired or is not yet valid: too late."`: "x509: certificate has expired or is not yet valid: too late.",
		`context deadline exceeded`: "context deadline exceeded",
	} {
		if what, cure := c.explain(status.Error(codes.Unavailable, text)); what != want || cure == "" {
			t.Errorf("explain(%s) = %q, %q, want %q", text, what, cure, want)
		}
	}
	if what, _ := c.explain(errors.New("plain")); what != "plain" {
		t.Errorf("explain(plain) = %q", what)
	}
}
