package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"labctl/lab"
	"labctl/nodes"
)

// crowd is how many namespaces get in each other's way when all are listened to
// while they are filled.
const crowd = 32

// endpoint is one network namespace and what the supervisor keeps in it.
type endpoint struct {
	name       string
	ns         *nodes.Namespace
	inode      uint64
	reconciler *nodes.Reconciler
	impairer   *nodes.Impairer
	web        *http.Server // behind the ports that it serves
	cancel     context.CancelFunc
	wg         sync.WaitGroup // the reconciler's goroutines and the server's
}

// open creates namespaces, puts them on record, and only then gives them names
// outside: whatever dies in between, `down` knows what to look for.
func (s *Supervisor) open(names []string) error {
	all, err := s.newNamespaces(names)
	if err != nil {
		return err
	}
	var filled <-chan struct{}
	if len(names) > crowd {
		filled = s.up
	}
	rec := s.recordCopy()
	made := map[string]*endpoint{}
	links := map[string]string{}
	err = func() error {
		for i, ns := range all {
			inode, err := ns.Inode()
			if err != nil {
				return err
			}
			cookie, err := lab.Cookie(ns)
			if err != nil {
				return fmt.Errorf("%s: cookie: %w", names[i], err)
			}
			rec.Namespaces[inode] = lab.NamespaceRecord{Name: names[i], Cookie: cookie}
			if !rec.Rootless {
				links[s.linkOf(names[i])] = fmt.Sprintf("/proc/%d/fd/%d", rec.Supervisor, ns.File().Fd())
			}
			r, err := nodes.NewReconciler(ns, nodes.Owner{Name: "labctl", Protocol: protocol})
			if err != nil {
				return err
			}
			r.Alone(filled)
			made[names[i]] = &endpoint{name: names[i], ns: ns, inode: inode, reconciler: r, impairer: nodes.NewImpairer(ns), web: newWeb(), cancel: func() {}}
		}
		if err := checkFree(links); err != nil {
			return err
		}
		maps.Copy(rec.Links, links)
		if len(links) > 0 {
			if err := rec.ClaimNames(s.dir, lab.NamesDir); err != nil {
				return err
			}
		}
		return rec.Write(s.dir)
	}()
	if err != nil {
		for _, e := range made {
			e.reconciler.Close()
		}
		for _, ns := range all {
			ns.Close()
		}
		return err
	}
	s.mu.Lock()
	s.record = *rec
	maps.Copy(s.endpoints, made)
	s.mu.Unlock()
	for path, target := range links {
		err := os.Symlink(target, path)
		for errors.Is(err, fs.ErrNotExist) {
			// Another lab had made the directory, and has ended.
			if err := errors.Join(rec.ClaimNames(s.dir, lab.NamesDir), rec.Write(s.dir)); err != nil {
				return err
			}
			s.mu.Lock()
			s.record = *rec
			s.mu.Unlock()
			err = os.Symlink(target, path)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// newNamespaces creates namespaces with the settings that their states will ask
// for, in the order of names.
func (s *Supervisor) newNamespaces(names []string) ([]*nodes.Namespace, error) {
	var all []*nodes.Namespace
	for _, name := range names {
		made, err := nodes.NewNamespace(name, forwarding(s.forwards(name))...)
		if err != nil {
			for _, ns := range all {
				ns.Close()
			}
			return nil, err
		}
		all = append(all, made)
	}
	return all, nil
}

// forwards says whether an endpoint passes on others' packets: nodes and
// routers do.
func (s *Supervisor) forwards(name string) bool {
	segment := slices.ContainsFunc(s.plan.Segments, func(p lab.SegmentPlan) bool { return p.Name == name })
	container := strings.Contains(name, ".")
	return !segment && !container && name != etcdName && name != internetName
}

func (s *Supervisor) linkOf(endpoint string) string {
	return filepath.Join(lab.NamesDir, s.dir.Name()+"."+endpoint)
}

// recordCopy is the record, to be changed and written.
func (s *Supervisor) recordCopy() *lab.Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.record
	rec.Links, rec.Namespaces = maps.Clone(rec.Links), maps.Clone(rec.Namespaces)
	return &rec
}

// checkFree makes sure that no name is taken before the record claims it.
func checkFree(links map[string]string) error {
	for path := range links {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return &lab.Failure{Kind: lab.Failed, Err: fmt.Errorf("%s: exists already and is not this lab's", path),
				Cure: fmt.Sprintf("choose another name with --name, or remove it: ip netns del %s", filepath.Base(path))}
		}
	}
	return nil
}

// shut takes namespaces away with all that is in them. Their names outside go
// first, as the descriptors that they lead to are used again; the record, which
// tells `down` of them, is changed last.
func (s *Supervisor) shut(names []string) error {
	var all []*endpoint
	s.mu.Lock()
	for _, n := range names {
		if e, ok := s.endpoints[n]; ok {
			all = append(all, e)
			delete(s.endpoints, n)
		}
	}
	s.mu.Unlock()
	rec := s.recordCopy()
	links := lab.Record{Links: map[string]string{}}
	inodes := map[uint64]bool{}
	for _, e := range all {
		path := s.linkOf(e.name)
		if target, ok := rec.Links[path]; ok {
			links.Links[path] = target
			delete(rec.Links, path)
		}
		inodes[e.inode] = true
		delete(rec.Namespaces, e.inode)
	}
	errs := []error{links.RemoveLinks()}
	for _, e := range all {
		errs = append(errs, e.close())
	}
	// Nothing can be started in there any more.
	errs = append(errs, killInside(inodes))
	if err := errors.Join(errs...); err != nil {
		return err // still on record
	}
	if err := rec.Write(s.dir); err != nil {
		return err
	}
	s.mu.Lock()
	s.record = *rec
	s.mu.Unlock()
	return nil
}

// close ends what runs for the endpoint and lets go of the namespace.
func (e *endpoint) close() error {
	e.cancel()
	_ = e.web.Close() // connections that are cut are meant to be
	e.wg.Wait()
	return errors.Join(e.reconciler.Close(), e.ns.Close())
}

// mind keeps an endpoint as it is to be from now on.
func (s *Supervisor) mind(ctx context.Context, e *endpoint) {
	ctx, e.cancel = context.WithCancel(ctx)
	e.wg.Go(func() {
		if err := e.reconciler.Run(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("reconcile", "endpoint", e.name, "err", err)
		}
	})
	e.wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-e.reconciler.Changed():
				s.impairAgain(e)
				s.poke()
			}
		}
	})
	s.wg.Go(func() {
		<-ctx.Done()
		_ = e.web.Close() // as in close
		e.wg.Wait()
	})
}

// at is an endpoint that is there.
func (s *Supervisor) at(name string) *endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endpoints[name]
}

// apply gives an endpoint its state and waits until the kernel has it.
func (e *endpoint) apply(ctx context.Context, st nodes.State) error {
	if err := nodes.Check(st); err != nil {
		return fmt.Errorf("%s: %w", e.name, err)
	}
	_, err := e.reconciler.Put(ctx, st)
	return err
}

// listen opens a port in an endpoint and answers HTTP on it with the client's
// address as it was seen. It is open on every address, those to come included.
func (s *Supervisor) listen(ctx context.Context, e *endpoint, port uint16) error {
	return e.ns.Do(func() error {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false)
		l, err := lc.Listen(ctx, "tcp4", ":"+strconv.Itoa(int(port)))
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		e.wg.Go(func() { _ = e.web.Serve(l) }) // until close
		return nil
	})
}
