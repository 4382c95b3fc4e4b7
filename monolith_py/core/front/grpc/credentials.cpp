#include "front/grpc/credentials.hpp"

#include <grpc/grpc.h>

#include <utility>

namespace monolith::front {

ReloadedCredentials::ReloadedCredentials(Certificates certificates) : certificates_(std::move(certificates)) {}

void ReloadedCredentials::set(Certificates certificates) {
    std::lock_guard lock(mutex_);
    certificates_ = std::move(certificates);
    is_new_ = true;
}

void ReloadedCredentials::SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) {}

int ReloadedCredentials::AddPortToServer(const std::string& address, grpc_server* server) {
    const grpc_ssl_client_certificate_request_type asks =
        certificates_.client_authorities.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                 : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY;
    grpc_server_credentials* const credentials = grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(asks, &fetch, this));
    const int port = grpc_server_add_http2_port(server, address.c_str(), credentials);
    grpc_server_credentials_release(credentials);
    return port;
}

grpc_ssl_certificate_config_reload_status ReloadedCredentials::fetch(void* self,
                                                                     grpc_ssl_server_certificate_config** config) {
    auto& own = *static_cast<ReloadedCredentials*>(self);
    std::lock_guard lock(own.mutex_);
    if (!std::exchange(own.is_new_, false)) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const Certificates& now = own.certificates_;
    const grpc_ssl_pem_key_cert_pair pair{now.key.c_str(), now.chain.c_str()};
    // gRPC 1.51 ends the process where there are none, although it needs them for certificates of clients alone.
    const std::string& authorities = now.client_authorities.empty() ? now.chain : now.client_authorities;
    *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

}  // namespace monolith::front
