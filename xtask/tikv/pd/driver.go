package main

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/pingcap/kvproto/pkg/metapb"
	"github.com/pingcap/kvproto/pkg/pdpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The gRPC service over a state. What is not here answers "unimplemented", by the embedded server.
type driver struct {
	pdpb.UnimplementedPDServer
	state *state
	url   string
	ways  ways
}

const memberID = 1

func (d *driver) header() *pdpb.ResponseHeader {
	return &pdpb.ResponseHeader{ClusterId: d.state.kept.ClusterID}
}

func (d *driver) failed(kind pdpb.ErrorType, message string) *pdpb.ResponseHeader {
	return &pdpb.ResponseHeader{
		ClusterId: d.state.kept.ClusterID,
		Error:     &pdpb.Error{Type: kind, Message: message},
	}
}

// Everything but the question for members is for one cluster only.
func (d *driver) check(header *pdpb.RequestHeader) error {
	if id := header.GetClusterId(); id != d.state.kept.ClusterID {
		return status.Errorf(codes.FailedPrecondition, "mismatch cluster id, need %d but got %d", d.state.kept.ClusterID, id)
	}
	return nil
}

func internal(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codes.Internal, err.Error())
}

func (d *driver) GetMembers(ctx context.Context, _ *pdpb.GetMembersRequest) (*pdpb.GetMembersResponse, error) {
	dialled, _, err := d.ways.of(ctx)
	if err != nil {
		return nil, internal(err)
	}
	url := d.url
	if dialled != "" {
		url = "http://" + dialled
	}
	member := &pdpb.Member{Name: "pd", MemberId: memberID, PeerUrls: []string{d.url}, ClientUrls: []string{url}}
	return &pdpb.GetMembersResponse{
		Header:     d.header(),
		Members:    []*pdpb.Member{member},
		Leader:     member,
		EtcdLeader: member,
	}, nil
}

func (d *driver) Tso(stream pdpb.PD_TsoServer) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := d.check(request.GetHeader()); err != nil {
			return err
		}
		count := request.GetCount()
		if count == 0 {
			return status.Error(codes.InvalidArgument, "no timestamp was asked for")
		}
		physical, logical, err := d.state.timestamps(count)
		if err != nil {
			return internal(err)
		}
		answer := &pdpb.TsoResponse{
			Header:    d.header(),
			Count:     count,
			Timestamp: &pdpb.Timestamp{Physical: physical, Logical: logical},
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

func (d *driver) Bootstrap(_ context.Context, r *pdpb.BootstrapRequest) (*pdpb.BootstrapResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	done := d.state.kept.Bootstrapped
	if !done {
		d.state.kept.Bootstrapped = true
		d.state.kept.Stores[r.Store.Id] = r.Store
	}
	d.state.mu.Unlock()
	if done {
		return &pdpb.BootstrapResponse{
			Header: d.failed(pdpb.ErrorType_ALREADY_BOOTSTRAPPED, "the cluster is bootstrapped already"),
		}, nil
	}
	leader := r.Region.Peers[0]
	return &pdpb.BootstrapResponse{Header: d.header()}, internal(d.state.takeRegion(r.Region, leader))
}

func (d *driver) IsBootstrapped(_ context.Context, r *pdpb.IsBootstrappedRequest) (*pdpb.IsBootstrappedResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	return &pdpb.IsBootstrappedResponse{Header: d.header(), Bootstrapped: d.state.kept.Bootstrapped}, nil
}

func (d *driver) AllocID(_ context.Context, r *pdpb.AllocIDRequest) (*pdpb.AllocIDResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	id, err := d.state.ids(1)
	return &pdpb.AllocIDResponse{Header: d.header(), Id: id}, internal(err)
}

func (d *driver) GetStore(ctx context.Context, r *pdpb.GetStoreRequest) (*pdpb.GetStoreResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	store := d.state.kept.Stores[r.GetStoreId()]
	if store == nil {
		return &pdpb.GetStoreResponse{Header: d.failed(pdpb.ErrorType_UNKNOWN, "invalid store ID")}, nil
	}
	store, err := d.ways.reaching(ctx, store)
	return &pdpb.GetStoreResponse{Header: d.header(), Store: store, Stats: &pdpb.StoreStats{}}, internal(err)
}

func (d *driver) PutStore(_ context.Context, r *pdpb.PutStoreRequest) (*pdpb.PutStoreResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	d.state.kept.Stores[r.Store.Id] = r.Store
	return &pdpb.PutStoreResponse{Header: d.header()}, internal(d.state.save())
}

func (d *driver) GetAllStores(ctx context.Context, r *pdpb.GetAllStoresRequest) (*pdpb.GetAllStoresResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	answer := &pdpb.GetAllStoresResponse{Header: d.header()}
	for _, store := range d.state.kept.Stores {
		store, err := d.ways.reaching(ctx, store)
		if err != nil {
			return nil, internal(err)
		}
		answer.Stores = append(answer.Stores, store)
	}
	slices.SortFunc(answer.Stores, func(a, b *metapb.Store) int { return int(a.Id) - int(b.Id) })
	return answer, nil
}

func (d *driver) StoreHeartbeat(_ context.Context, r *pdpb.StoreHeartbeatRequest) (*pdpb.StoreHeartbeatResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	return &pdpb.StoreHeartbeatResponse{Header: d.header()}, nil
}

func (d *driver) RegionHeartbeat(stream pdpb.PD_RegionHeartbeatServer) error {
	for {
		request, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := d.check(request.GetHeader()); err != nil {
			return err
		}
		answer := &pdpb.RegionHeartbeatResponse{
			Header:      d.header(),
			RegionId:    request.GetRegion().GetId(),
			RegionEpoch: request.GetRegion().GetRegionEpoch(),
			TargetPeer:  request.GetLeader(),
		}
		if err := d.state.takeRegion(request.GetRegion(), request.GetLeader()); err != nil {
			answer.Header = d.failed(pdpb.ErrorType_UNKNOWN, err.Error())
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// The answer for the region at `place` of the order; the lock is held. No region is no error, as in PD.
func (d *driver) regionAt(place int) *pdpb.GetRegionResponse {
	answer := &pdpb.GetRegionResponse{Header: d.header()}
	if place >= 0 {
		answer.Region, answer.Leader = d.state.ordered[place].Meta, d.state.ordered[place].Leader
	}
	return answer
}

func (d *driver) GetRegion(_ context.Context, r *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	return d.regionAt(d.state.place(r.GetRegionKey())), nil
}

func (d *driver) GetPrevRegion(_ context.Context, r *pdpb.GetRegionRequest) (*pdpb.GetRegionResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	return d.regionAt(d.state.place(r.GetRegionKey()) - 1), nil
}

func (d *driver) GetRegionByID(_ context.Context, r *pdpb.GetRegionByIDRequest) (*pdpb.GetRegionResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	answer := &pdpb.GetRegionResponse{Header: d.header()}
	if known := d.state.kept.Regions[r.GetRegionId()]; known != nil {
		answer.Region, answer.Leader = known.Meta, known.Leader
	}
	return answer, nil
}

func (d *driver) ScanRegions(_ context.Context, r *pdpb.ScanRegionsRequest) (*pdpb.ScanRegionsResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	asked := &metapb.Region{StartKey: r.GetStartKey(), EndKey: r.GetEndKey()}
	answer := &pdpb.ScanRegionsResponse{Header: d.header()}
	for _, known := range d.state.ordered {
		if r.GetLimit() > 0 && len(answer.Regions) == int(r.GetLimit()) {
			break
		}
		if !overlap(known.Meta, asked) {
			continue
		}
		answer.RegionMetas = append(answer.RegionMetas, known.Meta)
		answer.Leaders = append(answer.Leaders, known.Leader)
		answer.Regions = append(answer.Regions, &pdpb.Region{Region: known.Meta, Leader: known.Leader})
	}
	return answer, nil
}

func (d *driver) AskBatchSplit(_ context.Context, r *pdpb.AskBatchSplitRequest) (*pdpb.AskBatchSplitResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	answer := &pdpb.AskBatchSplitResponse{Header: d.header()}
	for range r.GetSplitCount() {
		peers := uint64(len(r.GetRegion().GetPeers()))
		first, err := d.state.ids(1 + peers)
		if err != nil {
			return nil, internal(err)
		}
		split := &pdpb.SplitID{NewRegionId: first}
		for peer := range peers {
			split.NewPeerIds = append(split.NewPeerIds, first+1+peer)
		}
		answer.Ids = append(answer.Ids, split)
	}
	return answer, nil
}

func (d *driver) ReportBatchSplit(_ context.Context, r *pdpb.ReportBatchSplitRequest) (*pdpb.ReportBatchSplitResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	return &pdpb.ReportBatchSplitResponse{Header: d.header()}, nil
}

func (d *driver) GetClusterConfig(_ context.Context, r *pdpb.GetClusterConfigRequest) (*pdpb.GetClusterConfigResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	return &pdpb.GetClusterConfigResponse{
		Header:  d.header(),
		Cluster: &metapb.Cluster{Id: d.state.kept.ClusterID, MaxPeerCount: 1},
	}, nil
}

func (d *driver) GetGCSafePoint(_ context.Context, r *pdpb.GetGCSafePointRequest) (*pdpb.GetGCSafePointResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	d.state.mu.Lock()
	defer d.state.mu.Unlock()
	return &pdpb.GetGCSafePointResponse{Header: d.header(), SafePoint: d.state.kept.GCSafePoint}, nil
}

func (d *driver) UpdateGCSafePoint(_ context.Context, r *pdpb.UpdateGCSafePointRequest) (*pdpb.UpdateGCSafePointResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	point, err := d.state.raiseGCSafePoint(r.GetSafePoint())
	return &pdpb.UpdateGCSafePointResponse{Header: d.header(), NewSafePoint: point}, internal(err)
}

func (d *driver) UpdateServiceGCSafePoint(_ context.Context, r *pdpb.UpdateServiceGCSafePointRequest) (*pdpb.UpdateServiceGCSafePointResponse, error) {
	if err := d.check(r.GetHeader()); err != nil {
		return nil, err
	}
	name, left, least, err := d.state.serviceSafePoint(string(r.GetServiceId()), r.GetTTL(), r.GetSafePoint())
	if err != nil {
		return nil, internal(err)
	}
	return &pdpb.UpdateServiceGCSafePointResponse{
		Header:       d.header(),
		ServiceId:    []byte(name),
		TTL:          left,
		MinSafePoint: least,
	}, nil
}
