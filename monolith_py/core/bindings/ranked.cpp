// Python bindings of an answered request, and of its impression.
#include <nanobind/stl/pair.h>

#include <deque>

#include "bindings/arrays.hpp"
#include "bindings/encoded.hpp"
#include "bindings/module.hpp"
#include "ranking/answer.hpp"

namespace {

using namespace monolith;
using namespace monolith::ranking;

const char* name_of(Status status) {
    switch (status) {
        case Status::kDone:
            return "done";
        case Status::kMissing:
            return "missing";
        case Status::kOverloaded:
            return "overloaded";
        case Status::kLate:
            return "late";
        case Status::kNotFinite:
            return "not_finite";
        default:
            return "other";
    }
}

nb::list encode(const codec::ImpressionEncoder& encoder, const std::vector<const Ranked*>& served) {
    for (const Ranked* one : served)
        if (one == nullptr || one->status != Status::kDone) refuse("served must be answered requests");
    std::deque<ServedRanked> requests;
    for (const Ranked* one : served) requests.emplace_back(*one);
    return encoded(requests.size(), encoder,
                   [&](size_t i) -> const codec::ServedRequest& { return requests[i].request; });
}

}  // namespace

void bind_ranked(nb::module_& m) {
    nb::class_<Ranked>(m, "RankedRequest")
        .def_prop_ro("status", [](const Ranked& ranked) { return name_of(ranked.status); })
        .def_ro("request_id", &Ranked::request_id)
        .def_ro("time_ms", &Ranked::time_ms)
        .def_ro("logs_impression", &Ranked::logs_impression)
        .def_ro("is_complete", &Ranked::is_complete)
        .def_ro("expected_s", &Ranked::expected_s)
        .def_ro("num_scored", &Ranked::num_scored)
        .def_prop_ro("num_candidates", [](const Ranked& ranked) { return ranked.item_ids.size(); })
        .def_prop_ro("num_bytes", &Ranked::num_bytes)
        .def_prop_ro("response",
                     [](const Ranked& ranked) { return nb::bytes(ranked.response.data(), ranked.response.size()); })
        .def_prop_ro("missing_users", [](const Ranked& ranked) { return ranked.missing.users; })
        .def_prop_ro("missing_items", [](const Ranked& ranked) { return ranked.missing.items; })
        .def_prop_ro("missing_counters", [](const Ranked& ranked) { return ranked.missing.counters; });
    m.def("encode_ranked", &encode, nb::arg("encoder"), nb::arg("served"));
}
