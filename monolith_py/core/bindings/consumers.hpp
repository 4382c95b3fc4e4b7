// Drains of a table's consumers, and rows packed as in them. Included only by bindings/table.cpp.
#pragma once

#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/settings.hpp"
#include "bindings/table.hpp"

namespace {

using namespace nb::literals;

// Returns the ticket, fids and weights of the touched rows, the evicted fids, and the digest of all rows if `encoded`.
nb::tuple drain(Table& t, const std::string& consumer, bool encoded) {
    size_t width = t.table.dim();
    if (encoded) {
        width = 0;
        for (const Slice& slice : t.table.settings().slices) width += encoded_bytes(slice.encoding, slice.dim);
    }
    TouchedSet::Drained drained;
    std::vector<int64_t> fids;
    std::unique_ptr<uint8_t[]> bytes;
    std::unique_ptr<float[]> weights;
    uint64_t digest = 0;
    {
        nb::gil_scoped_release nogil;
        std::unique_lock lock(t.mutex);
        drained = t.table.drain(consumer);
        t.table.evict_zeros(drained);
        for (const uint32_t row : drained.rows) fids.push_back(t.table.fid(row));
        if (encoded) {
            bytes.reset(new uint8_t[fids.size() * width + 1]);
            t.table.encode(drained.rows.data(), fids.size(), bytes.get(), width);
            digest = t.table.digest(consumer, drained, bytes.get(), width);
        } else {
            t.table.forget_digest(consumer);
            weights.reset(new float[fids.size() * width + 1]);
            t.table.gather(drained.rows.data(), fids.size(), weights.get());
        }
    }
    const nb::object rows = encoded ? matrix_array(std::move(bytes), fids.size(), width)
                                    : matrix_array(std::move(weights), fids.size(), width);
    return nb::make_tuple(drained.ticket, vector_array(fids), rows, vector_array(drained.evicted), digest);
}

// Digest of n packed rows, (n, R), of different fids.
uint64_t digest_rows(const Fids& fids, const ConstBytes& rows, const std::string& encoding) {
    expect("rows", fids.size(), rows.shape(0));
    const auto packed = named<Encoding>("encoding", encoding, kEncodings);
    nb::gil_scoped_release nogil;
    return rows_digest(fids.data(), rows.data(), fids.size(), rows.shape(1), packed);
}

// Rows of weights as bytes, (n, R), as a drain packs a slice of this encoding.
nb::object pack_rows(const ConstMatrix& weights, const std::string& encoding) {
    const size_t n = weights.shape(0);
    Slice slice;
    slice.dim = static_cast<uint32_t>(weights.shape(1));
    slice.encoding = named<Encoding>("encoding", encoding, kEncodings);
    if (slice.dim == 0 && encoded_bytes(slice.encoding, 0) > 0) refuse("weights must have a column, got none");
    const size_t width = encoded_bytes(slice.encoding, slice.dim);
    std::unique_ptr<uint8_t[]> bytes(new uint8_t[n * width + 1]);
    {
        nb::gil_scoped_release nogil;
        std::vector<uint32_t> rows(n);
        std::iota(rows.begin(), rows.end(), 0u);
        const RowsView view{const_cast<float*>(weights.data()), nullptr, slice.dim, 0};
        kernels().encode(view, &slice, 1, rows.data(), n, bytes.get(), width);
    }
    return matrix_array(std::move(bytes), n, width);
}

void bind_consumers(nb::class_<Table>& table) {
    table.def("drain", &drain, "consumer"_a, "encoded"_a)
        .def(
            "ack",
            [](Table& t, const std::string& consumer, uint64_t ticket) {
                std::unique_lock lock(t.mutex);
                t.table.ack(consumer, ticket);
            },
            "consumer"_a, "ticket"_a)
        .def(
            "touch",
            [](Table& t, const std::string& consumer, const Fids& fids) {
                nb::gil_scoped_release nogil;
                std::unique_lock lock(t.mutex);
                t.table.touch(consumer, fids.data(), fids.size());
            },
            "consumer"_a, nb::arg("fids").noconvert())
        .def(
            "forget",
            [](Table& t, const std::string& consumer) {
                std::unique_lock lock(t.mutex);
                return t.table.forget(consumer);
            },
            "consumer"_a)
        .def("waiting", [](Table& t) {
            std::shared_lock lock(t.mutex);
            return t.table.waiting();
        });
}

}  // namespace
