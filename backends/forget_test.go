package backends_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"labctl/backends"
)

func TestForget(t *testing.T) {
	t.Parallel()
	ts := newTestStore(t)
	ctx := t.Context()
	n, err := backends.ParseNetwork([]byte(`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	one, two := netip.MustParseAddr("192.168.50.1"), netip.MustParseAddr("192.168.50.2")
	for _, ip := range []netip.Addr{one, two} {
		if _, err := ts.Acquire(ctx, backends.Request{Network: n, Attrs: backends.Attrs{PublicIP: ip, BackendType: "vxlan"}}); err != nil {
			t.Fatal(err)
		}
	}
	// Not among the hundred subnets that are given out first.
	if err := ts.Reserve(ctx, netip.MustParsePrefix("10.244.200.0/24"), one); err != nil {
		t.Fatal(err)
	}
	before, err := ts.Leases(ctx)
	if err != nil || len(before.Of(one)) != 2 {
		t.Fatalf("Leases() = %+v, %v, want two of %s", before, err, one)
	}
	gone, revision, err := ts.Forget(ctx, one)
	if err != nil || len(gone) != 2 || revision <= before.Revision {
		t.Errorf("Forget() = %+v, %d, %v, want two leases, a revision after %d", gone, revision, err, before.Revision)
	}
	after, err := ts.Leases(ctx)
	if err != nil || len(after.Of(one)) != 0 || len(after.Of(two)) != 1 || after.Revision < revision {
		t.Errorf("Leases() after Forget() = %+v, %v, want the other host's, revision %d", after, err, revision)
	}
	if gone, revision, err := ts.Forget(ctx, one); err != nil || len(gone) != 0 || revision != 0 {
		t.Errorf("Forget() again = %+v, %d, %v, want nothing to do", gone, revision, err)
	}
	// A store that is away is waited for until the context ends.
	ts.server.Close()
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, _, err := ts.Forget(ctx, two); !errors.Is(err, context.DeadlineExceeded) && err == nil {
		t.Errorf("Forget() without a store: %v, want an error", err)
	}
}
