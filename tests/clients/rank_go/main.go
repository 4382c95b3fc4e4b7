// Ranks candidates with plain gRPC: TLS, a token, a deadline, tries, pings, several replicas in turn.
//
//	RANK_TOKEN=... rank dns:///replicas.example:50051 ca.pem
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/health" // lets the balancer pass over replicas that are NOT_SERVING
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"rank/pb"
)

// A call under one request id may be tried again: it makes one impression.
const policy = `{
	"loadBalancingConfig": [{"round_robin": {}}],
	"healthCheckConfig": {"serviceName": "monolith.v1.Ranking"},
	"methodConfig": [{"name": [{}], "retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "0.02s", "maxBackoff": "0.5s", "backoffMultiplier": 3,
		"retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"]}}],
	"retryThrottling": {"maxTokens": 100, "tokenRatio": 1.0}
}`

func main() {
	tls, err := credentials.NewClientTLSFromFile(os.Args[2], "")
	if err != nil {
		log.Fatal(err)
	}
	connection, err := grpc.NewClient(os.Args[1],
		grpc.WithTransportCredentials(tls),
		grpc.WithDefaultServiceConfig(policy),
		// The server allows one ping in 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("RANK_TOKEN"))
	answer, err := pb.NewRankingClient(connection).Rank(ctx, &pb.RankRequest{
		RequestId: "from-go",
		UserId:    -7,
		ItemIds:   []int64{11, 9223372036854775807, -9223372036854775808},
		Context:   &pb.FeatureColumns{Sparse: []*pb.SparseColumn{{Name: "tab", Fids: []int64{5, 6}, Lengths: []uint32{2}}}},
		CandidateFeatures: &pb.FeatureColumns{
			Sparse: []*pb.SparseColumn{{Name: "position", Fids: []int64{0, 1, 2}}},
			Dense:  []*pb.DenseColumn{{Name: "price", Values: []float32{0.5, 1.5, 2.5}}},
		},
		TopK:           2,
		RankBy:         "click",
		ReturnFeatures: []string{"tags"},
	})
	if err != nil {
		log.Fatal(err)
	}
	features := map[string][]int64{}
	for _, column := range answer.CandidateFeatures.GetSparse() {
		features[column.Name] = column.Fids
	}
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"request_id": answer.RequestId, "candidates": answer.Candidates, "scores": answer.Scores, "task_names": answer.TaskNames,
		"model_version": answer.ModelVersion, "features": features,
	})
}
