#include "front/grpc/grpc_call.hpp"

#include <algorithm>
#include <vector>

namespace monolith::front {

namespace {

// gRPC gives a call without a deadline one in the far future.
constexpr double kNoDeadlineS = 86400;

// Constant in time for values of one length.
bool equal(std::string_view given, std::string_view expected) {
    if (given.size() != expected.size()) return false;
    unsigned char difference = 0;
    for (size_t i = 0; i < given.size(); ++i) difference |= static_cast<unsigned char>(given[i] ^ expected[i]);
    return difference == 0;
}

}  // namespace

GrpcCall::GrpcCall(grpc::AsyncGenericService& service, grpc::ServerCompletionQueue& queue) : stream_(&context_) {
    context_.AsyncNotifyWhenDone(&end_);
    service.RequestCall(&context_, &stream_, &queue, &queue, &operation_);
}

void GrpcCall::begin(double default_s, double longest_s) {
    const std::chrono::duration<double> left = context_.deadline() - std::chrono::system_clock::now();
    const double left_s = left.count() > kNoDeadlineS ? default_s : std::min(left.count(), longest_s);
    arrived_ = Clock::now();
    deadline_ = arrived_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(left_s));
}

double GrpcCall::left_s() const { return std::chrono::duration<double>(deadline_ - Clock::now()).count(); }

bool GrpcCall::is_authorized(const std::vector<std::string>& authorizations) const {
    if (authorizations.empty()) return true;
    const auto& metadata = context_.client_metadata();
    // As in Python, the last of several values counts.
    const auto [first, last] = metadata.equal_range("authorization");
    if (first == last) return false;
    const grpc::string_ref value = std::prev(last)->second;
    bool is_known = false;
    for (const std::string& expected : authorizations) is_known |= equal({value.data(), value.size()}, expected);
    return is_known;
}

void GrpcCall::read() {
    stage_ = Stage::kRead;
    stream_.Read(&buffer_, &operation_);
}

void GrpcCall::hold_message() {
    if (buffer_.TrySingleSlice(&slice_).ok()) {
        message_ = {reinterpret_cast<const char*>(slice_.begin()), slice_.size()};
        return;
    }
    std::vector<grpc::Slice> slices;
    if (!buffer_.Dump(&slices).ok()) return;  // an empty message
    copy_.reserve(buffer_.Length());
    for (const grpc::Slice& slice : slices) copy_.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
    message_ = copy_;
}

void GrpcCall::answer(std::string_view response) {
    stage_ = Stage::kFinish;
    const grpc::Slice slice(response.data(), response.size());
    stream_.WriteAndFinish(grpc::ByteBuffer(&slice, 1), grpc::WriteOptions(), grpc::Status::OK, &operation_);
}

void GrpcCall::write(std::string_view response) {
    stage_ = Stage::kWatch;
    const grpc::Slice slice(response.data(), response.size());
    stream_.Write(grpc::ByteBuffer(&slice, 1), &operation_);
}

void GrpcCall::refuse(Code code, std::string_view details) {
    stage_ = Stage::kFinish;
    stream_.Finish(grpc::Status(static_cast<grpc::StatusCode>(code), std::string(details)), &operation_);
}

bool GrpcCall::release() {
    if (num_left_.fetch_sub(1) != 1) return false;
    if (kept != nullptr) kept->ended(is_sent_ && !context_.IsCancelled());
    delete this;
    return true;
}

}  // namespace monolith::front
