// A placement driver for tests: the part of PD's gRPC protocol that a store without Raft and its clients speak.
//
// It hands out timestamps, ids and safe points, and knows stores and regions. What it is not: PD. There is one member
// and no election, no scheduling, no etcd, no HTTP API. Its state is a file in its data folder, so that it can be
// killed and started again without the store noticing more than an outage.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pingcap/kvproto/pkg/pdpb"
	"google.golang.org/grpc"
)

// How long calls under way may take once a signal asks for the end: streams of timestamps never end by themselves.
const drainTime = 200 * time.Millisecond

func main() {
	listen := flag.String("listen", "127.0.0.1:2379", "where to listen; port 0 picks a free one")
	advertise := flag.String("advertise", "", "the address that clients are told, where it is not the one listened on (a proxy's)")
	data := flag.String("data", "", "the folder for its state; required")
	flag.Parse()
	if err := run(*listen, *advertise, *data); err != nil {
		fmt.Fprintf(os.Stderr, "pd: %v\n", err)
		os.Exit(1)
	}
}

func run(listen, advertise, data string) error {
	if data == "" {
		return errors.New("--data must name a folder")
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", listen, err)
	}
	address := listener.Addr().String()
	if advertise == "" {
		advertise = address
	}
	state, err := openState(data)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	pdpb.RegisterPDServer(server, &driver{state: state, url: "http://" + advertise})
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	// The one line on standard output: whoever started this process waits for it.
	fmt.Printf("pd listening on %s cluster %d\n", address, state.kept.ClusterID)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-signals:
	}
	stop := time.AfterFunc(drainTime, server.Stop)
	server.GracefulStop()
	stop.Stop()
	return nil
}
