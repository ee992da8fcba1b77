package agent

import (
	"context"
	"log/slog"
	"os"
	"sync"

	"labctl/backends/bgp"
	"labctl/lab/internal/rpc"
)

// RunRouter is the process of a router that speaks BGP: it does what the Orders
// of the control stream say about BGP, and tells by Reports what it knows,
// until ctx or the stream ends.
func RunRouter(ctx context.Context, name string, control *os.File, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	conn, err := rpc.FromFile(control)
	if err != nil {
		cancel()
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	context.AfterFunc(ctx, func() { conn.Close() })
	var s *speaker
	var mu sync.Mutex // guards sent
	sent := Report{Phase: Running}
	tell := func(r *bgp.Report, answered uint64) {
		mu.Lock()
		defer mu.Unlock()
		k := s.host.Report().Kernel
		sent.BGP, sent.Answered, sent.Error = r, max(answered, sent.Answered), k.Err
		sent.Held, sent.Drift, sent.Healed, sent.Foreign = k.Held, k.Drift, k.Healed, k.Foreign
		_ = conn.Send(sent) // the supervisor's end is seen by Receive
	}
	defer func() {
		if s != nil {
			cancel()
			wg.Wait()
			if err := s.close(); err != nil {
				log.Warn("bgp", "err", err)
			}
		}
	}()
	for {
		var o Order
		if _, err := conn.Receive(&o); err != nil {
			return nil
		}
		if o.BGP == nil {
			continue
		}
		if s == nil {
			if s, err = openSpeaker(name, o.BGP, nil, log); err != nil {
				return err
			}
			wg.Go(func() {
				if err := s.host.Run(ctx); err != nil {
					log.Error("bgp", "err", err)
					cancel()
				}
			})
			wg.Go(func() { s.reports(ctx, func(r bgp.Report) { tell(&r, 0) }) })
		}
		s.host.Set(ctx, o.BGP.Config)
		if r := s.obey(o, log); r != nil {
			tell(r, o.Ask)
		}
	}
}
