#include "front/grpc/grpc_server.hpp"

#include <absl/synchronization/mutex.h>

#include <chrono>
#include <limits>

namespace monolith::front {

namespace {

// Calls that may arrive at the same moment without waiting inside gRPC.
constexpr size_t kAccepting = 64;
// Times between two looks of the watching thread, while all threads are busy and else.
constexpr std::chrono::milliseconds kBusyInterval(2), kIdleInterval(10);
constexpr std::string_view kHealth = "/grpc.health.v1.Health/";

double seconds_since(GrpcCall::Clock::time_point begin) {
    return std::chrono::duration<double>(GrpcCall::Clock::now() - begin).count();
}

}  // namespace

bool GrpcServer::Receiving::add(GrpcCall& call) {
    std::lock_guard lock(mutex_);
    if (num_calls_ >= limit_) return false;
    ++num_calls_;
    call.before = last_;
    (last_ != nullptr ? last_->after : first_) = &call;
    last_ = &call;
    return true;
}

void GrpcServer::Receiving::remove(GrpcCall& call) {
    std::lock_guard lock(mutex_);
    --num_calls_;
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
    : options_(std::move(options)),
      method_("/" + options_.service + "/Rank"),
      handler_(handler),
      health_(options_.service),
      receiving_(options_.max_waiting),
      probing_(std::numeric_limits<size_t>::max()) {}

GrpcServer::~GrpcServer() { stop(0); }

bool GrpcServer::start(std::string& error) {
    // Debian builds Abseil with its search for deadlocks, which costs a tenth of gRPC's own time.
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    std::shared_ptr<grpc::ServerCredentials> access = grpc::InsecureServerCredentials();
    if (options_.has_tls) access = credentials_ = std::make_shared<ReloadedCredentials>(options_.certificates);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(options_.address, access, &port_);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, options_.min_ping_interval_ms);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.SetMaxReceiveMessageSize(static_cast<int>(options_.max_message_bytes));
    // gRPC 1.51 inflates a compressed message whole, up to a thousandfold, before it looks at its size.
    for (const grpc_compression_algorithm algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP})
        builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
    builder.RegisterAsyncGenericService(&service_);
    queue_ = builder.AddCompletionQueue();
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
        error = "cannot listen on " + options_.address;
        queue_->Shutdown();
        return false;
    }
    for (size_t i = 0; i < kAccepting; ++i) accept();
    for (size_t i = 0; i < options_.num_threads; ++i) threads_.emplace_back([this] { run(); });
    threads_.emplace_back([this] { watch(); });
    return true;
}

void GrpcServer::set_serving(bool is_serving) { health_.set(is_serving); }

void GrpcServer::begin_drain() { health_.begin_drain(); }

void GrpcServer::set_certificates(Certificates certificates) {
    if (credentials_ != nullptr) credentials_->set(std::move(certificates));
}

void GrpcServer::stop(double finish_s) {
    if (server_ == nullptr || is_stopped_) return;
    health_.stop();
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
    for (std::thread& thread : threads_) thread.join();
}

void GrpcServer::watch() {
    const auto limit =
        std::chrono::duration_cast<GrpcCall::Clock::duration>(std::chrono::duration<double>(options_.receive_s));
    std::unique_lock lock(ending_);
    while (!ended_.wait_for(lock, num_idle_ == 0 ? kBusyInterval : kIdleInterval, [this] { return is_stopped_; })) {
        lock.unlock();
        for (Receiving* const calls : {&receiving_, &probing_}) calls->cancel_before(GrpcCall::Clock::now() - limit);
        take_in();
        // A thread may have become idle before it could see a call that was put aside.
        while (num_idle_ > 0) {
            GrpcCall* const call = take_waiting();
            if (call == nullptr) break;
            handle(*call);
        }
        lock.lock();
    }
}

// While all threads are busy, put aside the calls that have arrived.
void GrpcServer::take_in() {
    void* tag = nullptr;
    bool ok = false;
    const gpr_timespec now = gpr_time_0(GPR_CLOCK_MONOTONIC);
    while (num_idle_ == 0 && queue_->AsyncNext(&tag, &ok, now) == grpc::CompletionQueue::GOT_EVENT)
        if (GrpcCall* const call = advance(*static_cast<Tag*>(tag), ok)) push_waiting(call);
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
        take_in();
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
        if (call.stage() == GrpcCall::Stage::kWatch) health_.left(call);
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
            list_of(call).remove(call);
            return received(call, ok);
        case GrpcCall::Stage::kWatch:
            health_.written(call, ok);
            return nullptr;
        default:
            call.finished(ok);
            release(call);
            return nullptr;
    }
}

GrpcCall* GrpcServer::begin(GrpcCall& call) {
    call.begin(options_.default_s, options_.longest_s);
    const bool is_health = call.method().starts_with(kHealth);
    const std::string_view name = std::string_view(call.method()).substr(is_health ? kHealth.size() : 0);
    if (!is_health && !call.is_authorized(options_.authorizations)) {
        handler_.refused(kUnauthenticated);
        call.refuse(kUnauthenticated, "a call must have metadata authorization: Bearer TOKEN");
    } else if (is_health ? name != "Check" && name != "Watch" : !options_.has_rank || name != method_) {
        call.refuse(kUnimplemented, "Method not found!");
    } else if (!list_of(call).add(call)) {
        refuse_waiting(call);
    } else {
        call.read();
    }
    return nullptr;
}

GrpcServer::Receiving& GrpcServer::list_of(const GrpcCall& call) {
    return call.method().starts_with(kHealth) ? probing_ : receiving_;
}

void GrpcServer::refuse_waiting(GrpcCall& call) {
    handler_.refused(kResourceExhausted);
    call.refuse(kResourceExhausted, "at most " + std::to_string(options_.max_waiting) + " requests may wait");
}

GrpcCall* GrpcServer::received(GrpcCall& call, bool ok) {
    if (!ok) {
        call.refuse(kUnimplemented, "a call must have one message");
        return nullptr;
    }
    call.hold_message();
    if (call.method() != method_) {
        if (call.method().ends_with("Check")) {
            health_.check(call);
        } else {
            health_.watch(call);
        }
        return nullptr;
    }
    if (num_waiting_ >= options_.max_waiting) {
        refuse_waiting(call);
        return nullptr;
    }
    call.place = shedder_.enter(call.left_s());
    if (call.place == 0) {
        handler_.refused(kResourceExhausted);
        const std::string before = std::to_string(shedder_.num_inside());
        call.refuse(kResourceExhausted, "request would end after its deadline: " + before + " are before it");
        return nullptr;
    }
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
