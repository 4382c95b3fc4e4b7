// Sends actions with franz-go: its default partitioner is Kafka's murmur2 of the key.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"log"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"actions/pb"
)

func main() {
	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(os.Args[1], ",")...), kgo.DefaultProduceTopic(os.Args[2]))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var one struct {
			RequestId string  `json:"request_id"`
			ItemId    string  `json:"item_id"`
			Kind      string  `json:"kind"`
			TimeMs    int64   `json:"time_ms"`
			Value     float32 `json:"value"`
		}
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			log.Fatal(err)
		}
		itemId, _ := strconv.ParseInt(one.ItemId, 10, 64)
		value, err := proto.Marshal(&pb.Action{
			RequestId: one.RequestId, ItemId: itemId, Kind: one.Kind, TimeMs: one.TimeMs, Value: &one.Value,
		})
		if err != nil {
			log.Fatal(err)
		}
		record := &kgo.Record{Key: []byte(one.RequestId), Value: value, Timestamp: time.UnixMilli(one.TimeMs)}
		if err := client.ProduceSync(context.Background(), record).FirstErr(); err != nil {
			log.Fatal(err)
		}
	}
}
