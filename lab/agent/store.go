package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"labctl/backends"
)

// How often trouble is told.
const (
	patience = 2 * time.Second // what is over sooner is not told
	again    = time.Minute
)

// dial reaches the store. A user must log in first, which is tried until it
// works: the store may be away, and a password may still be set.
func (a *Agent) dial(ctx context.Context) (*clientv3.Client, error) {
	type result struct {
		client *clientv3.Client
		err    error
	}
	for {
		done := make(chan result, 1)
		go func() {
			c, err := a.Access.Client()
			done <- result{c, err}
		}()
		select {
		case r := <-done:
			_, final := errors.AsType[*backends.AccessError](r.err)
			if r.err == nil || final {
				return r.client, r.err
			}
		case <-ctx.Done():
			go func() { // its log-in has a time limit
				if r := <-done; r.client != nil {
					r.client.Close()
				}
			}()
			return nil, ctx.Err()
		}
		select {
		case <-time.After(patience):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// waitConfig waits for the network config, and says so.
func (a *flannelSystem) waitConfig(ctx context.Context) (backends.Network, []byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		prefix := a.Prefix
		if prefix == "" {
			prefix = backends.DefaultPrefix
		}
		for wait := patience; ; wait = again {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			if a.calls.answers() { // else that is told
				a.noConfig(prefix)
			} else {
				wait = patience // look again soon
			}
		}
	})
	return a.store.WaitConfig(ctx)
}

// noConfig tells that there is no network config, until there is a lease.
func (a *flannelSystem) noConfig(prefix string) {
	what := prefix + "/config: not found in etcd"
	a.Log.Warn("no network config", "err", what,
		"cure", fmt.Sprintf(`etcdctl put %s/config '{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}', or another --etcd-prefix`, prefix))
	a.update(func(*Report) { a.trouble = what })
}

// storeCalls is how the calls to the store go. It tells of trouble when it
// begins, every now and then, and when it is over.
type storeCalls struct {
	log    *slog.Logger
	access backends.Access

	mu       sync.Mutex // guards all below
	answered time.Time  // the last answer
	asked    time.Time  // the last call, whatever came of it
	err      error      // what is wrong; nil when the last call was answered
	since    time.Time  // of err
	told     time.Time  // that err was; zero when it was not
}

// observe takes the outcome of a call.
func (c *storeCalls) observe(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.asked = now
	if isAnswer(err) {
		if !c.told.IsZero() {
			c.log.Info("etcd answers again", "after", now.Sub(c.since).Round(time.Second))
		}
		c.answered, c.err, c.told = now, nil, time.Time{}
		return
	}
	if c.err == nil {
		c.since = now
	}
	c.err = err
	lasts := c.answered.IsZero() || now.Sub(c.since) >= patience
	if lasts && (c.told.IsZero() || now.Sub(c.told) >= again) {
		c.told = now
		what, cure := c.explain(err)
		c.log.Warn("etcd does not answer", "endpoints", strings.Join(c.access.Endpoints, ","), "err", what, "cure", cure)
	}
}

// answers says whether the last call was answered.
func (c *storeCalls) answers() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.answered.IsZero()
}

// trouble is what is wrong, "" when nothing is, and since when.
func (c *storeCalls) trouble() (what string, since, asked time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		what, _ = c.explain(c.err)
	}
	return what, c.since, c.asked
}

// isAnswer says whether a call reached a store that would serve it. "There is
// no such lease" is an answer, too.
func isAnswer(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.NotFound, codes.OutOfRange, codes.FailedPrecondition:
		return true
	}
	return false
}

// explain puts an error in words that fit on a line, with what mends it.
func (c *storeCalls) explain(err error) (what, cure string) {
	what = err.Error()
	if s, ok := status.FromError(err); ok {
		what = s.Message()
	}
	// What TLS says reaches us as text, inside that of gRPC.
	has := func(s string) bool { return strings.Contains(what, s) }
	switch {
	case errors.Is(rpctypes.Error(err), rpctypes.ErrAuthFailed):
		return fmt.Sprintf("wrong user or password (user %s)", c.access.Username), "give those of etcd's: --etcd-username, --etcd-password; etcdctl user list shows the users"
	case errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty):
		return "it wants a user", "give --etcd-username and --etcd-password"
	case errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied):
		return fmt.Sprintf("user %s may not do that", c.access.Username), "etcdctl role grant-permission ROLE readwrite --prefix=true PREFIX/"
	case has(x509.UnknownAuthorityError{}.Error()):
		return "its certificate is not signed by " + c.authority(), "give the cluster's CA: --etcd-cafile"
	case has("certificate is valid for") || has("doesn't contain any IP SANs"):
		return tail(what, "x509: "), "write the endpoints as the certificate names them"
	case has("certificate has expired"):
		return tail(what, "x509: "), "renew etcd's certificate, or set the clock"
	case has("first record does not look like a TLS handshake"):
		return "it does not encrypt", "write http:// in the endpoints"
	case has("certificate required") || has("bad certificate"):
		return "it wants a certificate of ours", "give one that the cluster's CA signed: --etcd-certfile, --etcd-keyfile"
	case has("error reading server preface"):
		return "it hangs up", "if it encrypts, write https:// in the endpoints, and give --etcd-cafile"
	case !has("dial tcp "):
		return what, "see that a majority of its members runs: etcdctl endpoint health"
	}
	return tail(what, "dial tcp "), "start etcd there, or give the right --etcd-endpoints"
}

func (c *storeCalls) authority() string {
	if c.access.CAFile == "" {
		return "any authority that this machine trusts"
	}
	return c.access.CAFile
}

// tail is s from mark on, without the end of the quotation that it is in.
func tail(s, mark string) string {
	i := strings.LastIndex(s, mark)
	if i < 0 {
		return s
	}
	s, _, _ = strings.Cut(s[i:], `"`)
	return s
}
