// A store for tests that speaks TiKV's transactional protocol: TiDB's unistore, on its own, behind one port.
//
// It keeps versions and locks as TiKV does and splits its regions when they grow. What it is not: TiKV. There is one
// store without Raft, raw keys are not served, and a kill may lose what was committed last: locks live in memory until
// the process ends in order.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pingcap/kvproto/pkg/tikvpb"
	"github.com/pingcap/log"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/config"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/pd"
	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/server"
	"google.golang.org/grpc"

	"whimbrel/testtikv/serving"
)

// How long calls under way may take once a signal asks for the end.
const drainTime = time.Second

// TiKV takes requests of this size too; the default of the library, 4 MiB, is less than one raft entry.
const requestBytesMax = 16 << 20

// TiKV counts its calls under this name, so that whoever reads it need not know which of the two it is. TiKV also looks into
// batches of commands, which the client that Whimbrel uses does not send; here one is a call.
const callsMetric = "tikv_grpc_msg_duration_seconds_count"

func callsLabels(call serving.Call) string {
	return fmt.Sprintf("type=%q", serving.Snake(call.Method))
}

func main() {
	options := serving.Flags("127.0.0.1:20160")
	driver := flag.String("pd", "127.0.0.1:2379", "the placement driver's address")
	regionBytes := flag.Int64("region-bytes", 256<<10, "regions split at about one and a half times this; small, so that tests see it")
	syncWrites := flag.Bool("sync", false, "sync every write to the disk")
	logLevel := flag.String("log-level", "error", "debug, info, warn or error, to store.log in the data folder")
	flag.Parse()
	serving.Exit("store", run(options, *driver, *regionBytes, *syncWrites, *logLevel))
}

func run(options *serving.Options, driver string, regionBytes int64, syncWrites bool, logLevel string) error {
	place, err := options.Listen()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(options.Data, "kv"), 0o700); err != nil {
		return err
	}
	logger, properties, err := log.InitLogger(&log.Config{
		Level: logLevel,
		File:  log.FileLogConfig{Filename: filepath.Join(options.Data, "store.log")},
	})
	if err != nil {
		return fmt.Errorf("log level %q: %w", logLevel, err)
	}
	log.ReplaceGlobals(logger, properties)

	settings := config.DefaultConf
	settings.Server.PDAddr = driver
	settings.Server.StoreAddr = place.Advertised
	settings.Server.RegionSize = regionBytes
	settings.Server.Raft = false
	settings.Engine.DBPath = options.Data
	settings.Engine.SyncWrite = syncWrites

	alone, err := pd.NewClient([]string{driver}, "")
	if err != nil {
		return fmt.Errorf("asking the placement driver at %s: %w", driver, err)
	}
	client := repeating(alone)
	store, err := server.New(&settings, client)
	if err != nil {
		return fmt.Errorf("opening the store in %s: %w", options.Data, err)
	}
	counts := serving.NewCounts()
	service := grpc.NewServer(append(counts.Options(), grpc.MaxRecvMsgSize(requestBytesMax))...)
	tikvpb.RegisterTikvServer(service, &corrected{store})
	pages := counts.Page(callsMetric, callsLabels)
	if err := place.Serve(service, pages, "store listening on "+place.Address, drainTime); err != nil {
		return err
	}
	store.Stop()
	client.Close()
	return nil
}
