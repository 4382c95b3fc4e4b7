// Python bindings of the pooled look-up and its backward pass.
#include "table/pooled.hpp"

#include <nanobind/stl/pair.h>

#include <algorithm>
#include <functional>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <utility>

#include "bindings/arrays.hpp"
#include "bindings/module.hpp"
#include "bindings/table.hpp"
#include "tower/interaction.hpp"

namespace {

using namespace monolith;

// Lock each distinct table once, in address order, so that two calls cannot deadlock.
template <typename Lock>
std::vector<Lock> lock_all(std::vector<Table*> tables) {
    std::sort(tables.begin(), tables.end());
    tables.erase(std::unique(tables.begin(), tables.end()), tables.end());
    std::vector<Lock> locks;
    for (Table* table : tables) locks.emplace_back(table->mutex);
    return locks;
}

// Features of a pooled call. `pooling`: 0 sums, 1 takes the mean, -n keeps the first n rows.
std::vector<Feature> features_of(const std::vector<Table*>& tables, const std::vector<int>& pooling) {
    expect("pooling", tables.size(), pooling.size());
    std::vector<Feature> features;
    for (size_t f = 0; f < tables.size(); ++f)
        features.push_back({&tables[f]->table,
                            pooling[f] < 0    ? Pooling::kFirst
                            : pooling[f] == 1 ? Pooling::kMean
                                              : Pooling::kSum,
                            pooling[f] < 0 ? static_cast<uint32_t>(-pooling[f]) : 0});
    return features;
}

void check_bags(const std::vector<Feature>& features, const Fids& offsets, const std::optional<ConstFloats>& scales,
                size_t num_fids, size_t num_bags, size_t width) {
    expect("offsets", features.size() * num_bags + 1, offsets.size());
    if (scales) expect("weights", num_fids, scales->size());
    size_t sum = 0;
    for (const Feature& feature : features) sum += feature.width();
    expect("row width", sum, width);
    const int64_t* const at = offsets.data();
    const size_t last = offsets.size() - 1;
    if (at[0] != 0) refuse("offsets must begin at 0, got " + std::to_string(at[0]));
    if (static_cast<size_t>(at[last]) != num_fids)
        refuse("offsets must end at the number of fids, " + std::to_string(num_fids) + ", got " +
               std::to_string(at[last]));
    // One vectorised test: a negative offset, or a step down between two non-negative ones, sets the top bit.
    uint64_t wrong = 0;
    for (size_t i = 0; i < last; ++i)
        wrong |= static_cast<uint64_t>(at[i + 1]) | (static_cast<uint64_t>(at[i + 1]) - static_cast<uint64_t>(at[i]));
    for (size_t i = 0; wrong >> 63 && i < last; ++i)
        if (at[i + 1] < at[i])
            refuse("offsets must not decrease, got " + std::to_string(at[i + 1]) + " after " + std::to_string(at[i]));
}

}  // namespace

void bind_pooled(nb::module_& m) {
    using namespace nb::literals;
    const nb::exception<NotFinite> not_finite(m, "NotFinite", PyExc_FloatingPointError);
    m.def(
        "offsets_of",
        [](const ConstLengths& lengths, const Offsets& offsets) {
            expect("offsets", lengths.size() + 1, offsets.size());
            offsets.data()[0] = 0;
            std::inclusive_scan(lengths.data(), lengths.data() + lengths.size(), offsets.data() + 1, std::plus<>(),
                                int64_t{0});
        },
        nb::arg("lengths").noconvert(), nb::arg("offsets").noconvert());
    m.def(
        "pooled_forward",
        [](const std::vector<Table*>& tables, const Fids& fids, const Fids& offsets,
           const std::optional<ConstFloats>& scales, const std::vector<int>& pooling, int64_t now_s,
           const std::vector<bool>& learns, const Matrix& pooled, const Rows& rows) {
            const std::vector<Feature> features = features_of(tables, pooling);
            check_bags(features, offsets, scales, fids.size(), pooled.shape(0), pooled.shape(1));
            expect_time(now_s);
            expect("rows", fids.size(), rows.size());
            expect("learns", features.size(), learns.size());
            nb::gil_scoped_release nogil;
            const Batch batch{features, offsets.data(), scales ? scales->data() : nullptr, pooled.shape(0),
                              pooled.shape(1)};
            const auto run = [&](const auto& /*locks*/) {
                pooled_forward(batch, fids.data(), now_s, learns, pooled.data(), rows.data());
                std::vector<uint64_t> released;
                for (const Feature& feature : features) released.push_back(feature.table->num_released());
                return released;
            };
            if (std::find(learns.begin(), learns.end(), true) != learns.end())
                return run(lock_all<std::unique_lock<std::shared_mutex>>(tables));
            return run(lock_all<std::shared_lock<std::shared_mutex>>(tables));
        },
        "tables"_a, nb::arg("fids").noconvert(), nb::arg("offsets").noconvert(), nb::arg("weights").noconvert().none(),
        "pooling"_a, "now_s"_a, "learns"_a, nb::arg("pooled").noconvert(), nb::arg("rows").noconvert());
    m.def(
        "pooled_backward",
        [](const std::vector<Table*>& tables, const Fids& fids, const Rows& rows, const std::vector<uint64_t>& released,
           const Fids& offsets, const std::optional<ConstFloats>& scales, const std::vector<int>& pooling,
           const ConstMatrix& gradients) {
            const std::vector<Feature> features = features_of(tables, pooling);
            check_bags(features, offsets, scales, rows.size(), gradients.shape(0), gradients.shape(1));
            expect("fids", rows.size(), fids.size());
            expect("released", features.size(), released.size());
            nb::gil_scoped_release nogil;
            const Batch batch{features, offsets.data(), scales ? scales->data() : nullptr, gradients.shape(0),
                              gradients.shape(1)};
            expect_bounded(gradients.data(), gradients.size());
            auto locks = lock_all<std::unique_lock<std::shared_mutex>>(tables);
            size_t num_dropped = 0;
            for (size_t f = 0; f < tables.size(); ++f) {
                expect_rows(tables[f]->table, rows.data() + batch.begin(f), batch.size(f));
                if (tables[f]->table.num_released() != released[f])
                    num_dropped += drop_freed(batch, f, fids.data(), rows.data());
            }
            return std::pair(pooled_backward(batch, rows.data(), gradients.data()), num_dropped);
        },
        "tables"_a, nb::arg("fids").noconvert(), nb::arg("rows").noconvert(), "released"_a,
        nb::arg("offsets").noconvert(), nb::arg("weights").noconvert().none(), "pooling"_a,
        nb::arg("gradients").noconvert());
}
