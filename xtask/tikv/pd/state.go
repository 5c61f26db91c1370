package main

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"github.com/pingcap/kvproto/pkg/metapb"
)

// Bits of a timestamp below its milliseconds.
const logicalBits = 18

// Timestamps are promised on disk this far ahead, so that a restart never gives one twice.
const timestampWindow = 3 * time.Second

// The service that collects garbage; its safe point never expires, and nothing is collected before it has one.
const gcWorker = "gc_worker"

// What outlives the process.
type kept struct {
	ClusterID    uint64
	Bootstrapped bool
	LastID       uint64
	TimestampMs  int64
	GCSafePoint  uint64
	Services     map[string]serviceSafePoint
	Stores       map[uint64]*metapb.Store
	Regions      map[uint64]*region
}

type region struct {
	Meta   *metapb.Region
	Leader *metapb.Peer
}

// Until then nothing younger than the point may be collected; ExpiresS is in seconds since 1970, 0 for never.
type serviceSafePoint struct {
	SafePoint uint64
	ExpiresS  int64
}

type state struct {
	mu   sync.Mutex
	file string
	kept kept
	// The regions in the order of their keys; made anew when they change.
	ordered   []*region
	physical  int64
	logical   int64
	nowMillis func() int64
}

func openState(folder string) (*state, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	s := &state{
		file:      filepath.Join(folder, "pd.json"),
		nowMillis: func() int64 { return time.Now().UnixMilli() },
	}
	text, err := os.ReadFile(s.file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		var random [8]byte
		if _, err := rand.Read(random[:]); err != nil {
			return nil, err
		}
		// As PD's own: the seconds above, chance below.
		s.kept.ClusterID = uint64(time.Now().Unix())<<32 | uint64(binary.BigEndian.Uint32(random[:4]))
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(text, &s.kept); err != nil {
			return nil, fmt.Errorf("%s: %w", s.file, err)
		}
	}
	if s.kept.Services == nil {
		s.kept.Services = map[string]serviceSafePoint{}
	}
	if s.kept.Stores == nil {
		s.kept.Stores = map[uint64]*metapb.Store{}
	}
	if s.kept.Regions == nil {
		s.kept.Regions = map[uint64]*region{}
	}
	s.physical = s.kept.TimestampMs
	s.order()
	return s, s.save()
}

// The lock is held.
func (s *state) save() error {
	text, err := json.Marshal(&s.kept)
	if err != nil {
		return err
	}
	next := s.file + ".next"
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, s.file)
}

func (s *state) order() {
	s.ordered = s.ordered[:0]
	for _, r := range s.kept.Regions {
		s.ordered = append(s.ordered, r)
	}
	sort.Slice(s.ordered, func(i, j int) bool {
		return bytes.Compare(s.ordered[i].Meta.StartKey, s.ordered[j].Meta.StartKey) < 0
	})
}

// The last of `count` timestamps that nobody else was given.
func (s *state) timestamps(count uint32) (physical, logical int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.nowMillis(); now > s.physical {
		s.physical, s.logical = now, 0
	}
	if s.logical+int64(count) >= 1<<logicalBits {
		s.physical, s.logical = s.physical+1, 0
	}
	s.logical += int64(count)
	if s.physical >= s.kept.TimestampMs {
		s.kept.TimestampMs = s.physical + timestampWindow.Milliseconds()
		if err := s.save(); err != nil {
			return 0, 0, err
		}
	}
	return s.physical, s.logical, nil
}

// The first of `count` new ids.
func (s *state) ids(count uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.kept.LastID + 1
	s.kept.LastID += count
	return first, s.save()
}

// Takes a region as its leader describes it, unless what is known is newer.
//
// A region without a key is left out. The store splits a region whose first entry alone is large at that very entry, again
// and again, and each time tells of an empty part that begins where the whole one does: whoever asked for a key of the
// whole could be told that no region has it.
func (s *state) takeRegion(meta *metapb.Region, leader *metapb.Peer) error {
	if len(meta.EndKey) > 0 && bytes.Compare(meta.StartKey, meta.EndKey) >= 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.kept.Regions[meta.Id]; known != nil {
		if newer(known.Meta, meta) {
			return fmt.Errorf("region %d is known at a newer epoch", meta.Id)
		}
		if !newer(meta, known.Meta) {
			return nil
		}
	}
	var replaced []uint64
	for id, other := range s.kept.Regions {
		if id == meta.Id || !overlap(other.Meta, meta) {
			continue
		}
		if other.Meta.GetRegionEpoch().GetVersion() > meta.GetRegionEpoch().GetVersion() {
			return fmt.Errorf("region %d overlaps the newer region %d", meta.Id, id)
		}
		replaced = append(replaced, id)
	}
	for _, id := range replaced {
		delete(s.kept.Regions, id)
	}
	s.kept.Regions[meta.Id] = &region{Meta: meta, Leader: leader}
	s.order()
	return s.save()
}

func newer(known, told *metapb.Region) bool {
	a, b := known.GetRegionEpoch(), told.GetRegionEpoch()
	return a.GetVersion() > b.GetVersion() || a.GetConfVer() > b.GetConfVer()
}

// An empty end stands above every key.
func overlap(a, b *metapb.Region) bool {
	return (len(b.EndKey) == 0 || bytes.Compare(a.StartKey, b.EndKey) < 0) &&
		(len(a.EndKey) == 0 || bytes.Compare(b.StartKey, a.EndKey) < 0)
}

// The place of the region that holds `key` in the order, or -1. The lock is held.
func (s *state) place(key []byte) int {
	place := sort.Search(len(s.ordered), func(i int) bool {
		return bytes.Compare(s.ordered[i].Meta.StartKey, key) > 0
	}) - 1
	if place < 0 {
		return -1
	}
	if end := s.ordered[place].Meta.EndKey; len(end) > 0 && bytes.Compare(key, end) >= 0 {
		return -1
	}
	return place
}

// Sets or removes (ttl <= 0) a service's safe point and names the service that holds garbage back most. A point
// below the least one is not taken, for what it would protect may be gone.
func (s *state) serviceSafePoint(service string, ttl int64, point uint64) (string, int64, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.nowMillis() / 1000
	if _, there := s.kept.Services[gcWorker]; !there {
		s.kept.Services[gcWorker] = serviceSafePoint{}
	}
	for name, held := range s.kept.Services {
		if held.ExpiresS != 0 && held.ExpiresS <= now {
			delete(s.kept.Services, name)
		}
	}
	least := func() (name string) {
		for other, held := range s.kept.Services {
			if name == "" || held.SafePoint < s.kept.Services[name].SafePoint ||
				held.SafePoint == s.kept.Services[name].SafePoint && other < name {
				name = other
			}
		}
		return name
	}
	if ttl <= 0 {
		if service == gcWorker {
			return "", 0, 0, errors.New("the safe point of gc_worker cannot be removed")
		}
		delete(s.kept.Services, service)
	} else if point >= s.kept.Services[least()].SafePoint {
		held := serviceSafePoint{SafePoint: point, ExpiresS: now + ttl}
		if service == gcWorker || held.ExpiresS < now {
			held.ExpiresS = 0
		}
		s.kept.Services[service] = held
	}
	name := least()
	held := s.kept.Services[name]
	left := held.ExpiresS - now
	if held.ExpiresS == 0 {
		left = 1<<63 - 1
	}
	return name, left, held.SafePoint, s.save()
}

// Raises the point below which old versions may go, and says where it stands.
func (s *state) raiseGCSafePoint(point uint64) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if point <= s.kept.GCSafePoint {
		return s.kept.GCSafePoint, nil
	}
	s.kept.GCSafePoint = point
	return point, s.save()
}
