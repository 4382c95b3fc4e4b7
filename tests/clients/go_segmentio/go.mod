module actions

go 1.24

require (
	github.com/segmentio/kafka-go v0.4.51
	google.golang.org/protobuf v1.36.11
)
