// One call of the gRPC server: bytes in, bytes out.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <string>

#include "front/transport.hpp"

namespace monolith::front {

class GrpcCall;

// Event of the completion queue: the end of the operation under way, or the end of the call.
struct Tag {
    GrpcCall* call;
    bool is_end;
};

// Deleted once both its last operation and the call have ended.
class GrpcCall final : public Call {
  public:
    using Clock = std::chrono::steady_clock;
    enum class Stage { kAccept, kRead, kWatch, kFinish };

    // Wait for a call.
    GrpcCall(grpc::AsyncGenericService& service, grpc::ServerCompletionQueue& queue);

    std::string_view message() const override { return message_; }
    double left_s() const override;
    bool is_gone() const override { return is_gone_; }
    void answer(std::string_view response) override;
    void refuse(Code code, std::string_view details) override;

    Stage stage() const { return stage_; }
    const std::string& method() const { return context_.method(); }
    Clock::time_point arrived() const { return arrived_; }
    // The call is there: note its deadline.
    void begin(double default_s, double longest_s);
    bool is_authorized(const std::vector<std::string>& authorizations) const;
    void read();
    void hold_message();  // after `read`
    // Send one of several messages.
    void write(std::string_view response);
    void cancel() { context_.TryCancel(); }
    void finished(bool is_sent) { is_sent_ = is_sent; }
    void gone() { is_gone_ = true; }
    // An operation has ended; deletes the call after the last one. Return whether it did.
    bool release();

    // State of a watch of health.
    struct Watch {
        bool is_known = false, is_writing = false;
        char status = 0;  // sent last
    };

    Watch watch;
    size_t place = 0;                              // among the calls inside
    GrpcCall *before = nullptr, *after = nullptr;  // in the list of calls whose message has not arrived

  private:
    grpc::GenericServerContext context_;
    grpc::GenericServerAsyncReaderWriter stream_;
    grpc::ByteBuffer buffer_;
    grpc::Slice slice_;
    std::string copy_;  // of a message in several slices
    std::string_view message_;
    Tag operation_{this, false}, end_{this, true};
    std::atomic<Stage> stage_{Stage::kAccept};
    Clock::time_point arrived_, deadline_;
    bool is_sent_ = false;
    std::atomic<bool> is_gone_{false};
    std::atomic<int> num_left_{2};
};

}  // namespace monolith::front
