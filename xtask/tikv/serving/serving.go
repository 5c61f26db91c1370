// Package serving is what both programs do around their gRPC server: say where to listen, listen, tell whoever started
// them, and serve until a signal.
package serving

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// Options are the flags that both programs have.
type Options struct {
	listen    string
	advertise string
	status    string
	// Data is the folder for what is kept.
	Data string
}

// Flags defines the flags, to be parsed by the caller.
func Flags(listen string) *Options {
	options := new(Options)
	flag.StringVar(&options.listen, "listen", listen, "where to listen; port 0 picks a free one")
	flag.StringVar(&options.advertise, "advertise", "", "the address that clients are told, where it is not the one listened on (a proxy's)")
	flag.StringVar(&options.status, "status", "", "where to serve /metrics; port 0 picks a free one; empty: nowhere")
	flag.StringVar(&options.Data, "data", "", "the folder for its data; required")
	return options
}

// Place is where a program listens.
type Place struct {
	listener net.Listener
	// Nil where there are no metrics.
	status net.Listener
	// Address is the one listened on.
	Address string
	// Advertised is the one that clients are told.
	Advertised string
}

// Listen checks the options and takes the port.
func (o *Options) Listen() (*Place, error) {
	if o.Data == "" {
		return nil, errors.New("--data must name a folder")
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", o.listen, err)
	}
	place := &Place{listener: listener, Address: listener.Addr().String(), Advertised: o.advertise}
	if place.Advertised == "" {
		place.Advertised = place.Address
	}
	if o.status != "" {
		if place.status, err = net.Listen("tcp", o.status); err != nil {
			return nil, fmt.Errorf("listening on %s: %w", o.status, err)
		}
	}
	return place, nil
}

// Serve prints that the program is ready, and serves until it is interrupted or told to end. Calls under way may then take
// as long as drain. The pages are for where metrics were asked for.
func (p *Place) Serve(server *grpc.Server, pages http.Handler, ready string, drain time.Duration) error {
	ended := make(chan error, 2)
	go func() { ended <- server.Serve(p.listener) }()
	if p.status != nil {
		go func() { ended <- http.Serve(p.status, pages) }()
		ready += " status " + p.status.Addr().String()
	}
	// The one line on standard output: whoever started this process waits for it.
	fmt.Println(ready)

	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	select {
	case err := <-ended:
		return err
	case <-signals:
	}
	stop := time.AfterFunc(drain, server.Stop)
	server.GracefulStop()
	stop.Stop()
	return nil
}

// Exit ends the program if it failed, and says why.
func Exit(program string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", program, err)
		os.Exit(1)
	}
}
