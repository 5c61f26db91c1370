package main

import (
	"bytes"
	"context"
	"math"
	"slices"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/tikv"
)

// What the store alone answers otherwise than TiKV.
type corrected struct {
	*tikv.Server
}

// Says of a missing key that it is missing; the store alone answers with an empty value.
func (s *corrected) KvGet(ctx context.Context, request *kvrpcpb.GetRequest) (*kvrpcpb.GetResponse, error) {
	answer, err := s.Server.KvGet(ctx, request)
	if err == nil && answer.RegionError == nil && answer.Error == nil && len(answer.Value) == 0 {
		answer.NotFound = true
	}
	return answer, err
}

// Scans backwards by scanning forwards and turning the result: the store alone reads the newest versions backwards, whatever
// version was asked for (its iterator is made before the version is set).
func (s *corrected) KvScan(ctx context.Context, request *kvrpcpb.ScanRequest) (*kvrpcpb.ScanResponse, error) {
	if !request.Reverse {
		return s.Server.KvScan(ctx, request)
	}
	forwards := *request
	forwards.Reverse = false
	forwards.StartKey, forwards.EndKey = request.EndKey, request.StartKey
	forwards.Limit = math.MaxInt32
	answer, err := s.Server.KvScan(ctx, &forwards)
	if err != nil {
		return answer, err
	}
	slices.Reverse(answer.Pairs)
	if limit := int(request.Limit); len(answer.Pairs) > limit {
		answer.Pairs = answer.Pairs[:limit]
	}
	return answer, nil
}

// Gives the locks of the range that was asked for; the store alone gives those of the whole region. Who clears one key of
// a dead owner's lock would end every transaction under way beside it.
func (s *corrected) KvScanLock(ctx context.Context, request *kvrpcpb.ScanLockRequest) (*kvrpcpb.ScanLockResponse, error) {
	all := *request
	all.Limit = math.MaxInt32
	answer, err := s.Server.KvScanLock(ctx, &all)
	if err != nil {
		return answer, err
	}
	answer.Locks = slices.DeleteFunc(answer.Locks, func(lock *kvrpcpb.LockInfo) bool {
		before := bytes.Compare(lock.Key, request.StartKey) < 0
		behind := len(request.EndKey) > 0 && bytes.Compare(lock.Key, request.EndKey) >= 0
		return before || behind
	})
	if limit := int(request.Limit); limit > 0 && len(answer.Locks) > limit {
		answer.Locks = answer.Locks[:limit]
	}
	return answer, nil
}
