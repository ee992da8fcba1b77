package bgp

import "context"

// Speaker is one BGP speaker. Its methods are safe for concurrent use.
type Speaker interface {
	// Name is gobgp or bird.
	Name() string
	// Set gives the configuration that holds from now on. Sessions that it
	// does not change stay up.
	Set(ctx context.Context, c Config) error
	// View is what the speaker knows now. The routes of each session are in it
	// only with detail.
	View(ctx context.Context, detail Detail) (View, error)
	// Changed receives after each change of a View. It holds one wake-up,
	// however many are missed.
	Changed() <-chan struct{}
	// WritesKernel says that the speaker brings its best paths into the kernel
	// itself.
	WritesKernel() bool
	// Close ends the speaker without a word to its peers: they keep its routes
	// for the time of a graceful restart, and the kernel keeps its own.
	Close() error
}

// Detail is how much a View has.
type Detail bool

// The values of Detail.
const (
	Sessions Detail = false // sessions and best paths
	Routes   Detail = true  // the routes of each session, too
)
