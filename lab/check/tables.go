package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"labctl/lab"
)

// run runs a tool in an endpoint and returns its standard output.
func (r *Runner) run(ctx context.Context, endpoint string, argv ...string) (string, error) {
	stdout, stderr, exit, err := r.client.Output(ctx, endpoint, argv...)
	switch {
	case err != nil:
		return "", err
	case exit.Code == 127 && exit.Error != "":
		return "", &unableError{exit.Error + "; it is not installed here"}
	case exit.Error != "":
		return "", errors.New(exit.Error)
	case exit.Code != 0:
		return "", fmt.Errorf("%s: exit status %d: %s", argv[0], exit.Code, strings.TrimSpace(string(stderr)))
	}
	return string(stdout), nil
}

// capturing is tcpdump as a word of a command or of a shell's script.
var capturing = regexp.MustCompile(`\btcpdump\b`)

func (r *Runner) command(ctx context.Context, c lab.CommandCheck) (string, error) {
	expected := "exit status 0"
	if r.status.Rootless && slices.ContainsFunc(c.Run, capturing.MatchString) {
		return expected, &unableError{"in a user namespace tcpdump cannot change to its own user and gives up; root's labs can"}
	}
	argv := make([]string, len(c.Run))
	for i, a := range c.Run {
		var err error
		if argv[i], err = lab.Expand(a, r.value); err != nil {
			return expected, err
		}
	}
	out, err := r.run(ctx, c.In, argv...)
	if err != nil {
		return expected, err
	}
	return r.match(out, c.Match, c.Not)
}

// match holds a text against an expression that it must have and one that it
// must not.
func (r *Runner) match(text, match, not string) (string, error) {
	var expected []string
	re, err := lab.ExpandRegexp(match, r.value)
	if err != nil {
		return match, err
	}
	if match != "" {
		expected = append(expected, "a match of "+expression(re))
	}
	bad, err := lab.ExpandRegexp(not, r.value)
	if err != nil {
		return not, err
	}
	if not != "" {
		expected = append(expected, "no match of "+expression(bad))
	}
	want := strings.Join(expected, " and ")
	if !re.MatchString(text) || not != "" && bad.MatchString(text) {
		return want, &failure{want, fmt.Sprintf("%q", text)}
	}
	return want, nil
}

// expression is what the lab file has: that ^ and $ match at line ends is
// added to all.
func expression(re *regexp.Regexp) string { return strings.TrimPrefix(re.String(), "(?m)") }

func (r *Runner) count(ctx context.Context, c lab.CountCheck) (string, error) {
	var expected, found []string
	ok := true
	for _, t := range []struct {
		what string
		want *int
		argv []string
	}{
		{"routes", c.Routes, []string{"ip", "-j", "route", "show", "dev", c.Dev}},
		{"neighbours", c.Neighbours, []string{"ip", "-j", "neigh", "show", "dev", c.Dev}},
		{"fdb entries", c.FDB, []string{"bridge", "-j", "fdb", "show", "dev", c.Dev}},
	} {
		if t.want == nil {
			continue
		}
		out, err := r.run(ctx, c.In, t.argv...)
		if err != nil {
			return t.what, err
		}
		var entries []json.RawMessage
		// iproute2 prints nothing at all, not [], for an empty table.
		if strings.TrimSpace(out) != "" {
			if err := json.Unmarshal([]byte(out), &entries); err != nil {
				return t.what, fmt.Errorf("%s: %w", strings.Join(t.argv, " "), err)
			}
		}
		expected = append(expected, fmt.Sprintf("%d %s", *t.want, t.what))
		found = append(found, fmt.Sprintf("%d %s", len(entries), t.what))
		ok = ok && len(entries) == *t.want
	}
	want := strings.Join(expected, ", ")
	if !ok {
		return want, &failure{want, strings.Join(found, ", ")}
	}
	return want, nil
}

// store reads etcd over its unix socket.
func (r *Runner) store(ctx context.Context, c lab.StoreCheck) (string, error) {
	expected := "keys under " + c.Prefix
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + r.client.Dir.EtcdSocket()}, Logger: zap.NewNop(), Context: ctx})
	if err != nil {
		return expected, err
	}
	defer cl.Close()
	prefix, err := lab.Expand(c.Prefix, r.value)
	if err != nil {
		return expected, err
	}
	resp, err := cl.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return expected, err
	}
	var lines strings.Builder
	for _, kv := range resp.Kvs {
		fmt.Fprintf(&lines, "%s %s\n", kv.Key, kv.Value)
	}
	if c.Keys != nil && len(resp.Kvs) != *c.Keys {
		return expected, &failure{fmt.Sprintf("%d keys", *c.Keys), fmt.Sprintf("%d: %q", len(resp.Kvs), lines.String())}
	}
	return r.match(lines.String(), c.Match, c.Not)
}
