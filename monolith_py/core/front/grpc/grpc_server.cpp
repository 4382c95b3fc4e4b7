#include "front/grpc/grpc_server.hpp"

#include <grpcpp/health_check_service_interface.h>

#include <chrono>

namespace monolith::front {

namespace {

// Calls that may arrive at the same moment without waiting inside gRPC.
constexpr size_t kAccepting = 64;
constexpr std::chrono::milliseconds kWatchInterval(250);

double seconds_since(GrpcCall::Clock::time_point begin) {
    return std::chrono::duration<double>(GrpcCall::Clock::now() - begin).count();
}

}  // namespace

void GrpcServer::Receiving::add(GrpcCall& call) {
    std::lock_guard lock(mutex_);
    call.before = last_;
    (last_ != nullptr ? last_->after : first_) = &call;
    last_ = &call;
}

void GrpcServer::Receiving::remove(GrpcCall& call) {
    std::lock_guard lock(mutex_);
    (call.before != nullptr ? call.before->after : first_) = call.after;
    (call.after != nullptr ? call.after->before : last_) = call.before;
    call.before = call.after = nullptr;
}

// A call is not deleted before `remove`.
void GrpcServer::Receiving::cancel_before(GrpcCall::Clock::time_point time) {
    std::lock_guard lock(mutex_);
    for (GrpcCall* call = first_; call != nullptr && call->arrived() <= time; call = call->after) call->cancel();
}

GrpcServer::GrpcServer(ServerOptions options, Handler& handler)
    : options_(std::move(options)), method_("/" + options_.service + "/Rank"), handler_(handler) {}

GrpcServer::~GrpcServer() { stop(0); }

bool GrpcServer::start(std::string& error) {
    grpc::EnableDefaultHealthCheckService(true);
    std::shared_ptr<grpc::ServerCredentials> access = grpc::InsecureServerCredentials();
    if (options_.has_tls) access = credentials_ = std::make_shared<ReloadedCredentials>(options_.certificates);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options_.address, access, &port_);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, options_.min_ping_interval_ms);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.SetMaxReceiveMessageSize(static_cast<int>(options_.max_message_bytes));
    builder.RegisterAsyncGenericService(&service_);
    queue_ = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
        error = "cannot listen on " + options_.address;
        queue_->Shutdown();
        return false;
    }
    const bool has_health = options_.health_address.empty() || start_health(error);
    set_serving(false);
    for (size_t i = 0; i < kAccepting; ++i) accept();
    for (size_t i = 0; i < options_.num_threads; ++i) threads_.emplace_back([this] { run(); });
    threads_.emplace_back([this] { watch(); });
    return has_health;
}

bool GrpcServer::start_health(std::string& error) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort(options_.health_address, grpc::InsecureServerCredentials(), &port);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    health_queue_ = builder.AddCompletionQueue();  // gRPC starts no server without one
    health_server_ = builder.BuildAndStart();
    threads_.emplace_back([this] {
        void* tag = nullptr;
        bool ok = false;
        while (health_queue_->Next(&tag, &ok)) {
        }
    });
    if (health_server_ == nullptr) error = "cannot listen on " + options_.health_address;
    return health_server_ != nullptr;
}

void GrpcServer::set_serving(bool is_serving) {
    for (grpc::Server* server : {server_.get(), health_server_.get()})
        if (server != nullptr)
            for (const std::string& name : {std::string(), options_.service})
                server->GetHealthCheckService()->SetServingStatus(name, is_serving);
}

void GrpcServer::begin_drain() {
    for (grpc::Server* server : {server_.get(), health_server_.get()})
        if (server != nullptr) server->GetHealthCheckService()->Shutdown();
}

void GrpcServer::set_certificates(Certificates certificates) {
    if (credentials_ != nullptr) credentials_->set(std::move(certificates));
}

void GrpcServer::stop(double finish_s) {
    if (server_ == nullptr || is_stopped_) return;
    const auto finish = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::duration<double>(finish_s));
    server_->Shutdown(std::chrono::system_clock::now() + finish);
    {
        // Calls in the hands of other threads end by themselves; none may use the queue after its end.
        std::unique_lock lock(ending_);
        ended_.wait(lock, [this] { return num_live_ == 0; });
        is_stopped_ = true;
    }
    ended_.notify_all();
    queue_->Shutdown();
    if (health_server_ != nullptr) health_server_->Shutdown(std::chrono::system_clock::now());
    if (health_queue_ != nullptr) health_queue_->Shutdown();
    for (std::thread& thread : threads_) thread.join();
}

void GrpcServer::watch() {
    std::unique_lock lock(ending_);
    while (!ended_.wait_for(lock, kWatchInterval, [this] { return is_stopped_; })) {
        lock.unlock();
        const auto limit = std::chrono::duration<double>(options_.receive_s);
        receiving_.cancel_before(GrpcCall::Clock::now() - std::chrono::duration_cast<GrpcCall::Clock::duration>(limit));
        lock.lock();
    }
}

void GrpcServer::run() {
    void* tag = nullptr;
    bool ok = false;
    for (;;) {
        GrpcCall* call = take_waiting();
        if (call == nullptr) {
            ++num_idle_;
            if (num_waiting_ > 0) {
                --num_idle_;
                continue;
            }
            const bool is_open = queue_->Next(&tag, &ok);
            --num_idle_;
            if (!is_open) return;
            call = advance(*static_cast<Tag*>(tag), ok);
            if (call == nullptr) continue;
        }
        while (num_idle_ == 0 &&
               queue_->AsyncNext(&tag, &ok, gpr_time_0(GPR_CLOCK_MONOTONIC)) == grpc::CompletionQueue::GOT_EVENT)
            if (GrpcCall* const other = advance(*static_cast<Tag*>(tag), ok)) push_waiting(other);
        handle(*call);
    }
}

GrpcCall* GrpcServer::take_waiting() {
    if (num_waiting_ == 0) return nullptr;
    std::lock_guard lock(mutex_);
    if (waiting_.empty()) return nullptr;
    GrpcCall* const call = waiting_.front();
    waiting_.pop_front();
    num_waiting_ = waiting_.size();
    return call;
}

void GrpcServer::push_waiting(GrpcCall* call) {
    std::lock_guard lock(mutex_);
    waiting_.push_back(call);
    num_waiting_ = waiting_.size();
}

void GrpcServer::accept() {
    ++num_live_;
    new GrpcCall(service_, *queue_);  // deletes itself
}

void GrpcServer::release(GrpcCall& call) {
    if (!call.release()) return;
    if (--num_live_ > 0) return;
    std::lock_guard lock(ending_);
    ended_.notify_all();
}

GrpcCall* GrpcServer::advance(const Tag& tag, bool ok) {
    GrpcCall& call = *tag.call;
    if (tag.is_end) {
        call.gone();
        release(call);
        return nullptr;
    }
    switch (call.stage()) {
        case GrpcCall::Stage::kAccept:
            if (ok) {
                accept();
                return begin(call);
            }
            call.gone();  // the server stops; the end of this call is not reported
            if (!call.release()) release(call);
            return nullptr;
        case GrpcCall::Stage::kRead:
            receiving_.remove(call);
            return received(call, ok);
        default:
            call.finished(ok);
            release(call);
            return nullptr;
    }
}

GrpcCall* GrpcServer::begin(GrpcCall& call) {
    call.begin(options_.default_s, options_.longest_s);
    if (!call.is_authorized(options_.authorizations)) {
        handler_.refused(kUnauthenticated);
        call.refuse(kUnauthenticated, "a call must have metadata authorization: Bearer TOKEN");
    } else if (call.method() != method_) {
        call.refuse(kUnimplemented, "Method not found!");
    } else {
        receiving_.add(call);
        call.read();
    }
    return nullptr;
}

GrpcCall* GrpcServer::received(GrpcCall& call, bool ok) {
    if (!ok) {
        call.refuse(kUnimplemented, "a call must have one message");
        return nullptr;
    }
    if (num_waiting_ >= options_.max_waiting) {
        handler_.refused(kResourceExhausted);
        call.refuse(kResourceExhausted, "at most " + std::to_string(options_.max_waiting) + " requests may wait");
        return nullptr;
    }
    call.place = shedder_.enter(call.left_s());
    if (call.place == 0) {
        handler_.refused(kResourceExhausted);
        const std::string before = std::to_string(shedder_.num_inside());
        call.refuse(kResourceExhausted, "request would end after its deadline: " + before + " are before it");
        return nullptr;
    }
    call.hold_message();
    return &call;
}

void GrpcServer::handle(GrpcCall& call) {
    const size_t place = call.place;
    const GrpcCall::Clock::time_point arrived = call.arrived();
    bool is_ended = true;
    if (call.is_gone()) {
        handler_.refused(kCancelled);
        call.refuse(kCancelled, "the client ended the call");
    } else if (call.left_s() <= 0) {
        handler_.refused(kDeadlineExceeded);
        call.refuse(kDeadlineExceeded, "the deadline passed before the request was ranked");
    } else {
        is_ended = handler_.handle(call);
    }
    shedder_.leave(place, is_ended ? seconds_since(arrived) : 0);
}

}  // namespace monolith::front

extern "C" __attribute__((visibility("default"))) monolith::front::Server* monolith_front_start(
    const monolith::front::ServerOptions& options, monolith::front::Handler& handler, std::string& error) {
    auto server = std::make_unique<monolith::front::GrpcServer>(options, handler);
    return server->start(error) ? server.release() : nullptr;
}
