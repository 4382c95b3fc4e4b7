// Sends actions with segmentio/kafka-go: its default deals records out in turns, so the balancer must be set.
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

	"github.com/segmentio/kafka-go"
	"google.golang.org/protobuf/proto"

	"actions/pb"
)

func main() {
	writer := &kafka.Writer{
		Addr:         kafka.TCP(strings.Split(os.Args[1], ",")...),
		Topic:        os.Args[2],
		Balancer:     kafka.Murmur2Balancer{Consistent: true},
		RequiredAcks: kafka.RequireAll,
	}
	defer writer.Close()
	var messages []kafka.Message
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
		messages = append(messages, kafka.Message{Key: []byte(one.RequestId), Value: value, Time: time.UnixMilli(one.TimeMs)})
	}
	if err := writer.WriteMessages(context.Background(), messages...); err != nil {
		log.Fatal(err)
	}
}
