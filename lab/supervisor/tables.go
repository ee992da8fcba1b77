package supervisor

import (
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"labctl/nodes"
)

// tables looks at endpoints' tables, all at once; at every endpoint's and
// segment's when none is named. One that goes meanwhile is left out.
func (s *Supervisor) tables(names []string) (map[string]*nodes.Tables, error) {
	all := len(names) == 0
	if all {
		s.mu.Lock()
		names = slices.Collect(maps.Keys(s.endpoints))
		s.mu.Unlock()
	}
	var mu sync.Mutex // guards found
	found := map[string]*nodes.Tables{}
	var g errgroup.Group
	g.SetLimit(16)
	for _, name := range names {
		e, err := s.endpoint(name)
		if err != nil {
			if all {
				continue
			}
			return nil, err
		}
		g.Go(func() error {
			t, err := e.ns.Tables()
			if err != nil {
				if all && s.at(name) != e {
					return nil
				}
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			found[name] = t
			return nil
		})
	}
	return found, g.Wait()
}
