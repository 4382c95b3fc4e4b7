// The service grpc.health.v1.Health. That of libgrpc++ brings polling threads that take part in every call of the
// server: a quarter of its CPU.
#pragma once

#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "front/grpc/grpc_call.hpp"

namespace monolith::front {

class Health {
  public:
    // `service` and "" are known, NOT_SERVING at first.
    explicit Health(std::string service) : service_(std::move(service)) {}

    void set(bool is_serving);
    // NOT_SERVING for good.
    void begin_drain();
    // End all watches, also later ones.
    void stop();

    void check(GrpcCall& call) const;
    // Send the status now and after each change.
    void watch(GrpcCall& call);
    // A status of a watch was sent, or could not be.
    void written(GrpcCall& call, bool ok);
    // The caller of a watch has left.
    void left(GrpcCall& call);

  private:
    enum Status : char { kServing = 1, kNotServing = 2, kUnknown = 3 };

    bool is_known(std::string_view message) const;
    void go_on(GrpcCall& call);
    void end(GrpcCall& call);

    const std::string service_;
    mutable std::mutex mutex_;
    Status status_ = kNotServing;
    bool is_draining_ = false, is_stopped_ = false;
    std::vector<GrpcCall*> watches_;
};

}  // namespace monolith::front
