// A placement driver for tests: the part of PD's gRPC protocol that a store without Raft and its clients speak.
//
// It hands out timestamps, ids and safe points, and knows stores and regions. What it is not: PD. There is one member
// and no election, no scheduling, no etcd, no HTTP API. Its state is a file in its data folder, so that it can be
// killed and started again without the store noticing more than an outage.
package main

import (
	"flag"
	"fmt"
	"time"

	"github.com/pingcap/kvproto/pkg/pdpb"
	"google.golang.org/grpc"

	"whimbrel/testtikv/serving"
)

// How long calls under way may take once a signal asks for the end: streams of timestamps never end by themselves.
const drainTime = 200 * time.Millisecond

// PD counts its calls, and the messages of streams, under this name: its gRPC server is etcd's.
const callsMetric = "grpc_server_msg_received_total"

func callsLabels(call serving.Call) string {
	return fmt.Sprintf("grpc_method=%q,grpc_service=%q,grpc_type=%q", call.Method, call.Service, call.Kind)
}

func main() {
	options := serving.Flags("127.0.0.1:2379")
	waysFile := flag.String("ways", "", "a file of ways to the store: see ways.go; it may be written later")
	flag.Parse()
	serving.Exit("pd", run(options, ways{file: *waysFile}))
}

func run(options *serving.Options, ways ways) error {
	place, err := options.Listen()
	if err != nil {
		return err
	}
	state, err := openState(options.Data)
	if err != nil {
		return err
	}
	counts := serving.NewCounts()
	server := grpc.NewServer(counts.Options()...)
	pdpb.RegisterPDServer(server, &driver{state: state, url: "http://" + place.Advertised, ways: ways})
	ready := fmt.Sprintf("pd listening on %s cluster %d", place.Address, state.kept.ClusterID)
	return place.Serve(server, counts.Page(callsMetric, callsLabels), ready, drainTime)
}
