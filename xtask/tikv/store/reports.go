package main

import (
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/pdpb"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/pd"
)

// How often every region is reported again. TiKV takes a minute; tests cannot wait for that.
const reportEvery = time.Second

// Tells the placement driver of every region again and again, as TiKV does. The store alone tells of each change once:
// what is lost on a connection that breaks, or refused because it came out of order, would never be known.
type repeated struct {
	pd.Client
	mu      sync.Mutex
	regions map[uint64]*pdpb.RegionHeartbeatRequest
	ended   chan struct{}
}

func repeating(client pd.Client) *repeated {
	r := &repeated{
		Client:  client,
		regions: map[uint64]*pdpb.RegionHeartbeatRequest{},
		ended:   make(chan struct{}),
	}
	go r.run()
	return r
}

// ReportRegion tells of a region's change, now and from now on.
func (r *repeated) ReportRegion(request *pdpb.RegionHeartbeatRequest) {
	r.mu.Lock()
	r.regions[request.GetRegion().GetId()] = request
	r.mu.Unlock()
	r.tell(request)
}

// A copy, since whoever sends it writes a header into it.
func (r *repeated) tell(request *pdpb.RegionHeartbeatRequest) {
	again := *request
	r.Client.ReportRegion(&again)
}

func (r *repeated) run() {
	ticker := time.NewTicker(reportEvery)
	defer ticker.Stop()
	for {
		select {
		case <-r.ended:
			return
		case <-ticker.C:
		}
		r.mu.Lock()
		known := make([]*pdpb.RegionHeartbeatRequest, 0, len(r.regions))
		for _, request := range r.regions {
			known = append(known, request)
		}
		r.mu.Unlock()
		for _, request := range known {
			r.tell(request)
		}
	}
}

// Close ends the reports, then the client.
func (r *repeated) Close() {
	close(r.ended)
	r.Client.Close()
}
