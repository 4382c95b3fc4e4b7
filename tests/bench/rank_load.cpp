// Load on a replica: requests in turn, a fixed number in flight. Prints the answered and the failed ones.
//
//     rank_load HOST:PORT REQUESTS IN_FLIGHT SECONDS
//
// REQUESTS is a file of requests, each after its size in 4 bytes.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace {

struct Call {
    grpc::ClientContext context;
    grpc::ByteBuffer response;
    grpc::Status status;
    std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
};

std::vector<grpc::ByteBuffer> read_requests(const char* path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    std::vector<grpc::ByteBuffer> requests;
    for (size_t at = 0; at + 4 <= bytes.size();) {
        uint32_t size = 0;
        std::memcpy(&size, bytes.data() + at, 4);
        const grpc::Slice slice(bytes.data() + at + 4, size);
        requests.emplace_back(&slice, 1);
        at += 4 + size;
    }
    return requests;
}

}  // namespace

int main(int, char** argv) {
    using Clock = std::chrono::steady_clock;
    const std::vector<grpc::ByteBuffer> requests = read_requests(argv[2]);
    const size_t in_flight = std::strtoul(argv[3], nullptr, 10);
    const auto end = Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(std::atof(argv[4])));
    grpc::GenericStub stub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
    grpc::CompletionQueue queue;
    size_t next = 0, answered = 0, failed = 0, left = 0;
    const auto begin = [&] {
        auto* const call = new Call;
        call->context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
        call->reader = stub.PrepareUnaryCall(&call->context, "/monolith.v1.Ranking/Rank", requests[next++ % requests.size()], &queue);
        call->reader->StartCall();
        call->reader->Finish(&call->response, &call->status, call);
        ++left;
    };
    for (size_t i = 0; i < in_flight; ++i) begin();
    void* tag = nullptr;
    bool ok = false;
    while (left > 0 && queue.Next(&tag, &ok)) {
        const std::unique_ptr<Call> call(static_cast<Call*>(tag));
        --left;
        ++(call->status.ok() ? answered : failed);
        if (Clock::now() < end) begin();
    }
    std::printf("%zu %zu\n", answered, failed);
    return 0;
}
