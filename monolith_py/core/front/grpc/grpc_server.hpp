// gRPC server of one method, by a few threads on one completion queue.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "front/grpc/credentials.hpp"
#include "front/grpc/grpc_call.hpp"
#include "front/grpc/health.hpp"
#include "front/shedder.hpp"
#include "front/transport.hpp"

namespace monolith::front {

// A thread handles a call as soon as its message is there. While all threads are busy, each takes between two calls
// whatever has arrived, and refuses at once what would end too late; one more thread does the same during long calls.
class GrpcServer final : public Server {
  public:
    GrpcServer(ServerOptions options, Handler& handler);
    ~GrpcServer() override;

    // Return whether the ports are taken; the reason is in `error` otherwise.
    bool start(std::string& error);

    int port() const override { return port_; }
    void set_serving(bool is_serving) override;
    void set_certificates(Certificates certificates) override;
    void begin_drain() override;
    void stop(double finish_s) override;

  private:
    // Calls whose message has not arrived, oldest first.
    class Receiving {
      public:
        explicit Receiving(size_t limit) : limit_(limit) {}

        // Return false if there are as many as the limit.
        bool add(GrpcCall& call);
        void remove(GrpcCall& call);
        void cancel_before(GrpcCall::Clock::time_point time);

      private:
        const size_t limit_;
        std::mutex mutex_;
        GrpcCall *first_ = nullptr, *last_ = nullptr;
        size_t num_calls_ = 0;
    };

    void take_in();
    void run();
    void watch();
    void accept();
    // Do the next step of a call; return it if it is to be handled now.
    GrpcCall* advance(const Tag& tag, bool ok);
    GrpcCall* begin(GrpcCall& call);
    GrpcCall* received(GrpcCall& call, bool ok);
    Receiving& list_of(const GrpcCall& call);
    void refuse_waiting(GrpcCall& call);
    void release(GrpcCall& call);
    void handle(GrpcCall& call);
    GrpcCall* take_waiting();
    void push_waiting(GrpcCall* call);

    const ServerOptions options_;
    const std::string method_;
    Handler& handler_;
    std::shared_ptr<ReloadedCredentials> credentials_;
    grpc::AsyncGenericService service_;
    std::unique_ptr<grpc::ServerCompletionQueue> queue_;
    std::unique_ptr<grpc::Server> server_;
    Health health_;
    int port_ = 0;
    Shedder shedder_;
    Receiving receiving_;  // calls of Rank
    Receiving probing_;    // health checks
    std::mutex mutex_;     // of `waiting_`
    std::deque<GrpcCall*> waiting_;
    std::atomic<size_t> num_waiting_{0}, num_idle_{0}, num_live_{0};
    std::mutex ending_;
    std::condition_variable ended_;
    bool is_stopped_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace monolith::front
