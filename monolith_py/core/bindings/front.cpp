// Python bindings of the C++ gRPC server and of the answers of its calls.
#include <dlfcn.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>

#include <stdexcept>
#include <tuple>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "front/rank_handler.hpp"

namespace {

using namespace monolith;
using namespace monolith::front;

// Python objects that a thread without the GIL has let go; freed by the next one that has it.
struct Graveyard {
    std::mutex mutex;
    std::vector<std::pair<nb::object, nb::object>> objects;

    void add(std::pair<nb::object, nb::object> pair) {
        std::lock_guard lock(mutex);
        objects.push_back(std::move(pair));
    }
    void clear() {
        std::vector<std::pair<nb::object, nb::object>> freed;
        std::lock_guard lock(mutex);
        freed.swap(objects);
    }
};

// Frees the Python objects of a model by the graveyard.
struct HeldModel {
    HeldModel(Graveyard& of, nb::object model, nb::object rows, std::string version)
        : graveyard(of), objects(std::move(model), std::move(rows)) {
        served.model = &nb::cast<const ranking::Model&>(objects.first);
        served.rows = &nb::cast<const ReplicaRows&>(objects.second);
        served.version = std::move(version);
    }
    ~HeldModel() { graveyard.add(std::move(objects)); }
    HeldModel(const HeldModel&) = delete;
    HeldModel& operator=(const HeldModel&) = delete;

    Graveyard& graveyard;
    std::pair<nb::object, nb::object> objects;
    ServedModel served;
};

StartServer entry_of(const std::string& library) {
    // Only this library sees gRPC's symbols: another copy of gRPC may be in the process.
    void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* const symbol = handle == nullptr ? nullptr : dlsym(handle, kStartServer);
    if (symbol == nullptr) throw std::runtime_error(dlerror());
    return reinterpret_cast<StartServer>(symbol);
}

// Handler and server.
class RankFront {
  public:
    RankFront(ranking::Ranker* ranker, const HandlerLimits& limits, std::string id_prefix,
              const std::array<double, Counts::kBounds>& bounds)
        : handler_(ranker, limits, std::move(id_prefix), bounds) {}
    ~RankFront() {
        nb::gil_scoped_release nogil;
        close();
        server_.reset();
    }
    RankFront(const RankFront&) = delete;
    RankFront& operator=(const RankFront&) = delete;

    RankHandler& handler() { return handler_; }

    int start(const std::string& library, const ServerOptions& options) {
        if (server_ != nullptr) refuse("a front starts once");
        std::string error;
        {
            nb::gil_scoped_release nogil;
            server_.reset(entry_of(library)(options, handler_, error));
        }
        if (server_ == nullptr) throw std::runtime_error(error);
        return server_->port();
    }
    Server& server() {
        if (server_ == nullptr) refuse("the front must be started");
        return *server_;
    }
    void set_model(nb::object model, nb::object rows, std::string version) {
        auto held = std::make_shared<HeldModel>(graveyard_, std::move(model), std::move(rows), std::move(version));
        const ServedModel* const served = &held->served;
        handler_.set_model({std::move(held), served});
        graveyard_.clear();
    }
    void clear_graveyard() { graveyard_.clear(); }
    void close() { handler_.close(); }

  private:
    Graveyard graveyard_;  // outlives the models
    RankHandler handler_;
    std::unique_ptr<Server> server_;
};

using Texts = std::tuple<std::string, std::string, std::string>;

ServerOptions options_of(const Texts& names, const std::tuple<size_t, size_t, size_t, int>& limits,
                         const std::tuple<double, double, double>& times, const std::vector<std::string>& tokens,
                         const std::optional<Texts>& certificates) {
    ServerOptions options;
    std::tie(options.service, options.address, options.health_address) = names;
    std::tie(options.num_threads, options.max_waiting, options.max_message_bytes, options.min_ping_interval_ms) =
        limits;
    std::tie(options.default_s, options.longest_s, options.receive_s) = times;
    for (const std::string& token : tokens) options.authorizations.push_back("Bearer " + token);
    options.has_tls = certificates.has_value();
    if (certificates) {
        Certificates& own = options.certificates;
        std::tie(own.chain, own.key, own.client_authorities) = *certificates;
    }
    return options;
}

nb::tuple take_ended(RankFront& front, double wait_s, double linger_s) {
    std::vector<RankHandler::Ranked> ranked;
    std::vector<RankHandler::Answered> answered;
    {
        nb::gil_scoped_release nogil;
        front.handler().take_ended(wait_s, linger_s, ranked, answered);
    }
    nb::list requests;
    for (RankHandler::Ranked& one : ranked) requests.append(nb::cast(one.release(), nb::rv_policy::take_ownership));
    front.clear_graveyard();
    return nb::make_tuple(requests, nb::cast(answered));
}

nb::tuple take_counts(RankFront& front) {
    const Counts counts = front.handler().take_counts();
    return nb::make_tuple(counts.codes, counts.durations, counts.duration_s, counts.candidates,
                          nb::make_tuple(counts.withheld_request, counts.withheld_features, counts.withheld_unanswered),
                          counts.lost);
}

QueuedCall& open(QueuedCall& call) {
    if (!call.is_open()) refuse("a call is answered once");
    return call;
}

void bind_call(nb::module_& m) {
    nb::class_<QueuedCall>(m, "FrontCall")
        .def_prop_ro("value",
                     [](QueuedCall& call) {
                         const std::string_view message = open(call).call().message();
                         return nb::bytes(message.data(), message.size());
                     })
        .def_prop_ro("left_s", [](QueuedCall& call) { return open(call).call().left_s(); })
        .def_prop_ro("is_active", [](QueuedCall& call) { return call.is_open() && !call.call().is_gone(); })
        .def(
            "answer",
            [](QueuedCall& call, const nb::bytes& value) { open(call).answer({value.c_str(), value.size()}, nullptr); },
            nb::arg("value"))
        .def(
            "refuse",
            [](QueuedCall& call, int code, const std::string& details) {
                if (code <= kOk || code >= kNumCodes) refuse("code must be 1 to 16");
                open(call).refuse(static_cast<Code>(code), details);
            },
            nb::arg("code"), nb::arg("details"));
}

}  // namespace

void bind_front(nb::module_& m) {
    using namespace nb::literals;
    bind_call(m);
    nb::class_<RankFront>(m, "RankFront")
        .def(
            "__init__",
            [](RankFront* self, ranking::Ranker* ranker, std::tuple<size_t, size_t, bool> limits, std::string id_prefix,
               const std::array<double, Counts::kBounds>& duration_bounds) {
                const auto [max_waiting, impression_bytes, keeps_impressions] = limits;
                new (self) RankFront(ranker, {max_waiting, impression_bytes, keeps_impressions}, std::move(id_prefix),
                                     duration_bounds);
            },
            "ranker"_a.none(), "limits"_a, "id_prefix"_a, "duration_bounds"_a, nb::keep_alive<1, 2>())
        .def(
            "start",
            [](RankFront& front, const std::string& library, const Texts& names,
               const std::tuple<size_t, size_t, size_t, int>& limits, const std::tuple<double, double, double>& times,
               const std::vector<std::string>& tokens, const std::optional<Texts>& certificates) {
                return front.start(library, options_of(names, limits, times, tokens, certificates));
            },
            "library"_a, "names"_a, "limits"_a, "times"_a, "tokens"_a, "certificates"_a.none())
        .def("set_model", &RankFront::set_model, "model"_a, "rows"_a, "version"_a)
        .def(
            "set_ages",
            [](RankFront& front, int64_t born_ms, int64_t watermark_ms) {
                front.handler().set_ages({born_ms, watermark_ms});
            },
            "born_ms"_a, "watermark_ms"_a)
        .def(
            "set_serving", [](RankFront& front, bool is_serving) { front.server().set_serving(is_serving); },
            "is_serving"_a, nb::call_guard<nb::gil_scoped_release>())
        .def(
            "set_certificates",
            [](RankFront& front, const Texts& certificates) {
                const auto& [chain, key, authorities] = certificates;
                front.server().set_certificates({chain, key, authorities});
            },
            "certificates"_a)
        .def(
            "begin_drain", [](RankFront& front) { front.server().begin_drain(); },
            nb::call_guard<nb::gil_scoped_release>())
        .def(
            "stop", [](RankFront& front, double finish_s) { front.server().stop(finish_s); }, "finish_s"_a,
            nb::call_guard<nb::gil_scoped_release>())
        .def("close", &RankFront::close, nb::call_guard<nb::gil_scoped_release>())
        .def(
            "next_call", [](RankFront& front) { return front.handler().next_call(); },
            nb::call_guard<nb::gil_scoped_release>())
        .def(
            "answer",
            [](RankFront& front, QueuedCall& call, const nb::bytes& value, uint64_t number) {
                front.handler().answer(open(call), {value.c_str(), value.size()}, number);
            },
            "call"_a, "value"_a, "number"_a)
        .def("take_ended", &take_ended, "wait_s"_a, "linger_s"_a)
        .def("take_counts", &take_counts);
}
