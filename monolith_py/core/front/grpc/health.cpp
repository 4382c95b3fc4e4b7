#include "front/grpc/health.hpp"

#include <algorithm>

namespace monolith::front {

namespace {

// Bytes of grpc.health.v1.HealthCheckResponse.
std::string response_of(char status) { return {'\x08', status}; }

}  // namespace

// Whether the bytes of a grpc.health.v1.HealthCheckRequest name a known service.
bool Health::is_known(std::string_view message) const {
    if (message.empty()) return true;
    if (message.size() < 2 || message[0] != '\x0a' || message[1] < 0) return false;
    const std::string_view name = message.substr(2);
    return name.size() == static_cast<size_t>(message[1]) && (name.empty() || name == service_);
}

void Health::set(bool is_serving) {
    std::lock_guard lock(mutex_);
    if (is_draining_) return;
    status_ = is_serving ? kServing : kNotServing;
    for (GrpcCall* const call : std::vector(watches_)) go_on(*call);
}

void Health::begin_drain() {
    set(false);
    std::lock_guard lock(mutex_);
    is_draining_ = true;
}

void Health::stop() {
    std::lock_guard lock(mutex_);
    is_stopped_ = true;
    for (GrpcCall* const call : std::vector(watches_)) go_on(*call);
}

void Health::check(GrpcCall& call) const {
    std::lock_guard lock(mutex_);
    if (is_known(call.message())) {
        call.answer(response_of(status_));
    } else {
        call.refuse(kNotFound, "service must be one of the server");
    }
}

void Health::watch(GrpcCall& call) {
    std::lock_guard lock(mutex_);
    call.watch.is_known = is_known(call.message());
    watches_.push_back(&call);
    go_on(call);
}

void Health::written(GrpcCall& call, bool ok) {
    std::lock_guard lock(mutex_);
    call.watch.is_writing = false;
    if (!ok) return end(call);
    go_on(call);
}

void Health::left(GrpcCall& call) {
    std::lock_guard lock(mutex_);
    if (std::find(watches_.begin(), watches_.end(), &call) != watches_.end()) go_on(call);
}

// Send the status if it has changed; end a watch that nobody reads.
void Health::go_on(GrpcCall& call) {
    if (call.watch.is_writing) return;
    if (call.is_gone() || is_stopped_) return end(call);
    const char status = call.watch.is_known ? status_ : kUnknown;
    if (call.watch.status == status) return;
    call.watch.status = status;
    call.watch.is_writing = true;
    call.write(response_of(status));
}

void Health::end(GrpcCall& call) {
    watches_.erase(std::find(watches_.begin(), watches_.end(), &call));
    call.refuse(kUnavailable, "the server stops");
}

}  // namespace monolith::front
