// Rows put into a table, taken out of it, and read by fid. Included only by bindings/table.cpp.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/table.hpp"

namespace {

using namespace nb::literals;

using Counts16 = nb::ndarray<const uint16_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Times = nb::ndarray<const int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

inline void expect_finite(const char* name, const float* values, size_t n) {
    if (!std::all_of(values, values + n, [](float value) { return std::isfinite(value); }))
        throw std::invalid_argument(std::string(name) + " must be finite, got NaN or Inf; no row was changed");
}

void assign(Table& t, const Fids& fids, const ConstMatrix& weights, int64_t now_s,
            const std::optional<ConstMatrix>& state, const std::optional<Counts16>& counts,
            const std::optional<Times>& seen_s) {
    const size_t n = fids.size();
    const RowsView rows = t.table.rows();
    expect_time(now_s);
    expect_matrix("weights", n, rows.dim, weights);
    if (state) expect_matrix("state", n, rows.state_width, *state);
    if (counts) expect("counts", n, counts->size());
    if (seen_s) {
        expect("seen_s", n, seen_s->size());
        for (size_t i = 0; i < n; ++i) expect_time(seen_s->data()[i]);
    }
    nb::gil_scoped_release nogil;
    expect_finite("weights", weights.data(), weights.size());
    if (state) expect_finite("state", state->data(), state->size());
    std::unique_lock lock(t.mutex);
    t.table.assign({fids.data(), n, weights.data(), state ? state->data() : nullptr, counts ? counts->data() : nullptr,
                    seen_s ? seen_s->data() : nullptr},
                   now_s);
}

nb::object removed(Table& t, const Fids& fids) {
    std::vector<int64_t> removed;
    {
        nb::gil_scoped_release nogil;
        std::unique_lock lock(t.mutex);
        removed = t.table.remove(fids.data(), fids.size());
    }
    return vector_array(removed);
}

// All fids with a row, sorted.
nb::object row_fids(Table& t) {
    std::vector<int64_t> fids;
    {
        nb::gil_scoped_release nogil;
        std::shared_lock lock(t.mutex);
        fids.reserve(t.table.num_rows());
        t.table.for_each([&](int64_t fid, uint32_t row, uint16_t, int64_t) {
            if (row != kNoRow) fids.push_back(fid);
        });
        lock.unlock();
        std::sort(fids.begin(), fids.end());
    }
    return vector_array(fids);
}

// Of the fids that have a row: fids, weights, state, counts of sightings, last sightings.
nb::tuple read(Table& t, const Fids& fids) {
    const RowsView rows = t.table.rows();
    std::vector<int64_t> found, seen_s;
    std::vector<uint16_t> counts;
    std::unique_ptr<float[]> weights, state;
    {
        nb::gil_scoped_release nogil;
        weights.reset(new float[fids.size() * rows.dim + 1]);
        state.reset(new float[fids.size() * rows.state_width + 1]);
        std::shared_lock lock(t.mutex);
        for (size_t i = 0; i < fids.size(); ++i)
            t.table.visit(fids.data()[i], [&](uint32_t row, uint16_t count, int64_t seen) {
                std::copy_n(t.table.weights(row), rows.dim, &weights[found.size() * rows.dim]);
                std::copy_n(t.table.state(row), rows.state_width, &state[found.size() * rows.state_width]);
                found.push_back(fids.data()[i]);
                counts.push_back(count);
                seen_s.push_back(seen);
            });
    }
    return nb::make_tuple(vector_array(found), matrix_array(std::move(weights), found.size(), rows.dim),
                          matrix_array(std::move(state), found.size(), rows.state_width), vector_array(counts),
                          vector_array(seen_s));
}

void bind_edits(nb::class_<Table>& table) {
    table.def_prop_ro("state_width", [](const Table& t) { return t.table.rows().state_width; })
        .def("assign", &assign, nb::arg("fids").noconvert(), nb::arg("weights").noconvert(), "now_s"_a,
             nb::arg("state").noconvert().none() = nb::none(), nb::arg("counts").noconvert().none() = nb::none(),
             nb::arg("seen_s").noconvert().none() = nb::none())
        .def("remove", &removed, nb::arg("fids").noconvert())
        .def("clear",
             [](Table& t) {
                 nb::gil_scoped_release nogil;
                 std::unique_lock lock(t.mutex);
                 t.table.clear();
             })
        .def(
            "shrink",
            [](Table& t, double bytes) {
                nb::gil_scoped_release nogil;
                std::unique_lock lock(t.mutex);
                t.table.shrink(bytes);
            },
            "bytes"_a)
        .def_prop_ro("used_bytes",
                     [](Table& t) {
                         std::shared_lock lock(t.mutex);
                         return t.table.used_bytes();
                     })
        .def_prop_ro("num_free_rows",
                     [](Table& t) {
                         std::shared_lock lock(t.mutex);
                         return t.table.num_free_rows();
                     })
        .def("row_fids", &row_fids)
        .def("read", &read, nb::arg("fids").noconvert());
}

}  // namespace
