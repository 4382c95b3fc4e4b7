// Python bindings of the ranking path. A call holds its arguments, so a model and rows outlive the requests that use
// them.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "ranking/ranker.hpp"

namespace {

using namespace monolith;
using namespace monolith::ranking;

using ConstLengthRows = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Places = std::vector<uint32_t>;
// Features, those with live counters, width of the dense values, rows of sequences, places and widths of dense
// features.
using Group = std::tuple<Places, Places, uint32_t, Places, std::vector<std::pair<uint32_t, uint32_t>>>;
using Limits = std::tuple<size_t, size_t, int64_t, int64_t, int64_t, size_t, size_t>;
using Entity = std::tuple<uint32_t, uint32_t, uint32_t>;
using OwnColumns = std::pair<std::vector<std::string>, std::vector<std::pair<std::string, uint32_t>>>;

void check_group(const GroupOrder& group, size_t num_names) {
    for (uint32_t place : group.counters)
        if (place >= group.features.size()) refuse("a counter must be of a feature of its group");
    expect("sequences", group.features.size(), group.sequences.size());
    size_t width = 0;
    for (const auto& [place, values] : group.dense) {
        if (place >= num_names) refuse("a dense feature must have a name");
        width += values;
    }
    expect("dense features", group.width, width);
    for (uint32_t place : group.features)
        if (place >= num_names) refuse("a feature must have a name");
}

RequestOrder order_of(const Entity& user, const Entity& item, const OwnColumns& context, const OwnColumns& candidate,
                      const Group& shared, const Group& candidates, std::vector<float> no_counter,
                      std::vector<std::string> names) {
    RequestOrder order;
    order.user = {std::get<0>(user), std::get<1>(user), std::get<2>(user)};
    order.item = {std::get<0>(item), std::get<1>(item), std::get<2>(item)};
    order.context = {context.first, context.second};
    order.candidate = {candidate.first, candidate.second};
    order.shared = std::make_from_tuple<GroupOrder>(shared);
    order.candidates = std::make_from_tuple<GroupOrder>(candidates);
    order.no_counter = std::move(no_counter);
    order.names = std::move(names);
    const auto counted = [&](const GroupOrder& group) { return group.counters.size() * order.no_counter.size(); };
    const size_t of_shared = order.user.width + order.context.width();
    const size_t of_candidates = order.item.width + order.candidate.width();
    expect("shared", order.user.features() + order.context.sparse.size(), order.shared.features.size());
    expect("candidates", order.item.features() + order.candidate.sparse.size(), order.candidates.features.size());
    expect("dense of shared", of_shared + counted(order.shared), order.shared.width);
    expect("dense of candidates", of_candidates + counted(order.candidates), order.candidates.width);
    for (const GroupOrder* group : {&order.shared, &order.candidates}) check_group(*group, order.names.size());
    return order;
}

void put(EntityStore& store, const Fids& ids, const ConstLengthRows& lengths, const Fids& fids,
         const ConstMatrix& dense, int64_t expires_ms) {
    const size_t n = ids.size();
    expect("lengths", n, lengths.shape(0));
    expect("lengths", store.order().features(), lengths.shape(1));
    expect_matrix("dense", n, store.order().width, dense);
    size_t num_fids = 0;
    for (size_t i = 0; i < lengths.size(); ++i) {
        if (lengths.data()[i] < 0) refuse("lengths must be >= 0");
        num_fids += static_cast<size_t>(lengths.data()[i]);
    }
    expect("fids", num_fids, fids.size());
    nb::gil_scoped_release nogil;
    store.put(ids.data(), n, lengths.data(), fids.data(), dense.data(), expires_ms);
}

EntityStore& counter_of(Ranker& ranker, size_t number) {
    if (number >= ranker.num_counters()) refuse("number must be below " + std::to_string(ranker.num_counters()));
    return ranker.counter(number);
}

void expect_fit(const Ranker& ranker, const Model& model, const ReplicaRows& rows) {
    const ModelShape& shape = model.shape();
    const RequestOrder& order = ranker.order();
    expect("shared rows of the model", order.shared.num_rows(), model.pooled_shared());
    expect("candidate rows of the model", order.candidates.num_rows(), model.pooled_own());
    expect("shared dense features of the model", order.shared.width, shape.shared_dense);
    expect("candidate dense features of the model", order.candidates.width, shape.candidate_dense);
    for (const GroupOrder* group : {&order.shared, &order.candidates})
        for (uint32_t feature : group->features)
            if (feature >= rows.features().size() || rows.features()[feature].dim > shape.dim)
                refuse("rows must have at most dim " + std::to_string(shape.dim) + " for each feature of the model");
}

// Stores to read, by what the caller may do about missing entities.
constexpr int kFreshOnly = 0, kUnknownEntities = 2, kUnknownCounters = 3;

// A request of this size takes some 15 us. To hand the GIL to another thread and back costs more, up to twice as much
// as all of the request when 32 threads want it.
constexpr size_t kSmallBytes = 256;

// The result belongs to Python.
Ranked* rank(Ranker& ranker, const nb::bytes& value, const Model& model, const ReplicaRows& rows,
             std::tuple<std::string_view, std::string_view> names, std::tuple<int64_t, int64_t, double> times,
             std::pair<int64_t, int64_t> staleness_ms, int reading, bool is_quick) {
    expect_fit(ranker, model, rows);
    auto ranked = std::make_unique<Ranked>();
    Call call;
    call.bytes = {value.c_str(), value.size()};
    std::tie(call.own_id, call.model_version) = names;
    std::tie(call.now_ms, call.monotonic_ms, call.left_s) = times;
    std::tie(call.staleness_ms, call.event_staleness_ms) = staleness_ms;
    call.age = reading == kFreshOnly ? Age::kFresh : Age::kHeld;
    call.takes_absent_entities = reading >= kUnknownEntities;
    call.takes_absent = reading >= kUnknownCounters;
    call.is_quick = is_quick;
    std::optional<nb::gil_scoped_release> nogil;
    if (value.size() > kSmallBytes) nogil.emplace();
    ranker.rank(call, model, rows, *ranked);
    return ranked.release();
}

}  // namespace

void bind_ranking(nb::module_& m) {
    using namespace nb::literals;
    const auto array = [](const char* name) { return nb::arg(name).noconvert(); };
    nb::class_<Ranker>(m, "CoreRanker")
        .def(
            "__init__",
            [](Ranker* self, const Entity& user, const Entity& item, const OwnColumns& context,
               const OwnColumns& candidate, const Group& shared, const Group& candidates, std::vector<float> no_counter,
               std::pair<std::vector<std::string>, std::vector<std::string>> names, const Limits& limits,
               std::pair<size_t, size_t> store) {
                new (self) Ranker(order_of(user, item, context, candidate, shared, candidates, std::move(no_counter),
                                           std::move(names.first)),
                                  std::make_from_tuple<RequestLimits>(limits), std::move(names.second),
                                  {store.first, store.second});
            },
            "user"_a, "item"_a, "context"_a, "candidate"_a, "shared"_a, "candidates"_a, "no_counter"_a, "names"_a,
            "limits"_a, "store"_a)
        .def(
            "put_users",
            [](Ranker& self, const Fids& ids, const ConstLengthRows& lengths, const Fids& fids,
               const ConstMatrix& dense,
               int64_t expires_ms) { put(self.users(), ids, lengths, fids, dense, expires_ms); },
            array("ids"), array("lengths"), array("fids"), array("dense"), "expires_ms"_a)
        .def(
            "put_items",
            [](Ranker& self, const Fids& ids, const ConstLengthRows& lengths, const Fids& fids,
               const ConstMatrix& dense,
               int64_t expires_ms) { put(self.items(), ids, lengths, fids, dense, expires_ms); },
            array("ids"), array("lengths"), array("fids"), array("dense"), "expires_ms"_a)
        .def(
            "put_counters",
            [](Ranker& self, size_t number, const Fids& ids, const ConstLengthRows& lengths, const Fids& fids,
               const ConstMatrix& dense,
               int64_t expires_ms) { put(counter_of(self, number), ids, lengths, fids, dense, expires_ms); },
            "number"_a, array("ids"), array("lengths"), array("fids"), array("dense"), "expires_ms"_a)
        .def_prop_ro("num_entities", [](Ranker& self) { return self.users().size() + self.items().size(); })
        .def_prop_ro("num_bytes", [](Ranker& self) { return self.users().num_bytes() + self.items().num_bytes(); })
        .def("rank", &rank, "value"_a, "model"_a, "rows"_a, "names"_a, "times"_a, "staleness_ms"_a, "reading"_a,
             "is_quick"_a);
}
