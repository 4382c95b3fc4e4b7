// Border between a gRPC server, which is a library of its own, and the code that answers its calls. Only virtual
// functions and the C entry cross it, so neither library needs a symbol of the other.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace monolith::front {

// Numbers of gRPC.
enum Code {
    kOk = 0,
    kCancelled = 1,
    kDeadlineExceeded = 4,
    kNotFound = 5,
    kResourceExhausted = 8,
    kUnimplemented = 12,
    kInternal = 13,
    kUnavailable = 14,
    kUnauthenticated = 16,
    kNumCodes = 17,
};

// State that lives as long as a call.
struct Kept {
    virtual ~Kept() = default;
    // The call has ended; `is_answered`: an answer was handed to the connection before that.
    virtual void ended(bool is_answered) = 0;
};

// A call whose message has arrived. `answer` or `refuse` comes once, from any thread; the call may be gone after it.
class Call {
  public:
    virtual ~Call() = default;
    virtual std::string_view message() const = 0;
    virtual double left_s() const = 0;  // to the deadline
    virtual bool is_gone() const = 0;   // whether the caller has left
    virtual void answer(std::string_view response) = 0;
    virtual void refuse(Code code, std::string_view details) = 0;

    std::unique_ptr<Kept> kept;
};

// Answers calls on the threads of the server.
class Handler {
  public:
    virtual ~Handler() = default;
    // Return true once the call is answered or refused, false if another thread will do it.
    virtual bool handle(Call& call) = 0;
    // Count a call that the server has refused by itself.
    virtual void refused(Code code) = 0;
};

struct Certificates {
    std::string chain, key, client_authorities;  // PEM; no authorities: clients need no certificate
};

struct ServerOptions {
    std::string address;         // host:port
    std::string health_address;  // of health checks alone, without TLS and token; empty: none
    std::string service;         // of health checks, and of the method "Rank"
    size_t num_threads = 1, max_waiting = 1, max_message_bytes = 1;
    double default_s = 1, longest_s = 1;      // of calls: without a deadline, and at most
    double receive_s = 1;                     // for the message of a call
    int min_ping_interval_ms = 0;             // of clients on idle connections
    std::vector<std::string> authorizations;  // valid values of this metadata; none: any call is taken
    bool has_rank = true;                     // false: health checks alone
    bool has_tls = false;
    Certificates certificates;
};

class Server {
  public:
    virtual ~Server() = default;
    virtual int port() const = 0;
    virtual void set_serving(bool is_serving) = 0;
    virtual void set_certificates(Certificates certificates) = 0;
    // Report NOT_SERVING from now on.
    virtual void begin_drain() = 0;
    // Refuse new calls, cancel those that have not ended after `finish_s`, and wait for all to end.
    virtual void stop(double finish_s) = 0;
};

// Symbol of the library: returns a running server, or null with the reason in `error`.
using StartServer = Server* (*)(const ServerOptions& options, Handler& handler, std::string& error);
inline constexpr const char* kStartServer = "monolith_front_start";

}  // namespace monolith::front
