module actions

go 1.24

require (
	github.com/twmb/franz-go v1.22.3
	google.golang.org/protobuf v1.36.11
)
