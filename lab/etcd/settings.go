package etcd

import (
	"crypto/rand"
	"net/url"
	"sync"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// settings are etcd's for a lab. In brackets what the default costs.
func settings(cfg Config, urls []url.URL, log *journal) *embed.Config {
	smallSegments()
	c := embed.NewConfig()
	c.Name = cfg.Name
	c.Dir = cfg.Dir

	// One member needs no peers, so no peer port. Its advertised URL goes into
	// the member's id, which the data directory keeps: it must stay as it is.
	c.ListenPeerUrls = nil
	c.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:1"}}
	c.InitialCluster = c.InitialClusterFromName(cfg.Name)
	// The token of a new data directory goes into the cluster's id, which the
	// directory keeps: a store that lost its memory has another one, and agents
	// see it whatever the revision [the same token always].
	c.InitialClusterToken = rand.Text()
	c.ListenClientUrls = urls
	c.AdvertiseClientUrls = urls
	c.EnableGRPCGateway = false

	// A lab's leases live for seconds: etcd's least TTL is one and a half
	// election timeouts, rounded up to seconds [2 s]. And the only member
	// waits before it elects itself, for a random time up to that timeout
	// [up to 1 s]. Measured idle cost of the ticks, per cent of a processor:
	// 10 ms 1.5, 5 ms 2.1, 2 ms 4.8.
	c.TickMs = 5
	c.ElectionMs = 25

	c.UnsafeNoFsync = true
	// The memory map is 1.1 times a quota that is set [11 GB].
	c.QuotaBackendBytes = 64 << 20

	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(log, zap.WithFatalHook(log), zap.WithPanicHook(log)))
	return c
}

// smallSegments has etcd allocate 1 MB in advance, twice, for its log [64 MB,
// which is 20 ms of every start on a tmpfs]. etcd has a variable of the
// package for it, which goroutines of a running server read: set it once.
var smallSegments = sync.OnceFunc(func() { wal.SegmentSizeBytes = 1 << 20 })
