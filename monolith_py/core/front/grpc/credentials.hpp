// TLS of a server whose certificates may be replaced while it runs.
#pragma once

#include <grpc/grpc_security.h>
#include <grpcpp/security/server_credentials.h>

#include <mutex>
#include <string>

#include "front/transport.hpp"

namespace monolith::front {

// Each new connection uses the certificates set last. Outlives its server.
class ReloadedCredentials final : public grpc::ServerCredentials {
  public:
    explicit ReloadedCredentials(Certificates certificates);

    void set(Certificates certificates);
    void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& processor) override;

  private:
    int AddPortToServer(const std::string& address, grpc_server* server) override;
    static grpc_ssl_certificate_config_reload_status fetch(void* self, grpc_ssl_server_certificate_config** config);

    std::mutex mutex_;
    Certificates certificates_;
    bool is_new_ = true;
};

}  // namespace monolith::front
