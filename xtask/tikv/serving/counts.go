package serving

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"sync"
	"unicode"

	"google.golang.org/grpc"
)

// Counts says how often each method was called, and of streams how many messages came in.
type Counts struct {
	mu       sync.Mutex
	received map[Call]uint64
}

// Call is a kind of call.
type Call struct {
	// Service is its full name, "pdpb.PD".
	Service string
	// Method is its name there, "GetRegion".
	Method string
	// Kind is "unary", "client_stream", "server_stream" or "bidi_stream".
	Kind string
}

// NewCounts counts from 0.
func NewCounts() *Counts {
	return &Counts{received: make(map[Call]uint64)}
}

// Options have a server count.
func (c *Counts) Options() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.UnaryInterceptor(c.unary), grpc.StreamInterceptor(c.stream)}
}

// Counted as soon as it is there, as PD does. TiKV counts when it has answered.
func (c *Counts) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	c.add(callOf(info.FullMethod, "unary"))
	return handler(ctx, request)
}

func (c *Counts) stream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	call := callOf(info.FullMethod, kindOf(info))
	return handler(server, &countedStream{ServerStream: stream, counts: c, call: call})
}

func (c *Counts) add(call Call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.received[call]++
}

type countedStream struct {
	grpc.ServerStream
	counts *Counts
	call   Call
}

func (s *countedStream) RecvMsg(message any) error {
	err := s.ServerStream.RecvMsg(message)
	if err == nil {
		s.counts.add(s.call)
	}
	return err
}

// "/pdpb.PD/GetRegion".
func callOf(fullMethod, kind string) Call {
	service, method, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	return Call{Service: service, Method: method, Kind: kind}
}

func kindOf(info *grpc.StreamServerInfo) string {
	switch {
	case info.IsClientStream && info.IsServerStream:
		return "bidi_stream"
	case info.IsClientStream:
		return "client_stream"
	default:
		return "server_stream"
	}
}

// Page serves the counts at /metrics, in Prometheus' text: a counter of this name with these labels for each kind of call.
func (c *Counts) Page(name string, labels func(Call) string) http.Handler {
	pages := http.NewServeMux()
	pages.HandleFunc("/metrics", func(answer http.ResponseWriter, _ *http.Request) {
		answer.Header().Set("Content-Type", "text/plain; version=0.0.4")
		// Whoever asks no longer listens: nothing is to be done about that.
		_ = c.write(answer, name, labels)
	})
	return pages
}

func (c *Counts) write(to io.Writer, name string, labels func(Call) string) error {
	c.mu.Lock()
	lines := make([]string, 0, len(c.received))
	for call, count := range c.received {
		lines = append(lines, fmt.Sprintf("%s{%s} %d\n", name, labels(call), count))
	}
	c.mu.Unlock()
	sort.Strings(lines)
	_, err := fmt.Fprintf(to, "# TYPE %s counter\n%s", name, strings.Join(lines, ""))
	return err
}

// Snake is the name of a method as TiKV's metrics have it: kv_prewrite of KvPrewrite, kv_gc of KvGC.
func Snake(method string) string {
	var name strings.Builder
	letters := []rune(method)
	for i, letter := range letters {
		begins := i > 0 && unicode.IsUpper(letter) &&
			(!unicode.IsUpper(letters[i-1]) || i+1 < len(letters) && unicode.IsLower(letters[i+1]))
		if begins {
			name.WriteByte('_')
		}
		name.WriteRune(unicode.ToLower(letter))
	}
	return name.String()
}
