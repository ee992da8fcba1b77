package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"labctl/lab"
)

// FuzzAnswer takes any answer of a supervisor, which may be of another version:
// it is shown, or refused with an error.
func FuzzAnswer(f *testing.F) {
	d := lab.Dir(f.TempDir())
	l, err := net.Listen("unix", d.Socket())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	var answer atomic.Pointer[[]byte]
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			request := make([]byte, 4096)
			_, _ = c.Read(request) // whatever it is
			_, _ = fmt.Fprintf(c, "0 %s\n", *answer.Load())
			c.Close()
		}
	}()
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"error":"no","kind":2,"cure":"try"}`))
	f.Add([]byte(`{"event":{"step":"etcd answers","took":1000}}`))
	f.Add([]byte(`{"event":{"state":"ready"}}`))
	f.Add([]byte(`{"event":{"error":"x","kind":-1}}`))
	f.Add([]byte(`{"event":{"process":"node1","message":"ended"}}`))
	f.Add([]byte(`{"status":{"name":"x","state":"degraded","reasons":["a"],"etcd":null,"timings":{"firstPingMs":3},"processes":[{"name":"etcd","pid":-1,"lastExit":"\u001b"}],
		"nodes":[{"name":"node1","state":"held","subnets":null,"containers":[{"name":"c1"}],"traffic":{},"drift":[{"endpoint":"node1"}],"bgp":{"sessions":[{"peer":"x"}],"unwritten":[{}],"strangers":[{}]}}],
		"routers":[{"name":"r1","bgp":null}],"faults":[{"id":1,"fault":"drop","dropped":2}]}}`))
	f.Add([]byte(`{"plan":{"name":"x","segments":[{}],"routers":[{"nics":[{}]}],"internet":{},"nodes":[{"name":"node1","containers":[{}],"management":{},"agent":true}]}}`))
	f.Add([]byte(`{"faults":[{"id":-1,"fault":"","dropped":null}],"node":{"node":"x","status":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.ReplaceAll(data, []byte("\n"), nil)
		if !json.Valid(data) {
			return
		}
		answer.Store(&data)
		cl := &lab.Client{Dir: d}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, output := range []string{"table", "wide", "json", "yaml"} {
			a := &app{env: env{stdout: io.Discard, stderr: io.Discard}, output: output}
			if st, err := cl.Status(ctx); err == nil {
				err = errors.Join(a.printStatus(st), a.printBGP(st.Speakers(), st.Speakers(), false))
				for _, s := range st.Speakers() {
					err = errors.Join(err, a.printRoutes(s))
				}
				if err != nil {
					t.Errorf("%s of status: %v", output, err)
				}
			}
			if p, err := cl.Plan(ctx); err == nil {
				if err := a.printPlan(p); err != nil {
					t.Errorf("%s of plan: %v", output, err)
				}
			}
			p := a.newProgress()
			err := cl.Watch(ctx, func(e lab.Event) bool { p.event(e); return true })
			if err == nil || ctx.Err() != nil {
				t.Errorf("watch ended with %v, want the supervisor's end", err)
			}
			_ = a.report(err) // that it does not panic
		}
		if r, err := cl.Node(ctx, lab.NodeRequest{Action: lab.NodeAdd, Node: "x"}); err == nil {
			_ = nodeLine(r) // as above
		}
		_, _ = cl.Fault(ctx) // as above
		_, _ = cl.EndpointAddress(ctx, "node1.c1")
	})
}
