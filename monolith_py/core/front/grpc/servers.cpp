// The entry of the library.
#include <memory>
#include <string>
#include <utility>

#include "front/grpc/grpc_server.hpp"

namespace monolith::front {

namespace {

// The server of Rank, and one of health checks alone.
class Servers final : public Server {
  public:
    Servers(const ServerOptions& options, Handler& handler) : rank_(options, handler) {
        if (options.health_address.empty()) return;
        ServerOptions own = options;
        own.address = options.health_address;
        own.num_threads = 1;
        own.has_tls = own.has_rank = false;
        own.authorizations.clear();
        health_ = std::make_unique<GrpcServer>(std::move(own), handler);
    }

    bool start(std::string& error) { return rank_.start(error) && (health_ == nullptr || health_->start(error)); }
    int port() const override { return rank_.port(); }
    void set_serving(bool is_serving) override {
        rank_.set_serving(is_serving);
        if (health_ != nullptr) health_->set_serving(is_serving);
    }
    void set_certificates(Certificates certificates) override { rank_.set_certificates(std::move(certificates)); }
    void begin_drain() override {
        rank_.begin_drain();
        if (health_ != nullptr) health_->begin_drain();
    }
    void stop(double finish_s) override {
        rank_.stop(finish_s);
        if (health_ != nullptr) health_->stop(0);
    }

  private:
    GrpcServer rank_;
    std::unique_ptr<GrpcServer> health_;
};

}  // namespace

}  // namespace monolith::front

extern "C" __attribute__((visibility("default"))) monolith::front::Server* monolith_front_start(
    const monolith::front::ServerOptions& options, monolith::front::Handler& handler, std::string& error) {
    auto servers = std::make_unique<monolith::front::Servers>(options, handler);
    return servers->start(error) ? servers.release() : nullptr;
}
