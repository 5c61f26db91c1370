package main

import (
	"testing"

	"github.com/pingcap/kvproto/pkg/metapb"
)

func of(id, version uint64, start, end string) *metapb.Region {
	return &metapb.Region{
		Id:          id,
		StartKey:    []byte(start),
		EndKey:      []byte(end),
		RegionEpoch: &metapb.RegionEpoch{ConfVer: 1, Version: version},
		Peers:       []*metapb.Peer{{Id: id + 100, StoreId: 1}},
	}
}

func opened(t *testing.T, regions ...*metapb.Region) *state {
	t.Helper()
	s, err := openState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, region := range regions {
		if err := s.takeRegion(region, region.Peers[0]); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// The id of the region that holds `key`; 0 for none.
func holder(s *state, key string) uint64 {
	place := s.place([]byte(key))
	if place < 0 {
		return 0
	}
	return s.ordered[place].Meta.Id
}

func TestASplitRegionIsFoundByItsParts(t *testing.T) {
	// As the store tells it: the right part keeps the id, the left one begins anew at version 1.
	s := opened(t, of(1, 1, "", ""), of(1, 2, "m", ""), of(2, 1, "", "m"))
	for key, expected := range map[string]uint64{"": 2, "a": 2, "lzz": 2, "m": 1, "z": 1} {
		if id := holder(s, key); id != expected {
			t.Errorf("%q is in region %d, expected %d", key, id, expected)
		}
	}
}

func TestWhatIsOlderChangesNothing(t *testing.T) {
	s := opened(t, of(1, 1, "", ""), of(1, 2, "m", ""), of(2, 1, "", "m"))
	if err := s.takeRegion(of(1, 1, "", ""), nil); err == nil {
		t.Error("a region at an older epoch was taken")
	}
	if err := s.takeRegion(of(3, 1, "", ""), nil); err == nil {
		t.Error("a region was taken that overlaps a newer one")
	}
	if id := holder(s, "a"); id != 2 {
		t.Errorf("\"a\" is in region %d, expected 2", id)
	}
}

func TestAnEmptyPartHidesNoRegion(t *testing.T) {
	regions := []*metapb.Region{of(1, 1, "", ""), of(1, 2, "m", ""), of(2, 1, "", "m")}
	// Ten splits at the first entry of the right part.
	for nth := range uint64(10) {
		regions = append(regions, of(1, 3+nth, "m", ""), of(10+nth, 1, "m", "m"))
	}
	s := opened(t, regions...)
	for _, key := range []string{"m", "n", "z"} {
		if id := holder(s, key); id != 1 {
			t.Errorf("%q is in region %d, expected 1", key, id)
		}
	}
	if count := len(s.ordered); count != 2 {
		t.Errorf("%d regions are known, expected 2", count)
	}
}
