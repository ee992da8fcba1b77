package backends

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec below
	"google.golang.org/grpc/mem"
)

// frugal is gRPC's protobuf codec, but for messages that come in several
// frames. Those gRPC puts together in a buffer of its pool, whose sizes go from
// 32 KB to 1 MB: a list of two hundred leases costs every agent a megabyte,
// most of it for nothing, which the pool keeps for a while.
type frugal struct{ encoding.CodecV2 }

func newFrugal() frugal { return frugal{encoding.GetCodecV2("proto")} }

func (f frugal) Unmarshal(data mem.BufferSlice, v any) error {
	if len(data) > 1 {
		data = mem.BufferSlice{mem.SliceBuffer(data.Materialize())}
	}
	return f.CodecV2.Unmarshal(data, v)
}
