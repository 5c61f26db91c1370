package serving

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
)

func TestMethodsAreCalledAsTiKVCallsThem(t *testing.T) {
	for method, expected := range map[string]string{
		"KvPrewrite":       "kv_prewrite",
		"KvBatchGet":       "kv_batch_get",
		"KvCheckTxnStatus": "kv_check_txn_status",
		"KvGC":             "kv_gc",
		"Coprocessor":      "coprocessor",
		"BatchCommands":    "batch_commands",
	} {
		if name := Snake(method); name != expected {
			t.Errorf("%s: %s, expected %s", method, name, expected)
		}
	}
}

type stream struct{ grpc.ServerStream }

func (stream) RecvMsg(any) error { return nil }

func TestCallsAndMessagesOfStreamsAreCounted(t *testing.T) {
	counts := NewCounts()
	answer := func(context.Context, any) (any, error) { return nil, nil }
	for range 2 {
		info := &grpc.UnaryServerInfo{FullMethod: "/tikvpb.Tikv/KvGet"}
		if _, err := counts.unary(context.Background(), nil, info, answer); err != nil {
			t.Fatal(err)
		}
	}
	three := func(_ any, stream grpc.ServerStream) error {
		for range 3 {
			if err := stream.RecvMsg(nil); err != nil {
				return err
			}
		}
		return nil
	}
	info := &grpc.StreamServerInfo{FullMethod: "/pdpb.PD/Tso", IsClientStream: true, IsServerStream: true}
	if err := counts.stream(nil, stream{}, info, three); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	labels := func(call Call) string { return call.Service + " " + call.Method + " " + call.Kind }
	if err := counts.write(&text, "calls", labels); err != nil {
		t.Fatal(err)
	}
	expected := "# TYPE calls counter\ncalls{pdpb.PD Tso bidi_stream} 3\ncalls{tikvpb.Tikv KvGet unary} 2\n"
	if text.String() != expected {
		t.Errorf("%q, expected %q", text.String(), expected)
	}
}
