package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"labctl/backends"
	"labctl/nodes"
	"labctl/nodes/nodestest"
)

func TestMain(m *testing.M) { nodestest.Main(m) }

// An agent that has no lease yet is healthy, but not ready, and says why.
func TestHealthBeforeTheLease(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{Config: Config{Healthz: free.Addr().String(), Log: slog.New(slog.DiscardHandler)}}
	a.report.Phase = WaitingForStore
	a.calls.log = a.Log
	(&flannelSystem{Agent: a}).noConfig("/n")
	if _, err := a.serveHealth(); err == nil {
		t.Error("serveHealth() on a port that is taken = nil, want an error")
	}
	free.Close()
	done, err := a.serveHealth()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]int{"healthz": 200, "readyz": 503, "": 404} {
		resp, err := client.Get(fmt.Sprintf("http://%s/%s", a.Healthz, path))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want {
			t.Errorf("/%s = %d, %s, %v, want %d", path, resp.StatusCode, body, err, want)
		}
		if want == 404 {
			continue
		}
		var h Health
		if err := json.Unmarshal(body, &h); err != nil {
			t.Errorf("/%s: %v: %s", path, err, body)
		}
		if diff := cmp.Diff([]string{"waiting for etcd", "/n/config: not found in etcd"}, h.Reasons); diff != "" {
			t.Errorf("/%s: reasons (-want +got):\n%s", path, diff)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	lease := backends.Lease{Subnet: netip.MustParsePrefix("10.244.1.0/24"), Expires: now.Add(time.Hour)}
	for _, tt := range []struct {
		name           string
		change         func(*facts)
		healthy, ready bool
		reasons        []string
	}{
		{"all is well", func(*facts) {}, true, true, []string{}},
		{"the store is away", func(f *facts) { f.trouble, f.since = "connection refused", now }, true, true,
			[]string{"etcd does not answer since 2026-01-01T12:00:00Z: connection refused"}},
		{"nothing is asked any more", func(f *facts) { f.asked = now.Add(-time.Hour) }, false, false,
			[]string{"nothing was asked of etcd since 2026-01-01T11:00:00Z"}},
		{"the lease ran out", func(f *facts) { f.lease.Expires = now.Add(-time.Minute) }, false, false,
			[]string{"lease 10.244.1.0/24 ended at 2026-01-01T11:59:00Z"}},
		{"a reservation does not run out", func(f *facts) { f.lease.Expires, f.lease.Reserved = time.Time{}, true }, true, true, []string{}},
		{"the lease is taken again", func(f *facts) { f.phase = Acquiring }, true, false, []string{"acquiring a subnet"}},
		{"the kernel is not asked yet", func(f *facts) { f.kernel.Generation = 0 }, true, false, []string{"kernel: nothing applied yet"}},
		{"there is no reconciler yet", func(f *facts) { f.kernel = nil }, true, false, []string{"kernel: nothing applied yet"}},
		{"the kernel refuses", func(f *facts) { f.kernel.Err = "no" }, false, false, []string{"kernel: no"}},
		{"it is held", func(f *facts) { f.kernel.Held = true }, true, true, []string{"held: differences are not mended"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l := lease
			f := facts{phase: Running, asked: now, lease: &l, kernel: &nodes.Report{Generation: 1}}
			tt.change(&f)
			h := f.judge(now)
			if diff := cmp.Diff(tt.reasons, h.Reasons); diff != "" || h.Healthy != tt.healthy || h.Ready != tt.ready {
				t.Errorf("judge() = %+v, want healthy %v, ready %v, reasons (-want +got):\n%s", h, tt.healthy, tt.ready, diff)
			}
		})
	}
}

func TestNotify(t *testing.T) {
	t.Parallel()
	if err := notify("", "READY=1"); err != nil {
		t.Errorf("notify() without a socket = %v", err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	for _, name := range []string{path, "@labctl-" + path} { // of the file system, and abstract
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := notify(name, "READY=1"); err != nil {
			t.Errorf("notify(%s) = %v", name, err)
		}
		if err := l.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 20)
		if n, err := l.Read(b); err != nil || string(b[:n]) != "READY=1" {
			t.Errorf("%s: read %q, %v", name, b[:n], err)
		}
	}
}

func TestUnsupported(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("node1: %w", unsupported{os.ErrNotExist})
	if !errors.Is(err, ErrUnsupported) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v: want it ErrUnsupported and what it was", err)
	}
}

// What no rule is wanted of leaves no table behind.
func TestTrafficRules(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		masq, noForward bool
		want            []nodes.Hook
	}{
		{true, false, []nodes.Hook{nodes.PostroutingNAT, nodes.Forward}},
		{true, true, []nodes.Hook{nodes.PostroutingNAT}},
		{false, false, []nodes.Hook{nodes.Forward}},
		{false, true, nil},
	} {
		a := &flannelSystem{Agent: &Agent{Config: Config{IPMasq: tt.masq, NoForward: tt.noForward}}}
		var got []nodes.Hook
		for _, table := range a.trafficRules(a.report.Subnet) {
			for _, c := range table.Chains {
				got = append(got, c.Hook)
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("masquerade %v, no forward rules %v (-want +got):\n%s", tt.masq, tt.noForward, diff)
		}
	}
}
