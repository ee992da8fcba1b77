package backends

import (
	"fmt"
	"runtime"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
)

// An answer in several frames is read whole, and takes about as much memory as
// it is long, not the next size of gRPC's buffers, a megabyte.
func TestFrugal(t *testing.T) { // not parallel: what others do at once would be counted
	c := newFrugal()
	const keys = 400
	sent := &etcdserverpb.RangeResponse{Count: keys}
	for i := range keys {
		sent.Kvs = append(sent.Kvs, &mvccpb.KeyValue{Key: fmt.Appendf(nil, "key %d", i), Value: make([]byte, 100)})
	}
	whole, err := c.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	b := whole.Materialize()
	if len(b) < 40_000 {
		t.Fatalf("the answer is of %d bytes", len(b))
	}
	frames := mem.BufferSlice{mem.SliceBuffer(b[:16<<10]), mem.SliceBuffer(b[16<<10 : 32<<10]), mem.SliceBuffer(b[32<<10:])}
	// Twice, and gRPC's pool is empty, as it is where an answer is read that
	// nothing like it has come before.
	runtime.GC()
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var got etcdserverpb.RangeResponse
	err = c.Unmarshal(frames, &got)
	runtime.ReadMemStats(&after)
	if err != nil || len(got.Kvs) != keys || string(got.Kvs[keys-1].Key) != fmt.Sprintf("key %d", keys-1) {
		t.Fatalf("Unmarshal: %v, %d keys", err, len(got.Kvs))
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 8*uint64(len(b)) {
		t.Errorf("reading an answer of %d bytes takes %d of memory", len(b), n)
	}
}
